"""An executor in one process whose jobs finish in any order, and which can go wrong."""

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Literal

from autocompress.execute.base import Runner, make_failure, read_outcome, run_job
from autocompress.jobs import Job, Outcome
from autocompress.store.run_folder import RunFolder

Fault = Literal["", "crash", "diverge", "hang"]
ERRORS = {"crash": "the worker was killed by SIGKILL", "hang": "it took longer than allowed"}


class Diverging:
    """Finds no number."""

    def run(self, _: Job) -> Outcome:
        """Return NaN."""
        return Outcome(energy=float("nan"))


def run_smoothly(_key: str, _attempt: int) -> Fault:
    """Let nothing go wrong."""
    return ""


class FakePool:
    """Takes jobs into some slots and finishes them one by one in a seeded random order.

    What has finished lies in the run folder, like that of real workers, before the controller
    hears of it. With ``late``, outcomes come once more when their key is no longer in flight; so
    does, always, that of a job which had hung.
    """

    def __init__(
        self,
        runner: Runner,
        folder: RunFolder,
        *,
        slots: int = 3,
        seed: int = 0,
        fault: Callable[[str, int], Fault] = run_smoothly,
        late: bool = False,
    ) -> None:
        """Start nothing yet.

        Args:
            runner: Evaluates.
            folder: Where results are stored.
            slots: Jobs in flight.
            seed: Of the order in which they finish.
            fault: What happens to the attempt, from 0, at the job of a key.
            late: Whether outcomes are told twice.
        """
        self.slots = slots
        self._runner = runner
        self._folder = folder
        self._rng = random.Random(seed)
        self._fault = fault
        self._late = late
        self._attempts: Counter[str] = Counter()
        self._running: dict[str, Job] = {}
        self._done: dict[str, Outcome] = {}
        self._hanging: list[tuple[str, Job]] = []
        self._echoes: list[tuple[str, Outcome]] = []

    def submit(self, key: str, job: Job) -> None:
        """Take a job.

        Raises:
            ValueError: A job of this key is in flight, or no slot is free.
        """
        if key in self._running or key in self._done:
            raise ValueError(f"a job of the key {key!r} is in flight already")
        if len(self._running) + len(self._done) == self.slots:
            raise ValueError("all slots are taken")
        self._running[key] = job

    def wait(self) -> tuple[str, Outcome]:
        """Return the key and outcome of some job that finished.

        Raises:
            IndexError: No job is in flight.
        """
        if not self._running and not self._done:
            raise IndexError("no job is in flight")
        self._wake_hanging()
        echoes = [one for one in self._echoes if one[0] not in {*self._running, *self._done}]
        if echoes and self._rng.random() < 0.5:
            self._echoes.remove(echoes[0])
            return echoes[0]
        while not self._done or (self._running and self._rng.random() < 0.4):
            key = self._rng.choice(list(self._running))
            self._done[key] = self._run(key, self._running.pop(key))
        key = self._rng.choice(list(self._done))
        outcome = self._done.pop(key)
        self._echoes += [(key, outcome)] if self._late else []
        return key, outcome

    def find(self, key: str) -> Outcome | None:
        """Return the outcome stored under ``key``; None without any."""
        return read_outcome(self._folder, key)

    def close(self) -> None:
        """Forget all jobs."""
        self._running.clear()
        self._done.clear()

    def _run(self, key: str, job: Job) -> Outcome:
        fault = self._fault(key, self._attempts[key])
        self._attempts[key] += 1
        if fault == "hang":
            self._hanging.append((key, job))
        if fault in ERRORS:
            return make_failure(ERRORS[fault], 0.0)
        return self._evaluate(key, job, Diverging() if fault else self._runner)

    def _evaluate(self, key: str, job: Job, runner: Runner) -> Outcome:
        return run_job(runner, key, job, self._folder, time.monotonic)

    def _wake_hanging(self) -> None:
        """Let a job that had hung for too long come to its end after all."""
        if self._hanging and self._rng.random() < 0.5:
            key, job = self._hanging.pop()
            self._echoes.append((key, self._evaluate(key, job, self._runner)))
