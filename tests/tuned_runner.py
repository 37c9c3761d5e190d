"""What the stand-in evaluator computes in the trials of Ray Tune; it imports little."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from autocompress.jobs import Job, Outcome
from tests.formula import FormulaRunner, note, score_job

GLANCES = "glances"  # A folder with a file of runs of its own.


@dataclass(frozen=True)
class TunedRunner:
    """A formula runner that has a one-shot score as well.

    Attributes:
        inner: The formula runner.
        doomed: Stages of jobs that end their process; with ``once``, the first of them only.
        hangs: Whether they hang instead.
    """

    inner: FormulaRunner
    doomed: tuple[str, ...] = ()
    hangs: bool = False

    def run(self, job: Job) -> Outcome:
        """Return the score of the job's candidate."""
        if job.stage in self.doomed:
            note(Path(self.inner.root), f"begin {job.key(self.inner.evaluation_hash)}")
            if self.hangs:
                time.sleep(600)
            os._exit(3)
        return self.inner.run(job)

    def glance(self, job: Job) -> Outcome:
        """Return twice the score of the job's candidate."""
        note(Path(self.inner.root) / GLANCES, f"begin {job.key(self.inner.evaluation_hash)}")
        return Outcome(energy=2 * score_job(job).energy)


@dataclass(frozen=True)
class TunedMaker:
    """Makes a runner, whatever folder there is for it.

    Attributes:
        runner: It.
    """

    runner: TunedRunner

    def __call__(self, _: str) -> TunedRunner:
        """Return the runner."""
        return self.runner
