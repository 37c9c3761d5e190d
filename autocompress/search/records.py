"""What the study says about a decided evaluation."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from autocompress.errors import StudyError
from autocompress.jobs import Candidate, Stage


@dataclass(frozen=True, kw_only=True)
class Record:
    """One decided evaluation.

    Attributes:
        seq: Place in the order of all decisions, without gaps.
        number: Number of the trial.
        key: Name of the stored result.
        stage: What was evaluated.
        round: Progressive round, from 0.
        chain: Annealing chain.
        index: Place in the order of the round's proposals, from 0; -1 outside the search.
        candidate: What was kept.
        source: The trial of another study that it was taken from, ``NAME/NUMBER``; empty for
            an evaluation that was asked for here.
        base: Key of the model it started from.
        energy: What the search minimises; NaN when the evaluation was given up.
        artifact: Key of the stored model, if any.
        metrics: Figures by name.
    """

    seq: int
    number: int
    key: str = ""
    stage: Stage
    round: int
    chain: int = 0
    index: int = -1
    source: str = ""
    candidate: Candidate
    base: str = ""
    energy: float
    artifact: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


def order_records(records: Iterable[Record]) -> list[Record]:
    """Return ``records`` in the order of their decisions.

    Raises:
        StudyError: The sequence numbers have a gap or repeat.
    """
    ordered = sorted(records, key=lambda record: record.seq)
    for expected, record in enumerate(ordered):
        if record.seq != expected:
            raise StudyError(f"decision {expected} is missing, found {record.seq}")
    return ordered
