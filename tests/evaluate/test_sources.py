import subprocess
import sys
from pathlib import Path

import pytest

from autocompress.errors import SettingError
from autocompress.evaluate.sources import MOST_BYTES, collect_sources, install_sources
from autocompress.evaluate.task import TaskSettings
from autocompress.zoo.make import ModelSettings

LOSSES = "from beside import FACTOR\nfrom around.inner import ADDED\n\n\ndef score(a, b): ...\n"
FILES = {
    "losses.py": LOSSES,
    "beside.py": "FACTOR = 2\n",
    "around/__init__.py": "",
    "around/inner.py": "ADDED = 1\n",
    "around/data.csv": "1,2\n",
    "notes/draft.py": "# no package\n",
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder of modules that this process can import."""
    folder = tmp_path / "own"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.mark.usefixtures("own")
def test_modules_beside_a_function_are_taken_along() -> None:
    files = collect_sources(TaskSettings(loss="losses:score"))

    assert sorted(files) == ["around/__init__.py", "around/inner.py", "beside.py", "losses.py"]
    assert bytes(files["losses.py"]).decode() == LOSSES


@pytest.mark.usefixtures("own")
def test_a_folder_named_by_a_function_is_taken_along() -> None:
    files = collect_sources(TaskSettings(model=ModelSettings(name="notes.draft:make")))

    assert "notes/draft.py" in files


@pytest.mark.parametrize(
    "task",
    [
        TaskSettings(),
        TaskSettings(loss="torch.nn.functional:cross_entropy"),
        TaskSettings(model=ModelSettings(name="autocompress.zoo.lenet:LeNet5")),
        TaskSettings(metric="math:dist"),
    ],
)
def test_what_is_installed_stays(task: TaskSettings) -> None:
    assert collect_sources(task) == {}


def test_a_module_that_is_missing_is_a_setting() -> None:
    with pytest.raises(SettingError, match="no module named 'nowhere'"):
        collect_sources(TaskSettings(loss="nowhere:score"))


def test_too_many_bytes_are_refused(own: Path) -> None:
    (own / "large.py").write_bytes(b"#" * MOST_BYTES)

    with pytest.raises(SettingError, match="want at most 16,777,216"):
        collect_sources(TaskSettings(loss="losses:score"))


@pytest.mark.usefixtures("own")
def test_a_fresh_process_imports_what_was_taken_along(tmp_path: Path) -> None:
    files = collect_sources(TaskSettings(loss="losses:score"))
    before = list(sys.path)

    install_sources(files, tmp_path / "there")
    after = list(sys.path)
    sys.path[:] = before

    added = str(tmp_path / "there")
    assert after == [*before, added]
    code = "import losses; assert losses.FACTOR + losses.ADDED == 3"
    subprocess.run([sys.executable, "-c", code], cwd=added, check=True)
