"""Look at a search again and again, and show what is seen; loads Optuna."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.live import Live
from rich.table import Table
from rich.text import Text

from autocompress.cli.screen import open_console
from autocompress.cli.sights import View, describe_view, list_view
from autocompress.errors import EvaluationError, StudyLostError


def follow(
    see: Callable[[], View],
    show: Callable[[View | None, str], None],
    pause: Callable[[], object],
) -> None:
    """Show one look after the other until the search is done.

    Args:
        see: Looks at the study.
        show: Called with the latest look, if there was one, and with what is wrong since.
        pause: Called between two looks.

    Raises:
        EvaluationError: The search cannot go on.
    """
    latest: View | None = None
    while True:
        trouble = ""
        try:
            latest = see()
        except StudyLostError as error:
            trouble = str(error)
        show(latest, trouble)
        if latest is not None and not trouble:
            if latest.sight.todo == "failed":
                raise EvaluationError(latest.sight.error)
            if latest.sight.todo == "done":
                return
        pause()


@contextmanager
def show_views(head: Mapping[str, str]) -> Iterator[Callable[[View | None, str], None]]:
    """Give a function that shows looks: in place on a terminal, as lines elsewhere.

    Args:
        head: What stays the same.
    """
    console = open_console()
    if not console.is_terminal:
        said: list[str] = []

        def say(view: View | None, trouble: str) -> None:
            text = trouble or ("" if view is None else describe_view(view))
            # The time alone is no news.
            if said[-1:] != [text.partition(" ")[2]]:
                said[:] = [text.partition(" ")[2]]
                console.print(text, markup=False)

        yield say
        return
    with Live(console=console, auto_refresh=False) as live:

        def draw(view: View | None, trouble: str) -> None:
            live.update(make_table(head, view, trouble), refresh=True)

        yield draw


def make_table(head: Mapping[str, str], view: View | None, trouble: str) -> Table:
    """Return what is shown on a terminal: names, values, and what is wrong."""
    pairs = {**head, **({} if view is None else list_view(view))}
    if view is not None:
        pairs["seen"] = f"{view.now.astimezone():%Y-%m-%d %H:%M:%S}; Ctrl-C ends only this view"
    table = Table.grid(padding=(0, 2))
    for name, value in pairs.items():
        table.add_row(name, Text(value))
    if trouble:
        table.add_row("", Text(f"{trouble}; trying again", style="red"))
    return table
