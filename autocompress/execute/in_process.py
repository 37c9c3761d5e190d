"""Run jobs in the controller's own process, one after the other."""

import time
from collections import deque
from collections.abc import Callable

from autocompress.execute.base import Runner, read_outcome, run_job
from autocompress.execute.threads import set_threads
from autocompress.jobs import Job, Outcome
from autocompress.store.run_folder import RunFolder


class InProcess:
    """An executor without other processes: a job runs while its outcome is waited for."""

    slots = 1

    def __init__(
        self,
        runner: Runner,
        folder: RunFolder,
        clock: Callable[[], float] = time.monotonic,
        *,
        threads: int = 0,
    ) -> None:
        self._runner = runner
        self._folder = folder
        self._clock = clock
        self._threads = threads
        self._waiting: deque[tuple[str, Job]] = deque()

    def submit(self, key: str, job: Job) -> None:
        """Take a job; its result will be stored under ``key``.

        Raises:
            ValueError: A job of this key is in flight.
        """
        if any(key == other for other, _ in self._waiting):
            raise ValueError(f"a job of the key {key!r} is in flight already")
        self._waiting.append((key, job))

    def wait(self) -> tuple[str, Outcome]:
        """Run the oldest job and return its key and outcome, see ``Executor``.

        Raises:
            IndexError: No job is in flight.
        """
        if not self._waiting:
            raise IndexError("no job is in flight")
        key, job = self._waiting.popleft()
        set_threads(self._threads)
        return key, run_job(self._runner, key, job, self._folder, self._clock)

    def find(self, key: str) -> Outcome | None:
        """Return the outcome stored under ``key`` by an earlier process; None without any."""
        return read_outcome(self._folder, key)

    def close(self) -> None:
        """Forget the jobs that have not run."""
        self._waiting.clear()
