"""A new budget on a finished search, and more of it, from the command line."""

from pathlib import Path

import pytest

from autocompress.search.ledger import read_records
from autocompress.search.study import open_study
from tests.cli.conftest import Commands
from tests.cli.test_search import SETTINGS


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: Commands) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(SETTINGS)
    shown = commands.run("search", "tiny.toml")
    assert shown.code == 0, shown.err
    return "tiny.toml"


def list_models(folder: str) -> set[str]:
    return {path.name for path in Path(folder, "objects").glob("*/*")}


def test_a_new_budget_starts_from_a_stored_search(tiny: str, commands: Commands) -> None:
    options = ["--set", "name=second", "--set", "budget.weights=0.25", "--from", "tiny"]

    planned = commands.run("search", tiny, *options, "--dry-run")
    shown = commands.run("search", tiny, *options)

    assert (planned.code, shown.code) == (0, 0), planned.err + shown.err
    said = " ".join(planned.out.split())
    assert "from tiny" in said
    assert "6 stored candidates, 3 of which" in said
    assert "it starts from its model at" in said
    assert "6 fast, 1 round, 1 full" in said
    assert "6 stored candidates" in " ".join(shown.out.split())
    records = read_records(open_study("second", "runs/second/study.db"))
    assert records[-1].stage == "full"
    assert records[0].base in list_models("runs/tiny") & list_models("runs/second")
    assert "begun from" in commands.run("status", "second").out
    stored = [path for path in Path("runs").glob("*/objects/*/*/*") if path.is_file()]
    # Linked, neither trained nor written again.
    assert len({path.stat().st_ino for path in stored}) < len(stored)


@pytest.mark.usefixtures("tiny")
def test_a_finished_search_is_extended_once(commands: Commands) -> None:
    shown = commands.run("resume", "tiny", "--evaluations", "+2", "--finalize-top", "2")
    again = commands.run("resume", "tiny")

    assert (shown.code, again.code) == (0, 0), shown.err + again.err
    records = read_records(open_study("tiny", "runs/tiny/study.db"))
    stages = [one.stage for one in records]
    assert stages[:8] == [*["fast"] * 3, "round", *["fast"] * 3, "full"]
    assert stages[8:10] == ["fast"] * 2
    assert set(stages[10:]) == {"full"}
    assert "is done" in again.out
    status = " ".join(commands.run("status", "tiny").out.split())
    assert "extended by 2 evaluations" in status
    assert "models wanted 2" in status


@pytest.mark.parametrize("wrong", ["2", "+0", "two", "+-1"])
def test_more_evaluations_are_asked_for_with_a_plus(
    wrong: str, storage: str, commands: Commands
) -> None:
    shown = commands.run("resume", "synthetic", "--storage", storage, "--evaluations", wrong)

    assert shown.code == 1
    assert f"--evaluations: want +N, which is N more than so far, got {wrong}" in shown.err
