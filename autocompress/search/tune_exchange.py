"""Where a controller's jobs wait for Ray Tune to take them, and answers for the controller.

The controller and Tune's event loop are two threads of one process. This is all that they share;
it knows neither Ray nor the study.
"""

import threading
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from autocompress.execute.base import read_outcome
from autocompress.jobs import Job, Outcome
from autocompress.store.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a trial of Tune ended, as far as Tune says.

    Attributes:
        stopped: Whether it was ended on purpose before its evaluation was over.
        score: What it had reported then; None for nothing.
    """

    stopped: bool = False
    score: float | None = None


class Carrier(Protocol):
    """What brings models to the trials, and back what comes of jobs."""

    def prepare(self, job: Job) -> None:
        """See to it that ``job`` can be run anywhere."""
        ...

    def collect(self, key: str, ending: Ending) -> Outcome:
        """Return what came of a job that ended, its artifact already in the run folder."""
        ...

    def close(self) -> None:
        """Bring nothing more; may be called again."""
        ...


class Exchange:
    """Jobs in the one direction, the keys of those that ended in the other."""

    def __init__(self, slots: int) -> None:
        self._changed = threading.Condition()
        self._slots = slots
        self._grown = False
        self._waiting: deque[tuple[str, Job]] = deque()
        self._flying: set[str] = set()
        self._ended: deque[tuple[str, Ending]] = deque()
        self._idle = False  # The controller waits, and has nothing more to ask for.
        self._stopping = False
        self._closed = False

    @property
    def slots(self) -> int:
        """Return how many jobs are in flight at the same time."""
        return self._slots

    def resize(self, slots: int) -> None:
        """Have so many jobs in flight from now on."""
        with self._changed:
            self._grown |= slots > self._slots
            self._slots = slots
            self._changed.notify_all()

    def put(self, key: str, job: Job) -> None:
        """Offer a job.

        Raises:
            ValueError: A job of this key is in flight.
        """
        with self._changed:
            if key in self._flying:
                raise ValueError(f"a job of the key {key!r} is in flight already")
            self._flying.add(key)
            self._waiting.append((key, job))
            self._changed.notify_all()

    def take(self, patience_s: float) -> tuple[str, Job] | None:
        """Return a job to be run; None when there is none, at once if none can come by itself.

        Args:
            patience_s: How long to wait for a controller that is busy.
        """
        with self._changed:
            self._changed.wait_for(self._is_settled, patience_s)
            return self._waiting.popleft() if self._waiting else None

    def end(self, key: str, ending: Ending) -> bool:
        """Tell how the job called ``key`` ended; return whether it was in flight."""
        with self._changed:
            known = key in self._flying
            if known:
                self._flying.remove(key)
                self._waiting = deque(one for one in self._waiting if one[0] != key)
                self._ended.append((key, ending))
                self._changed.notify_all()
            return known

    def wait(self) -> tuple[str, Ending] | None:
        """Return the next job that ended; None when there are more slots than before.

        Raises:
            IndexError: No job is in flight.
            KeyboardInterrupt: The search is to stop.
        """
        with self._changed:
            if not self._flying and not self._ended:
                raise IndexError("no job is in flight")
            self._idle = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._ended or self._grown or self._stopping)
            self._idle = False
            if self._stopping:
                raise KeyboardInterrupt
            if self._grown:
                self._grown = False
                return None
            return self._ended.popleft()

    def stop(self) -> None:
        """Have the controller stop where it waits, as by Ctrl-C."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Forget all jobs."""
        with self._changed:
            self._waiting.clear()
            self._flying.clear()
            self._ended.clear()

    def close(self) -> None:
        """Say that no job will ever come again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _is_settled(self) -> bool:
        """Return whether waiting for a job is of no use."""
        return bool(self._waiting) or self._closed or (self._idle and not self._ended)


class ExchangeExecutor:
    """The executor of a controller whose jobs Ray Tune runs as its trials."""

    def __init__(self, exchange: Exchange, folder: RunFolder, carrier: Carrier) -> None:
        """Start nothing.

        Args:
            exchange: Where Tune's side takes the jobs.
            folder: Where results are stored.
            carrier: Used in the controller's thread only.
        """
        self._exchange = exchange
        self._folder = folder
        self._carrier = carrier

    @property
    def slots(self) -> int:
        """Return how many trials Tune runs at the same time."""
        return self._exchange.slots

    def submit(self, key: str, job: Job) -> None:
        """Take a job; its result will be stored under ``key``.

        Raises:
            ValueError: A job of this key is in flight.
        """
        self._carrier.prepare(job)
        self._exchange.put(key, job)

    def wait(self) -> tuple[str, Outcome] | None:
        """Return the key and outcome of a job that finished, see ``Executor``.

        Raises:
            IndexError: No job is in flight.
            KeyboardInterrupt: The search is to stop.
        """
        ended = self._exchange.wait()
        if ended is None:
            return None
        key, ending = ended
        outcome = self._carrier.collect(key, ending)
        if not outcome.failed:
            self._folder.write_json(key, outcome.to_json())
        return key, outcome

    def find(self, key: str) -> Outcome | None:
        """Return the outcome stored under ``key`` by an earlier process; None without any."""
        return read_outcome(self._folder, key)

    def close(self) -> None:
        """Forget all jobs; what comes of those that Tune still runs is dropped."""
        self._exchange.clear()
        self._carrier.close()
