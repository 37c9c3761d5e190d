"""Make a stored model again that is gone: the study still knows the job it came of."""

import logging
from collections.abc import Sequence
from typing import Protocol

from autocompress.errors import ArtifactError
from autocompress.jobs import Job, Outcome
from autocompress.search.records import Record

logger = logging.getLogger(__name__)


class Maker(Protocol):
    """What knows and makes stored models; ``evaluate.evaluator.Evaluator`` is one."""

    def has(self, key: str) -> bool:
        """Return whether the model called ``key`` is stored; the dense one, when empty, is."""
        ...

    def run(self, job: Job) -> Outcome:
        """Return what came of ``job``, its model stored."""
        ...


def restore_model(key: str, records: Sequence[Record], maker: Maker, *, seed: int) -> None:
    """Make the model called ``key`` again unless it is stored, and first what it starts from.

    The study is not changed: its decision stands, and the same job gives the same model.

    Args:
        key: Artifact of a decision; empty for the dense model.
        records: All decisions of the study.
        maker: Knows and makes models; runs in this process.
        seed: Of the study's jobs.

    Raises:
        ArtifactError: No decision made this model, or it follows from a dense model that is no
            longer the one of the settings.
        EvaluationError: It could not be made.
    """
    if maker.has(key):
        return
    source = next((one for one in records if one.artifact == key), None)
    if source is None:
        raise ArtifactError(f"the model {key[:12]} is stored nowhere, and no trial made it")
    logger.warning("model %.12s of trial %d is gone and made again", key, source.number)
    restore_model(source.base, records, maker, seed=seed)
    job = Job(
        stage=source.stage,
        candidate=source.candidate,
        round=source.round,
        base=source.base,
        seed=seed,
    )
    outcome = maker.run(job)
    if outcome.artifact != key:
        raise ArtifactError(
            f"the model {key[:12]} of trial {source.number} is gone and cannot be made again, "
            "because the data, the dense model or its source changed since; put them back, or "
            "search under another name"
        )
