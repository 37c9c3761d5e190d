"""What is written about a trial: its request, its place while it is undecided, its verdict."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from autocompress.jobs import Candidate, Job, Outcome, Stage

ORIGINAL = -1


@dataclass(frozen=True, kw_only=True)
class Request:
    """A job to be asked for, and its place in the search.

    Attributes:
        job: What to evaluate.
        key: Name of its result.
        chain: Annealing chain.
        index: Place in the order of the round's proposals; -1 outside the search.
        parent: Trial whose candidate was moved; -1 without any.
        after: Decisions known when it was proposed.
        source: The trial of another study that it repeats, ``NAME/NUMBER``, if it does.
        densities: ``filters/GROUP``, ``columns/LAYER`` and so on relative to the dense model,
            see :func:`autocompress.search.counts.measure_densities`.
        excess: ``cost / limit - 1`` by resource, where it is known beforehand.
    """

    job: Job
    key: str
    chain: int = 0
    index: int = -1
    parent: int = -1
    after: int = 0
    source: str = ""
    densities: Mapping[str, float]
    excess: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A trial that was asked for and is not decided.

    Attributes:
        number: Its number.
        job: What is evaluated.
        attrs: What was written when it was created.
    """

    number: int
    job: Job
    attrs: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Return the name of its result."""
        return str(self.attrs["key"])

    @property
    def origin(self) -> int:
        """Return the number of the trial of which this one is another attempt, or its own."""
        origin = int(self.attrs["origin"])
        return self.number if origin == ORIGINAL else origin


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is written about a decided job.

    Attributes:
        seq: Place in the order of all decisions.
        outcome: What came of it.
        accepted: Whether the search moved there.
        temperature: At the decision; None outside annealing.
        cached: Whether the study knew the outcome already.
        values: What Optuna is told, the energy first.
        excess: ``cost / limit - 1`` by resource.
    """

    seq: int
    outcome: Outcome
    accepted: bool
    temperature: float | None
    cached: bool
    values: tuple[float, ...]
    excess: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        outcome = self.outcome
        finite = {name: one for name, one in outcome.metrics.items() if math.isfinite(one)}
        return {
            "seq": self.seq,
            "accepted": self.accepted,
            "temperature": self.temperature,
            "energy": None if outcome.failed else outcome.energy,
            "metrics": finite,
            "artifact": outcome.artifact,
            "error": (outcome.error or "the energy is not finite") if outcome.failed else "",
            "cached": self.cached,
            "values": None if outcome.failed else list(self.values),
            "excess": dict(self.excess),
        }


def read_job(attrs: Mapping[str, Any]) -> Job:
    """Return the job of a trial's attributes."""
    return Job(
        stage=cast(Stage, attrs["stage"]),
        candidate=Candidate.from_json(json.loads(attrs["candidate"])),
        round=attrs["round"],
        base=attrs["base"],
        seed=attrs["seed"],
    )


def make_pending(number: int, attrs: Mapping[str, Any]) -> Pending:
    """Return the undecided trial of these attributes."""
    return Pending(number=number, job=read_job(attrs), attrs=attrs)


def count_tries(attrs: Mapping[str, Any]) -> int:
    """Return how many trials there were for the job, this one included."""
    return int(attrs["attempt"]) + int(attrs["losses"])
