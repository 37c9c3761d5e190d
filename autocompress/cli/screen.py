"""How commands show pairs and tables on a terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

PIPED_WIDTH = 160


def open_console(*, stderr: bool = False) -> Console:
    """Return a console for the present standard output or error."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def print_pairs(pairs: Mapping[str, str]) -> None:
    """Print names and values in two columns."""
    width = max((len(name) for name in pairs), default=0)
    console = open_console()
    for name, value in pairs.items():
        console.print(f"{name:<{width}}  {value}", markup=False)


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is aligned left, the others right."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_edge=False)
    for place, name in enumerate(head):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = open_console()
    if not console.is_terminal:
        console.width = PIPED_WIDTH  # Into a file, a table keeps its columns whole.
    console.print(table)
