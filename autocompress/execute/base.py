"""What evaluates jobs for a controller."""

import logging
from collections.abc import Callable
from typing import Protocol

from autocompress.errors import DataError, SettingError
from autocompress.jobs import Job, Outcome
from autocompress.store.run_folder import RunFolder

logger = logging.getLogger(__name__)


class Runner(Protocol):
    """What can evaluate a job here and now."""

    def run(self, job: Job) -> Outcome:
        """Return what came of ``job``; may raise."""
        ...


class Executor(Protocol):
    """Where jobs run: a few at a time, finished in any order."""

    @property
    def slots(self) -> int:
        """Return how many jobs run at the same time."""
        ...

    def submit(self, key: str, job: Job) -> None:
        """Take a job; its result will be stored under ``key``."""
        ...

    def wait(self) -> tuple[str, Outcome]:
        """Return the key and outcome of a job that finished, waiting for one if need be."""
        ...

    def find(self, key: str) -> Outcome | None:
        """Return the outcome stored under ``key`` by an earlier process; None without any."""
        ...

    def close(self) -> None:
        """End every job that still runs."""
        ...


def run_job(
    runner: Runner, key: str, job: Job, folder: RunFolder, clock: Callable[[], float]
) -> Outcome:
    """Return the outcome of ``job``: the stored one, or a new one that is then stored.

    An error of the evaluation becomes a failed outcome, which is not stored, so that another
    attempt is a real one.

    Raises:
        SettingError: No attempt can succeed with these settings.
        DataError: No attempt can succeed with these files.
    """
    stored = read_outcome(folder, key)
    if stored is not None:
        return stored
    start = clock()
    try:
        outcome = runner.run(job)
    except (SettingError, DataError):
        raise  # A second attempt would spend the same hours to fail in the same way.
    except Exception as error:  # The executor's edge: a worker must not end the search.
        logger.debug("job %s failed", key, exc_info=True)
        outcome = Outcome(energy=float("nan"), error=describe_error(error))
    if "seconds" not in outcome.metrics:
        seconds = clock() - start
        outcome = Outcome(
            energy=outcome.energy,
            metrics={**outcome.metrics, "seconds": seconds},
            artifact=outcome.artifact,
            error=outcome.error,
        )
    if not outcome.failed:
        folder.write_json(key, outcome.to_json())
    return outcome


def read_outcome(folder: RunFolder, key: str) -> Outcome | None:
    """Return the stored outcome of a job; None when it has not finished.

    Raises:
        ArtifactError: The record is damaged.
    """
    record = folder.read_json(key)
    return None if record is None else Outcome.from_json(record)


def describe_error(error: Exception) -> str:
    """Return one line that says what went wrong."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
