"""What evaluates jobs for a controller."""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, runtime_checkable

from autocompress.errors import ArtifactError, DataError, SettingError
from autocompress.execute.memory import describe_error, free_memory, lacks_memory, trim_memory
from autocompress.jobs import Job, Outcome
from autocompress.store.run_folder import RunFolder

logger = logging.getLogger(__name__)


class Runner(Protocol):
    """What can evaluate a job here and now."""

    def run(self, job: Job) -> Outcome:
        """Return what came of ``job``; may raise."""
        ...


@runtime_checkable
class Portable(Protocol):
    """A runner that can be made again on a machine which has none of this one's files."""

    def pack(self) -> Callable[[str], Runner]:
        """Return what makes the runner; called there with an empty folder for its models.

        What it carries is pickled once; arrays in it should be NumPy's, which Ray shares among
        the processes of a machine.
        """
        ...


class Executor(Protocol):
    """Where jobs run: a few at a time, finished in any order.

    A job is in flight from ``submit`` until ``wait`` returns its outcome. What comes of a job
    that is no longer in flight is dropped.
    """

    @property
    def slots(self) -> int:
        """Return how many jobs it takes at the same time, 1 or more; may change in ``wait``."""
        ...

    def submit(self, key: str, job: Job) -> None:
        """Take a job, now or once a slot is free; its result will be stored under ``key``.

        Raises:
            ValueError: A job of this key is in flight.
        """
        ...

    def wait(self) -> tuple[str, Outcome] | None:
        """Return the key and outcome of a job that finished, waiting for one if need be.

        None when there are more slots now than before, so that they can be filled.

        Raises:
            IndexError: No job is in flight.
            SettingError: No attempt can succeed with these settings.
            DataError: No attempt can succeed with these files.
            ArtifactError: The result of a job cannot be read or stored.
        """
        ...

    def find(self, key: str) -> Outcome | None:
        """Return the outcome stored under ``key`` by an earlier process; None without any.

        Raises:
            ArtifactError: It cannot be read.
        """
        ...

    def close(self) -> None:
        """End every job that still runs and forget those that wait; may be called again."""
        ...


def run_job(
    runner: Runner, key: str, job: Job, folder: RunFolder, clock: Callable[[], float]
) -> Outcome:
    """Return the outcome of ``job``: the stored one, or a new one that is then stored.

    An error of the evaluation becomes a failed outcome, which is not stored, so that another
    attempt is a real one. So does an energy that is no finite number.

    Raises:
        SettingError: No attempt can succeed with these settings.
        DataError: No attempt can succeed with these files.
        ArtifactError: The outcome cannot be read or stored.
    """
    stored = read_outcome(folder, key)
    if stored is not None:
        return stored
    outcome = try_job(runner, key, job, clock)
    if not outcome.failed:
        folder.write_json(key, outcome.to_json())
    return outcome


def try_job(runner: Runner, key: str, job: Job, clock: Callable[[], float]) -> Outcome:
    """Return what comes of ``job`` now; errors of the evaluation become a failed outcome.

    Raises:
        SettingError: No attempt can succeed with these settings.
        DataError: No attempt can succeed with these files.
        ArtifactError: A model cannot be read or stored.
    """
    start = clock()
    try:
        outcome = _name_failure(runner.run(job))
    except (SettingError, DataError, ArtifactError):
        raise  # A second attempt would spend the same hours to fail in the same way.
    except Exception as error:  # The executor's edge: a worker must not end the search.
        logger.debug("job %s failed", key, exc_info=True)
        outcome = make_failure(describe_error(error), clock() - start)
    # Here the error is gone, and with it the tensors that its frames held.
    if lacks_memory(outcome.error):
        free_memory()
    trim_memory()
    if "seconds" not in outcome.metrics:
        metrics = {**outcome.metrics, "seconds": clock() - start}
        outcome = replace(outcome, metrics=metrics)
    return outcome


def make_failure(error: str, seconds: float) -> Outcome:
    """Return the outcome of a job that came to nothing after so many seconds."""
    return Outcome(energy=math.nan, metrics={"seconds": seconds}, error=error)


def read_outcome(folder: RunFolder, key: str) -> Outcome | None:
    """Return the stored outcome of a job; None when it has not finished, or is damaged.

    Raises:
        ArtifactError: The record cannot be read, or is of another version.
    """
    record = folder.read_json(key)
    if record is None:
        return None
    try:
        return Outcome.from_json(record)
    except (TypeError, ValueError) as error:
        raise ArtifactError(
            f"{folder.place}: the result {key} cannot be read: {error}; use the version of "
            "autocompress that wrote it, or delete it and it is worked out again"
        ) from error


def _name_failure(outcome: Outcome) -> Outcome:
    """Return ``outcome`` with a sentence where only its energy says that it failed."""
    if outcome.error or math.isfinite(outcome.energy):
        return outcome
    return replace(outcome, error=f"the energy is {outcome.energy}, no finite number")
