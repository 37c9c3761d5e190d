"""How far a search is: a live bar on a terminal, a plain line every ten seconds elsewhere."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from autocompress.cli.screen import open_console
from autocompress.search.progress import SearchProgress, Watch

LINE_EVERY_S = 10.0
PHASES = {
    "dense": "training the dense model",
    "latency": "measuring how long the layers take",
    "search": "scoring candidates",
    "round": "pruning to the best candidate",
    "full": "finishing the best candidate",
    "waiting": "waiting for the database",
    "done": "done",
    "stopped": "stopped",
}
BRIEF = {
    "dense": "dense training",
    "latency": "timing layers",
    "search": "scoring",
    "round": "pruning",
    "full": "finishing",
    "waiting": "no database",
    "done": "done",
    "stopped": "stopped",
}

BEFORE = ("dense", "latency")  # There are no rounds yet.


@contextmanager
def show_progress() -> Iterator[Watch]:
    """Give a function that shows how far a search is, on standard error."""
    console = open_console(stderr=True)
    show = _show_bar if console.is_terminal else _show_lines
    with show() as update:
        yield update


def describe_progress(now: SearchProgress) -> str:
    """Return one line: round, evaluations, best, accepted share, time left."""
    if now.phase in BEFORE:
        return PHASES[now.phase]
    parts = [
        f"round {now.round + 1} of {now.rounds}",
        PHASES[now.phase],
        f"{now.done} of {now.total} evaluations",
    ]
    if now.best is not None:
        parts.append(f"best energy {now.best:.4g}")
    if now.accepted_share is not None:
        parts.append(f"accepted {now.accepted_share:.0%}")
    if now.left_s is not None and now.phase not in ("done", "stopped"):
        parts.append(f"about {describe_time(now.left_s)} left")
    return ", ".join(parts)


def describe_time(seconds: float) -> str:
    """Return a duration as seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def _show_bar() -> Iterator[Watch]:
    """Show one line of 80 characters at most."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=open_console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None, figures="")

        def update(now: SearchProgress) -> None:
            where = "" if now.phase in BEFORE else f"{now.round + 1}/{now.rounds} "
            text, total = f"{where}{BRIEF[now.phase]}", now.total or None
            bar.update(
                task, description=text, completed=now.done, total=total, figures=list_figures(now)
            )

        yield update


def list_figures(now: SearchProgress) -> str:
    """Return evaluations, best, accepted share and time left in few characters."""
    parts = [f"{now.done}/{now.total}"] if now.total else []
    parts += [f"{now.running} run"] if now.running > 1 else []
    if now.best is not None:
        parts.append(f"best {now.best:.3g}")
    if now.accepted_share is not None:
        parts.append(f"acc {now.accepted_share:.0%}")
    if now.left_s is not None:
        parts.append(f"{describe_time(now.left_s)} left")
    return " ".join(parts)


@contextmanager
def _show_lines() -> Iterator[Watch]:
    """Print the latest state every ten seconds, also while one evaluation takes minutes."""
    console = open_console(stderr=True)
    latest: list[SearchProgress] = []
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(LINE_EVERY_S):
            if latest:
                console.print(describe_progress(latest[-1]), markup=False)

    def update(now: SearchProgress) -> None:
        latest[:] = [now]

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield update
    finally:
        ended.set()
        thread.join()
        if latest:
            console.print(describe_progress(latest[-1]), markup=False)
