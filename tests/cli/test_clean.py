import shutil
from pathlib import Path

import pytest

from autocompress.search.spec import Settings, make_spec
from autocompress.search.study import hold_study
from autocompress.store.run_folder import RunFolder
from tests.cli.conftest import Commands

DENSE, LOST = "ab" * 32, "cd" * 32
SIZE = 1234
SPEC = make_spec(Settings(name="tiny"))


def write_dense(folder: Path) -> None:
    (folder / "dense.json").write_bytes(b"x" * SIZE)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a working folder with a begun study, its dense model and one of nobody."""
    folder = tmp_path_factory.mktemp("prepared")
    run = folder / "runs" / "tiny"
    with hold_study("tiny", str(run / "study.db"), SPEC) as held:
        held.study.set_user_attr("dense_key", DENSE)
        held.study.set_user_attr("run_dir", "runs/tiny")
    RunFolder(run).write(DENSE, write_dense)
    RunFolder(run).write(LOST, write_dense)
    return folder


@pytest.fixture
def run(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """Return the run folder of a copy that the commands stand in."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return RunFolder(tmp_path / "runs" / "tiny")


@pytest.mark.parametrize("where", ["tiny", "runs/tiny", "runs/../runs/tiny/"])
def test_what_can_be_freed_is_shown_and_then_freed(
    where: str, run: RunFolder, commands: Commands
) -> None:
    shown = commands.run("clean", where)
    kept = run.has(LOST)
    freed = commands.run("clean", where, "--delete")
    again = commands.run("clean", where, "--delete")

    assert (shown.code, freed.code, again.code) == (0, 0, 0), shown.err + freed.err
    assert "1,234 bytes can be freed; add --delete to do it" in shown.out
    assert "1,234 bytes freed" in freed.out
    assert "nothing can be freed" in again.out
    row = next(line for line in shown.out.splitlines() if line.startswith("dense models"))
    assert row.split()[2:] == ["1", "1,234", "1", "1,234"]
    assert kept
    assert run.has(DENSE)
    assert not run.has(LOST)


def test_a_study_elsewhere_counts_when_it_is_named(run: RunFolder, commands: Commands) -> None:
    other = shutil.copy(run.root / "study.db", run.root.parent / "far.db")
    with hold_study("tiny", str(other), SPEC) as held:
        held.study.set_user_attr("dense_key", LOST)

    shown = commands.run("clean", "runs/tiny", "--storage", str(other))

    assert "nothing can be freed" in shown.out


def test_nothing_is_freed_while_a_search_runs(run: RunFolder, commands: Commands) -> None:
    with hold_study("tiny", str(run.root / "study.db"), SPEC):
        shown = commands.run("clean", "tiny", "--delete")

    assert shown.code == 1
    assert "study 'tiny' is in use by another controller" in shown.err
    assert run.has(LOST)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["other"], "no database at runs/other/study.db"),
        (["runs"], "runs: no run folder"),
        (["runs/tiny", "--storage", "far.db"], "storage: no database at far.db"),
    ],
)
@pytest.mark.usefixtures("run")
def test_an_error_is_one_sentence(arguments: list[str], sentence: str, commands: Commands) -> None:
    shown = commands.run("clean", *arguments, "--delete")

    assert shown.code == 1
    assert sentence in shown.err
    assert shown.err.count("\n") == 1


def test_a_folder_without_a_study_is_left_alone(run: RunFolder, commands: Commands) -> None:
    (run.root / "study.db").unlink()

    shown = commands.run("clean", "runs/tiny", "--delete")

    assert shown.code == 1
    assert "no study says what is needed here, so nothing is freed" in shown.err
    assert run.has(LOST)


def test_a_study_of_the_environment_counts(
    run: RunFolder, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = shutil.copy(run.root / "study.db", run.root.parent / "far.db")
    with hold_study("tiny", str(other), SPEC) as held:
        held.study.set_user_attr("dense_key", LOST)
    monkeypatch.setenv("AUTOCOMPRESS_STORAGE", str(other))

    shown = commands.run("clean", "runs/tiny")

    assert "nothing can be freed" in shown.out
