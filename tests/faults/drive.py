"""Searches in processes that faults befall."""

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from autocompress.errors import AutoCompressError, StudyBusyError, StudyLostError
from autocompress.search.budget import Budget
from autocompress.search.settings import SearchSettings
from tests.acknowledged import count_acknowledged
from tests.laws import Step, read_trajectory
from tests.service import Service, serve, start
from tests.workers import wait_until

ENDINGS = "endings.txt"
STOPPED = 3  # Exit status of a search that ended in a sentence.
LIMIT_S = 120.0  # Of every wait; busy machines take long.
BATCH = {"batch": 3, "asynchronous": 0}
PLACES = (
    "created", "asked", "evaluated", "written", "told", "excused", "cloned", "failed",
    "constrained",  # Only models have constraints to be set: near the end.
)  # fmt: skip


def make_service(
    folder: Path, mode: str = "batch", evaluations: int = 24, **changes: Any
) -> Service:
    """Return a search of one round with three workers."""
    folder.mkdir(parents=True, exist_ok=True)
    search = SearchSettings(evaluations=evaluations, batch=BATCH[mode], chains=2)
    usual: dict[str, Any] = {"workers": 3, "budget": Budget(weights=0.6), "delay_s": 0.05}
    return Service(folder=str(folder), search=search, **(usual | changes))


def run_through(folder: Path, service: Service) -> list[Step] | None:
    """Return the trajectory of a search that nothing befalls; None if it may differ."""
    if not service.search.batch:
        return None
    whole = make_service(folder, evaluations=service.search.evaluations, delay_s=0.0)
    serve(whole)
    return read_trajectory(whole.settings)


def serve_and_say(service: Service) -> None:
    """Search; an end in an error of ours is noted as a sentence and gives an exit status."""
    try:
        serve(service)
    except AutoCompressError as error:
        say(service, error)
        sys.exit(STOPPED)


def serve_and_die(service: Service, name: str, occurrence: int) -> None:
    """Search until checkpoint ``name`` is passed for that time, from 0; then die by SIGKILL."""
    act_at(service, name, occurrence, lambda: os.kill(os.getpid(), signal.SIGKILL))


def serve_and_pause(service: Service, name: str, occurrence: int) -> None:
    """Search; at that checkpoint, stand still until SIGCONT, as a machine that is frozen."""
    try:
        act_at(service, name, occurrence, lambda: os.kill(os.getpid(), signal.SIGSTOP))
    except AutoCompressError as error:
        say(service, error)
        sys.exit(STOPPED)


def act_at(service: Service, name: str, occurrence: int, act: Callable[[], None]) -> None:
    """Search; do something when checkpoint ``name`` is passed for that time, from 0."""
    passed = 0

    def checkpoint(here: str) -> None:
        nonlocal passed
        is_here = here == name
        passed += is_here
        if is_here and passed == occurrence + 1:
            act()

    serve(service, checkpoint)


def wait_and_serve(service: Service) -> None:
    """Search as soon as no other controller holds the study."""
    while True:
        try:
            serve(service)
        except (StudyBusyError, StudyLostError) as error:
            say(service, error)
            signal.sigtimedwait([], 0.05)  # Nothing says that it is free.
        else:
            return


def say(service: Service, error: AutoCompressError) -> None:
    """Note how a search ended."""
    with (Path(service.folder) / ENDINGS).open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {type(error).__name__}: {error}\n")


def read_endings(service: Service, pid: int | None = None) -> list[str]:
    """Return how searches ended, all or those of one process."""
    path = Path(service.folder) / ENDINGS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    split = [line.partition(" ") for line in lines]
    return [text for who, _, text in split if pid is None or int(who) == pid]


@contextmanager
def driving(target: Callable[..., None], *args: object) -> Iterator[ForkServerProcess]:
    """Give a process, which does not outlive the test."""
    process = start(target, *args)
    try:
        yield process
    finally:
        process.kill()
        process.join(LIMIT_S)


def wait_for_end(process: ForkServerProcess, limit_s: float = LIMIT_S) -> int | None:
    """Return the exit status of a process that ends within the limit."""
    process.join(limit_s)
    assert process.exitcode is not None, f"process {process.pid} still runs after {limit_s} s"
    return process.exitcode


def wait_for_decisions(service: Service, count: int, process: ForkServerProcess) -> None:
    """Wait until so many decisions were acknowledged, or the process has ended."""
    root = Path(service.folder)
    wait_until(
        lambda: count_acknowledged(root) >= count or not process.is_alive(), limit_s=LIMIT_S
    )


def finish(service: Service) -> None:
    """Search to the end in a process of its own."""
    with driving(serve_and_say, service) as process:
        assert wait_for_end(process) == 0, read_endings(service, process.pid)


def die_at_places(service: Service, places: Sequence[str], rng: random.Random) -> list[str]:
    """Search in processes that die between two writes; return where they died."""
    died = []
    for place in places:
        with driving(serve_and_die, service, place, rng.randrange(3)) as process:
            status = wait_for_end(process)
        if status == -signal.SIGKILL:
            died.append(place)
        else:
            assert status == 0, read_endings(service, process.pid)
    return died
