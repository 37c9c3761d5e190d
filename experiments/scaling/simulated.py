"""Workers that are simulated, on a clock of their own that the controller's real time moves on.

Between two calls of the executor the simulated clock advances by the seconds that the controller
really spent: a controller that is too slow for so many workers leaves them idle here as it would
on a cluster.
"""

import heapq
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from autocompress.execute.base import Runner, read_outcome
from autocompress.jobs import Job, Outcome, Stage
from autocompress.store.run_folder import RunFolder

SIGMA = 0.5  # Of the logarithm of a job's seconds.
SCHEDULE = Path("/proc/thread-self/schedstat")


def read_alone_s() -> float:
    """Return the time without what this thread waited for a core that others had.

    Waiting for the disk or for a database counts. Only on Linux.
    """
    now_s = time.perf_counter()
    return now_s - int(SCHEDULE.read_text(encoding="ascii").split()[1]) / 1e9


METERS = {"wall": time.perf_counter, "alone": read_alone_s}


@dataclass(frozen=True, kw_only=True)
class Stint:
    """What one job took, in simulated seconds.

    Attributes:
        stage: Of the job.
        asked_s: When it was submitted.
        start_s: When a worker began with it.
        end_s: When that worker was done.
    """

    stage: Stage
    asked_s: float
    start_s: float
    end_s: float


@dataclass
class Log:
    """What happened in a simulation.

    Attributes:
        stints: Every job that a worker began, in the order of submission.
        cycles: Seconds of each meter that the controller spent from one answer to its next
            question; the first is what it spent before it waited for the first time.
        flying: Jobs in flight whenever the controller began to wait.
    """

    stints: list[Stint] = field(default_factory=list)
    cycles: list[tuple[float, ...]] = field(default_factory=list)
    flying: list[int] = field(default_factory=list)


class SimulatedPool:
    """An executor of simulated workers; each begins the oldest job that waits, by itself.

    Results are stored in the run folder before the controller hears of them, which is charged to
    the controller: where no filesystem is shared, it does so.

    Attributes:
        slots: Jobs in flight: one per worker, and those ahead.
        now_s: The simulated clock.
        log: What happened so far.
    """

    def __init__(
        self,
        runner: Runner,
        folder: RunFolder,
        *,
        draw_s: Callable[[], float],
        workers: int,
        ahead: int = 0,
        meters: Sequence[Callable[[], float]] = (time.perf_counter, time.process_time),
    ) -> None:
        """Start at 0 seconds with idle workers.

        Args:
            runner: Evaluates; its own time does not count.
            folder: Where results are stored.
            draw_s: Returns the simulated seconds of the next job.
            workers: How many.
            ahead: Jobs taken beyond the workers.
            meters: Real seconds; the first one moves the simulated clock.
        """
        self.slots = workers + ahead
        self.now_s = 0.0
        self.log = Log()
        self._runner, self._folder = runner, folder
        self._draw_s, self._meters = draw_s, meters
        self._idle = workers
        self._keys: set[str] = set()  # In flight.
        self._queue: deque[tuple[str, Job, float]] = deque()
        self._running: list[tuple[float, int, str, Job]] = []  # A heap, the next to end first.
        self._done: deque[tuple[str, Job]] = deque()
        self._cycle = [0.0] * len(meters)
        self._marks = [meter() for meter in meters]

    def submit(self, key: str, job: Job) -> None:
        """Take a job; its result will be stored under ``key``.

        Raises:
            ValueError: A job of this key is in flight, or no slot is free.
        """
        self._charge()
        if key in self._keys:
            raise ValueError(f"a job of the key {key!r} is in flight already")
        if len(self._keys) == self.slots:
            raise ValueError("all slots are taken")
        self._keys.add(key)
        if self._idle:
            self._idle -= 1
            self._begin(key, job, asked_s=self.now_s, start_s=self.now_s)
        else:
            self._queue.append((key, job, self.now_s))
        self._mark()

    def wait(self) -> tuple[str, Outcome]:
        """Return the key and outcome of the job that finished first.

        Raises:
            IndexError: No job is in flight.
        """
        self._charge()
        self.log.cycles.append(tuple(self._cycle))
        self.log.flying.append(len(self._keys))
        self._cycle = [0.0] * len(self._meters)
        if not self._done:
            if not self._running:
                raise IndexError("no job is in flight")
            self._advance(self._running[0][0])
        key, job = self._done.popleft()
        self._keys.remove(key)
        outcome = self._runner.run(job)
        self._mark()
        self._folder.write_json(key, outcome.to_json())
        return key, outcome

    def find(self, key: str) -> Outcome | None:
        """Return the outcome stored under ``key``; None without any."""
        return read_outcome(self._folder, key)

    def close(self) -> None:
        """Forget all jobs."""
        self._keys.clear()
        self._queue.clear()
        self._done.clear()
        self._idle += len(self._running)
        self._running.clear()

    def _charge(self) -> None:
        """Let the time pass that the controller spent since it was last given the word."""
        spent = [meter() - mark for meter, mark in zip(self._meters, self._marks, strict=True)]
        self._cycle = [before + one for before, one in zip(self._cycle, spent, strict=True)]
        self._advance(self.now_s + spent[0])

    def _mark(self) -> None:
        self._marks = [meter() for meter in self._meters]

    def _advance(self, until_s: float) -> None:
        """Let the workers work until a time, and begin with what waits whenever one is free."""
        while self._running and self._running[0][0] <= until_s:
            end_s, _, key, job = heapq.heappop(self._running)
            self._done.append((key, job))
            if self._queue:
                self._begin(*self._queue.popleft(), start_s=end_s)
            else:
                self._idle += 1
        self.now_s = until_s

    def _begin(self, key: str, job: Job, asked_s: float, *, start_s: float) -> None:
        stint = Stint(
            stage=job.stage, asked_s=asked_s, start_s=start_s, end_s=start_s + self._draw_s()
        )
        heapq.heappush(self._running, (stint.end_s, len(self.log.stints), key, job))
        self.log.stints.append(stint)


def draw_lognormal(mean_s: float, seed: int, sigma: float = SIGMA) -> Iterator[float]:
    """Give seconds of jobs, lognormal about ``mean_s``."""
    rng = np.random.default_rng(seed)
    while True:
        yield mean_s * math.exp(sigma * rng.normal() - sigma**2 / 2)


def draw_recorded(recorded_s: Sequence[float], mean_s: float, seed: int) -> Iterator[float]:
    """Give seconds drawn with replacement from recorded ones, scaled to ``mean_s``."""
    rng = np.random.default_rng(seed)
    scaled = np.array(recorded_s) * (mean_s / float(np.mean(recorded_s)))
    while True:
        yield float(rng.choice(scaled))


def measure_use(stints: Sequence[Stint], workers: int, *, until_s: float) -> float:
    """Return the busy share of all workers' time from the first job's start to ``until_s``."""
    start_s = min(one.start_s for one in stints)
    busy = sum(max(0.0, min(one.end_s, until_s) - one.start_s) for one in stints)
    return busy / (workers * (until_s - start_s))


def find_last_asked(stints: Sequence[Stint]) -> float:
    """Return when the last candidate was submitted: from then on, workers run out of work."""
    return max(one.asked_s for one in stints if one.stage == "fast")


def find_last_end(stints: Sequence[Stint]) -> float:
    """Return when the last candidate was scored."""
    return max(one.end_s for one in stints if one.stage == "fast")
