"""The command that shows a search while it goes on, from any machine."""

import threading
from datetime import UTC, datetime
from typing import Annotated

import typer

from autocompress.cli.screen import open_console
from autocompress.cli.study import Storage, Study
from autocompress.errors import SettingError

LEAST_EVERY_S = 0.5


def watch(
    study: Study,
    storage: Storage = "",
    every: Annotated[float, typer.Option("--every", help="Seconds between two looks.")] = 5.0,
) -> None:
    """Show a search until it is done, from any machine; Ctrl-C ends the view, not the search."""
    from autocompress.cli.find import find_study
    from autocompress.cli.follow import follow, show_views
    from autocompress.cli.sights import list_head, view_study

    if not every >= LEAST_EVERY_S:
        raise SettingError(f"--every: want {LEAST_EVERY_S} or more, got {every:g}")
    found = find_study(study, storage)
    ended = threading.Event()
    try:
        with show_views(list_head(found)) as show:
            follow(lambda: view_study(found, datetime.now(UTC)), show, lambda: ended.wait(every))
    except KeyboardInterrupt:
        open_console(stderr=True).print("stopped watching", markup=False)
