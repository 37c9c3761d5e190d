"""What the stand-in evaluator computes. It imports little, so that workers start fast."""

import json
import math
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from autocompress.errors import EvaluationError
from autocompress.jobs import Job, Outcome

RUNS = "runs.txt"
TABLE = "table"  # Artifact of a job that measures; tests know what it says.
FULL = {"a": 12, "b": 24}
WANTED = {"a": 0.6, "b": 0.3}
WIDTHS = {"a": 27, "b": 108, "fc": 24}


def score_job(job: Job, *, scale: float = 1.0, drop: float = 0.0) -> Outcome:
    """Return a smooth score of the job's counts; a stored model is the JSON of its counts.

    Args:
        job: What to score.
        scale: Factor on the energy of fast jobs.
        drop: Factor on what pruning costs in the metric.
    """
    if job.stage == "latency":
        return Outcome(energy=1.0, metrics={"seconds": 0.5}, artifact=TABLE)
    kept = job.candidate
    loss = sum(abs(math.log(kept.filters[g] / FULL[g] / WANTED[g])) for g in WANTED)
    loss += sum(0.3 * (1 - kept.columns[name] / WIDTHS[name]) ** 2 for name in WIDTHS)
    if job.stage == "fast":
        return Outcome(energy=loss * scale, metrics={"val_loss": loss, "seconds": 0.5})
    metric = 0.98 - drop * loss
    return Outcome(
        energy=-metric,
        metrics={"val_metric": metric, "weights": 100.0, "seconds": 2.0},
        artifact=json.dumps(kept.to_json()),
    )


def is_bad(job: Job) -> bool:
    """Return whether every attempt at ``job`` fails: one candidate in eight."""
    return job.stage == "fast" and job.candidate.key()[0] in "01"


@dataclass(frozen=True)
class FormulaRunner:
    """Scores after a while, and notes in a file which runs began and which ended.

    Attributes:
        root: Folder of that file.
        evaluation_hash: With it, a job gives the key of its result.
        delay_s: Longest time of a run; the shortest is a quarter of it.
    """

    root: str
    evaluation_hash: str
    delay_s: float = 0.0

    def run(self, job: Job) -> Outcome:
        """Return the score of the job's candidate."""
        key = job.key(self.evaluation_hash)
        stored = (Path(self.root) / "results" / f"{key}.json").exists()
        note(Path(self.root), f"{'again' if stored else 'begin'} {key}")
        time.sleep(self.delay_s * (0.25 + 0.75 * int(key[:4], 16) / 0xFFFF))
        note(Path(self.root), f"end {key}")
        if is_bad(job):
            raise EvaluationError("this candidate cannot be evaluated")
        return score_job(job)


def keep_runner(runner: FormulaRunner) -> FormulaRunner:
    """Return ``runner``: nothing goes wrong."""
    return runner


def note(root: Path, line: str) -> None:
    """Add a line, with our process id, to the file of runs; it survives SIGKILL."""
    root.mkdir(parents=True, exist_ok=True)
    handle = os.open(root / RUNS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{line} {os.getpid()}\n".encode())
    os.close(handle)


def read_runs(root: Path) -> list[tuple[str, str]]:
    """Return what was noted, and its key.

    A run notes ``begin``, or ``again`` when its result had been stored, and later ``end``.
    """
    path = root / RUNS
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line.split()[0], line.split()[1]) for line in lines]


def count_runs(root: Path) -> Counter[str]:
    """Return how many runs began, by key."""
    return Counter(key for what, key in read_runs(root) if what != "end")


def read_pids(root: Path) -> set[int]:
    """Return the processes that ran something."""
    path = root / RUNS
    lines = path.read_text().splitlines() if path.exists() else []
    return {int(line.split()[2]) for line in lines}
