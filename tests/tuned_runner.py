"""What the stand-in evaluator computes in the trials of Ray Tune; it imports little."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from autocompress.errors import DataError
from autocompress.jobs import Job, Outcome
from tests.formula import FormulaRunner, note, score_job

GLANCES = "glances"  # A folder with a file of runs of its own.


@dataclass(frozen=True)
class TunedRunner:
    """A formula runner that has a one-shot score as well.

    Attributes:
        inner: The formula runner.
        dies: First digits of the keys of candidates whose evaluation ends its process.
        hangs: The same for those whose evaluation never ends.
        refuses: The same for those that no attempt can mend.
    """

    inner: FormulaRunner
    dies: str = ""
    hangs: str = ""
    refuses: str = ""

    def run(self, job: Job) -> Outcome:
        """Return the score of the job's candidate."""
        digit = job.candidate.key()[0] if job.stage == "fast" else "-"
        if digit in self.dies or digit in self.hangs:
            note(Path(self.inner.root), f"begin {job.key(self.inner.evaluation_hash)}")
        if digit in self.refuses or os.environ.get("SICK"):
            raise DataError("a label is wrong")
        if digit in self.dies:
            os._exit(3)
        while digit in self.hangs:
            time.sleep(60)
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
