"""What goes wrong in a worker; it imports little, so that workers start fast."""

import os
import resource
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autocompress.execute.base import Runner
from autocompress.jobs import Job, Outcome
from tests.formula import FormulaRunner

BLOCK_BYTES = 2**26
ROOM_BYTES = 2**28
PLACES = "places.txt"


@dataclass(frozen=True)
class Faulty:
    """Does something terrible at the first attempt at some jobs, then scores like another.

    Attributes:
        runner: Scores.
        kinds: Faults that happen in turns; each candidate is one's, by its key.
        most: How many happen of each kind.
    """

    runner: FormulaRunner
    kinds: Sequence[str]
    most: int

    def run(self, job: Job) -> Outcome:
        """Return the score of the job's candidate, if this is not the time for a fault."""
        key = job.key(self.runner.evaluation_hash)
        kind = self.kinds[int(key[8:12], 16) % len(self.kinds)]
        if job.stage == "fast" and claim(Path(self.runner.root), kind, key, self.most):
            FAULTS[kind]()
        return self.runner.run(job)


@dataclass(frozen=True)
class MakeFaulty:
    """Wraps a runner; survives pickle."""

    kinds: Sequence[str]
    most: int

    def __call__(self, runner: FormulaRunner) -> Runner:
        """Return the runner with faults."""
        return Faulty(runner, self.kinds, self.most)


def claim(root: Path, kind: str, key: str, most: int) -> bool:
    """Return whether a fault of this kind is to happen to this attempt; note it if so."""
    folder = root / "faults" / kind
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(most):
        try:
            with (folder / str(number)).open("x", encoding="utf-8") as file:
                file.write(key)
        except FileExistsError:
            if (folder / str(number)).read_text(encoding="utf-8") == key:
                return False  # Its first attempt was that.
        else:
            return True
    return False


def count_faults(root: Path, kind: str) -> int:
    """Return how many faults of a kind have happened."""
    return len(list((root / "faults" / kind).glob("*")))


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _overstep() -> None:
    """Allocate, really, until the system gives no more to this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * os.sysconf("SC_PAGESIZE") + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    blocks = []
    try:
        while True:
            blocks.append(bytearray(b"x") * BLOCK_BYTES)
    finally:
        blocks.clear()
        resource.setrlimit(resource.RLIMIT_AS, before)


def _grow_and_die() -> None:
    """Fill some memory, then end as the kernel ends whoever took too much."""
    block = bytearray(b"x") * BLOCK_BYTES
    assert block[-1]
    _kill()


def _hang() -> None:
    threading.Event().wait()


FAULTS = {"kill": _kill, "memory": _overstep, "killed for memory": _grow_and_die, "hang": _hang}


@dataclass(frozen=True)
class Located:
    """Notes which process of the system started the one that scores; on Ray, its machine's."""

    runner: FormulaRunner

    def run(self, job: Job) -> Outcome:
        """Return the score of the job's candidate."""
        note_place(Path(self.runner.root), "begin")
        outcome = self.runner.run(job)
        note_place(Path(self.runner.root), "end")
        return outcome


def note_place(root: Path, what: str) -> None:
    """Add a line with our process and its parent."""
    with (root / PLACES).open("a", encoding="utf-8") as file:
        file.write(f"{what} {os.getpid()} {os.getppid()}\n")


def read_places(root: Path, parent: int) -> list[str]:
    """Return what the children of a process have begun and ended, in order."""
    path = root / PLACES
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [line.split()[0] for line in lines if line.split()[2] == str(parent)]
