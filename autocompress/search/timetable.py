"""The latency table of a study: measured once by a worker, then a part of the study itself.

A search follows from its table as it does from its settings. So the table is written into the
study before the first proposal, and whoever goes on with the study measures nothing again.
"""

import logging

from autocompress.errors import ArtifactError, EvaluationError
from autocompress.jobs import Candidate, Job, Outcome, hash_json
from autocompress.masks.latency import LatencyTable
from autocompress.search.desk import Desk
from autocompress.search.forecast import TABLE, recall_table
from autocompress.search.ledger import MOST_LOSSES
from autocompress.search.progress import SearchProgress
from autocompress.search.spec import Settings

logger = logging.getLogger(__name__)
FULL = Candidate(filters={}, columns={})


def settle_table(settings: Settings, desk: Desk) -> LatencyTable:
    """Return the latency table of a study, measured now unless the study has it.

    Args:
        settings: Resolved settings.
        desk: Its executor runs nothing else.

    Raises:
        ArtifactError: A table that was measured before is gone from the run folder.
        EvaluationError: It cannot be measured.
    """
    table = recall_table(desk.ledger.study.user_attrs)
    if table is None:
        table = _take_over(settings, desk) or _measure(settings, desk)
        desk.ledger.describe_study({TABLE: table.to_json()})
        desk.ledger.checkpoint("timed")
    return table


def key_table(settings: Settings, job: Job, dense_key: str) -> str:
    """Return the key of the result of a job that measures the table.

    Another study measures its own: it may run on another machine.
    """
    own = job.key(settings.evaluate.hash_for("latency", dense_key))
    return hash_json({"study": settings.name, "job": own})


def _take_over(settings: Settings, desk: Desk) -> LatencyTable | None:
    """Return the table of the study that this one starts from, if it holds for its workers."""
    table = None if desk.stock is None else desk.stock.table
    if table is None or settings.execute.executor == "ray":
        return None  # Ray's workers may be on other machines than this process.
    return table if desk.evaluator.fits_here(table.machine) else None


def _measure(settings: Settings, desk: Desk) -> LatencyTable:
    desk.watch(SearchProgress(phase="latency"))
    job = Job(stage="latency", candidate=FULL, round=0, base="", seed=settings.seed)
    key = key_table(settings, job, desk.evaluator.dense_key)
    outcome = desk.executor.find(key) or _run(settings, desk, key, job)
    desk.ledger.checkpoint("surveyed")
    if not desk.evaluator.has(outcome.artifact):
        raise ArtifactError(
            f"the latency table {outcome.artifact[:12]} is gone from the run folder: delete the "
            f"result {key} there, and it is measured again"
        )
    return desk.evaluator.read_table(outcome.artifact)


def _run(settings: Settings, desk: Desk, key: str, job: Job) -> Outcome:
    """Return what comes of ``job`` at the first attempt that succeeds."""
    failures = losses = 0
    while True:
        desk.executor.submit(key, job)
        answer = None
        while answer is None:
            answer = desk.executor.wait()
        outcome = answer[1]
        if not outcome.failed:
            return outcome
        failures, losses = failures + (not outcome.lost), losses + outcome.lost
        if failures >= settings.search.attempts or losses > MOST_LOSSES:
            raise EvaluationError(f"the latency table could not be measured: {outcome.error}")
        logger.warning("the latency table is measured again: %s", outcome.error)
