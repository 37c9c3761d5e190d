"""A search whose run folder is in a store, from the command line of two machines."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from autocompress.cli.find import find_study
from autocompress.cli.results import list_models
from autocompress.report.frames import trials_frame
from autocompress.store.artifacts import load
from tests.cli.conftest import Commands
from tests.cli.test_search import SETTINGS

URL = "memory://runs/tiny"
PLACES = f'run_dir = "{URL}"\nstorage = "study.db"\n'


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stand in an empty folder of a machine whose cache is empty, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "first cache"))
    yield
    MemoryFileSystem.store.clear()


@pytest.mark.usefixtures("machine")
def test_another_machine_goes_on_and_takes_the_models_away(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("local.toml").write_text(SETTINGS)
    Path("tiny.toml").write_text(PLACES + SETTINGS)

    local = commands.run("search", "local.toml")
    first = commands.run("search", "tiny.toml")
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "second cache"))
    again = commands.run("resume", "tiny", "--storage", "study.db")
    other = commands.run("finalize", "tiny", "--storage", "study.db", "--trial", "0")
    report = commands.run("report", "tiny", "--storage", "study.db")

    for shown in (local, first, again, other, report):
        assert shown.code == 0, shown.err
    near, far = find_study("tiny"), find_study("tiny", "study.db")
    assert far.folder.place == URL
    columns = ["stage", "key", "energy", "artifact"]
    count = len(trials_frame(near.study))
    want, got = (trials_frame(one.study).head(count)[columns] for one in (near, far))
    assert got.equals(want)
    models = list_models(far)
    assert len(models) == 2
    for path in models.values():
        assert Path(path).is_relative_to(tmp_path / "second cache")
        load(path)
        shown = commands.run("evaluate", path, "--json")
        assert shown.code == 0, shown.err
    assert Path("runs/tiny/report.html").read_bytes() == MemoryFileSystem().cat_file(
        "/runs/tiny/report.html"
    )

    nobody = commands.run("clean", URL)
    folder = far.folder
    folder.write_json("0" * 64, {"value": 1})
    clean = [
        commands.run("clean", name, "--storage", "study.db", "--delete") for name in (URL, "tiny")
    ]

    assert "no study says what is needed here" in nobody.err
    assert " bytes freed" in clean[0].out
    assert "nothing can be freed" in clean[1].out
    assert folder.read_json("0" * 64) is None
    assert list_models(find_study("tiny", "study.db")) == models
