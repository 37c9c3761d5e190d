import io
from dataclasses import replace

import pytest
from rich.console import Console

from autocompress.cli import follow as module
from autocompress.cli.follow import follow, make_table, show_views
from autocompress.cli.sights import View
from autocompress.errors import EvaluationError, StudyError, StudyLostError
from autocompress.search.sight import Sight
from tests.cli.test_sights import NOW, VIEW

DONE = replace(VIEW, sight=replace(VIEW.sight, todo="done"))
AWAY = StudyLostError("one", "connection refused")
HEAD = {"study": "one"}


class Script:
    """Looks that were settled before, and what was shown of them."""

    def __init__(self, *looks: View | Exception) -> None:
        self.looks = [*looks]
        self.shown: list[tuple[View | None, str]] = []
        self.pauses = 0

    def see(self) -> View:
        look = self.looks.pop(0)
        if isinstance(look, Exception):
            raise look
        return look

    def show(self, view: View | None, trouble: str) -> None:
        self.shown.append((view, trouble))

    def pause(self) -> None:
        self.pauses += 1

    def follow(self) -> None:
        follow(self.see, self.show, self.pause)


def test_it_ends_with_the_search() -> None:
    script = Script(VIEW, VIEW, DONE, VIEW)

    script.follow()

    assert script.shown == [(VIEW, ""), (VIEW, ""), (DONE, "")]
    assert script.pauses == 2


def test_a_database_that_goes_away_is_waited_for() -> None:
    script = Script(AWAY, VIEW, AWAY, AWAY, DONE)

    script.follow()

    assert script.shown == [
        (None, str(AWAY)),
        (VIEW, ""),
        (VIEW, str(AWAY)),
        (VIEW, str(AWAY)),
        (DONE, ""),
    ]


def test_other_errors_end_it() -> None:
    with pytest.raises(StudyError, match="gone"):
        Script(VIEW, StudyError("gone")).follow()


def test_a_search_that_cannot_go_on_is_an_error() -> None:
    failed = replace(VIEW, sight=Sight(todo="failed", error="all failed"))
    script = Script(failed)

    with pytest.raises(EvaluationError, match="all failed"):
        script.follow()

    assert script.shown == [(failed, "")]


def test_into_a_pipe_only_what_is_new_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    later = replace(VIEW, now=NOW.replace(minute=59))

    with show_views(HEAD) as show:
        for view, trouble in (
            (VIEW, ""),
            (later, ""),
            (later, "away"),
            (later, "away"),
            (DONE, ""),
        ):
            show(view, trouble)

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines] == ["left", "away", "0.25"]


def test_on_a_terminal_the_view_stays_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr(module, "open_console", lambda: terminal)

    with show_views(HEAD) as show:
        show(None, "away")
        show(VIEW, "")

    assert isinstance(terminal.file, io.StringIO)
    assert "\x1b[1A" in terminal.file.getvalue()  # One line up, to draw over the first view.
    assert "process 42 on node7" in terminal.file.getvalue()


def test_what_is_wrong_stands_below_what_was_seen_last() -> None:
    console = Console(file=io.StringIO(), width=120)

    console.print(make_table(HEAD, VIEW, "away"))

    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[0].split() == ["study", "one"]
    assert lines[-1].strip() == "away; trying again"
    assert any(line.startswith("seen") for line in lines)
