from pathlib import Path

import pytest

from autocompress.search.controller import Wiring, hold_controller
from tests.cli.conftest import Commands
from tests.fakes import FakeEvaluator, make_search
from tests.postgres import PostgresServer


@pytest.fixture(params=["file", "server"])
def finished(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the database of a search that is done."""
    storage = f"sqlite:///{tmp_path}/study.db"
    if request.param == "server":
        server: PostgresServer = request.getfixturevalue("postgres")
        storage = server.make_database()
    settings = make_search(str(tmp_path / "run"), storage=storage)
    with hold_controller(settings, Wiring(make_evaluator=FakeEvaluator)) as controller:
        controller.run()
    return storage


def test_a_search_that_is_done_is_shown_once(finished: str, commands: Commands) -> None:
    shown = commands.run("watch", "fake", "--storage", finished)

    assert shown.code == 0, shown.err
    assert len(shown.out.splitlines()) == 1
    assert ", done, " in shown.out


def test_watching_needs_no_run_folder(
    finished: str, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)

    codes = [
        commands.run(name, "fake", "--storage", finished).code for name in ("watch", "status")
    ]

    assert codes == [0, 0]
    assert list(elsewhere.iterdir()) == []


def test_ctrl_c_ends_only_the_view(
    storage: str, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("threading.Event.wait", interrupt)

    shown = commands.run("watch", "synthetic", "--storage", storage)

    assert shown.code == 0
    assert shown.err == "stopped watching\n"


def test_a_study_that_is_missing_is_not_waited_for(storage: str, commands: Commands) -> None:
    shown = commands.run("watch", "other", "--storage", storage)

    assert shown.code == 1
    assert "studies there: synthetic" in shown.err


def test_too_many_looks_are_refused(storage: str, commands: Commands) -> None:
    shown = commands.run("watch", "synthetic", "--storage", storage, "--every", "0.1")

    assert shown.code == 1
    assert "--every: want 0.5 or more, got 0.1" in shown.err
