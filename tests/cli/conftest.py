import shutil
from pathlib import Path
from typing import NamedTuple

import optuna
import pytest

from autocompress.cli import main
from autocompress.search.spec import Settings, make_spec
from autocompress.search.storage import make_storage
from tests.synthetic import make_study


class Shown(NamedTuple):
    """What a command line ended with and printed."""

    code: int
    out: str
    err: str


class Commands:
    """Runs command lines in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def run(self, *arguments: str) -> Shown:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        captured = self.capsys.readouterr()
        return Shown(int(caught.value.code or 0), captured.out, captured.err)


@pytest.fixture
def commands(capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(capsys)


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the database of a study of 12 fast trials and 2 finished models without files."""
    path = tmp_path_factory.mktemp("stored") / "study.db"
    spec = make_spec(Settings(name="synthetic"))
    make_study(12, storage=make_storage(f"sqlite:///{path}"), spec=spec)
    return path


@pytest.fixture
def storage(stored: Path, tmp_path: Path) -> str:
    """Return the URL of a copy of that study, with its run folder beside it."""
    shutil.copy(stored, tmp_path / "study.db")
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.load_study(study_name="synthetic", storage=make_storage(url))
    study.set_user_attr("run_dir", str(tmp_path / "run"))
    return url
