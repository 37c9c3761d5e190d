"""What a controller sends to a worker and what comes back; JSON both ways."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

VERSION = 1
RARE = ("lost", "stopped")  # Flags of an outcome that are written when they are set.

Stage = Literal["fast", "round", "full", "latency"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Real counts to keep: one point of a search space.

    Attributes:
        filters: Units kept of each coupling group, 1 or more.
        columns: Columns kept of each layer with prunable columns, 1 or more; it counts
            those left once the producers' filters are gone.
        weights: Weights kept of a layer, within its kept filters and columns; a layer that is
            not named keeps all of them.
        bits: Bit width of a layer's weights; a layer that is not named keeps float32.
    """

    filters: Mapping[str, int]
    columns: Mapping[str, int]
    weights: Mapping[str, int] = field(default_factory=dict)
    bits: Mapping[str, int] = field(default_factory=dict)

    def key(self) -> str:
        """Return the SHA-256 of the counts: equal candidates have equal keys."""
        return self._key

    @cached_property  # Asked for again and again while it is among a thousand in flight.
    def _key(self) -> str:
        return hash_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts that :meth:`from_json` reads."""
        record = {"filters": dict(self.filters), "columns": dict(self.columns)}
        fine = {"weights": dict(self.weights), "bits": dict(self.bits)}
        # Left out when empty: candidates without them keep the keys that they always had.
        return record | {name: one for name, one in fine.items() if one}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Candidate":
        """Return the candidate of :meth:`to_json`."""
        return cls(
            filters=dict(record["filters"]),
            columns=dict(record["columns"]),
            weights=dict(record.get("weights", {})),
            bits=dict(record.get("bits", {})),
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """One evaluation asked of an executor.

    Attributes:
        stage: ``fast`` scores a candidate; ``round`` prunes and retrains the base model to
            the candidate; ``full`` also purifies, compacts and reads the test set; ``latency``
            measures the latency table of the base, where the candidate keeps all.
        candidate: What to keep.
        round: Progressive round, from 0.
        base: Key of the stored model to start from; empty for the dense model.
        seed: Seed of every draw inside the evaluation.
    """

    stage: Stage
    candidate: Candidate
    round: int
    base: str
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values that :meth:`from_json` reads."""
        record = asdict(self)
        record["candidate"] = self.candidate.to_json()
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Job":
        """Return the job of :meth:`to_json`."""
        return cls(**{**record, "candidate": Candidate.from_json(record["candidate"])})

    def identity(self) -> dict[str, Any]:
        """Return what the result of the job follows from, as plain values.

        The number of the round is not among it: only its base counts.
        """
        return {key: value for key, value in self.to_json().items() if key != "round"}

    def key(self, evaluation_hash: str) -> str:
        """Return the SHA-256 that names the result of this job.

        Args:
            evaluation_hash: Of the task and of how it is evaluated. Budgets and search settings
                do not belong to it, so that studies share what they evaluate.
        """
        return hash_json({"evaluation": evaluation_hash, **self.identity()})


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a job.

    Attributes:
        energy: What the search minimises: the validation loss for a ``fast`` job, less what
            its weights are worth where ``fast.capacity`` says so; the negated metric (when more
            is better) for models, the dense model's microseconds for a table; NaN when the job
            failed.
        metrics: Flat figures by name with units, see ``report.frames``.
        artifact: Key of the stored model or table; empty when none was stored.
        error: One sentence when the job failed; empty otherwise.
        lost: Whether it failed by no fault of its own, such as the loss of a machine.
        stopped: Whether it was ended early as not worth its time: it is not tried again.
    """

    energy: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    artifact: str = ""
    error: str = ""
    lost: bool = False
    stopped: bool = False

    @property
    def failed(self) -> bool:
        """Return whether the job gave no usable result."""
        return bool(self.error) or not math.isfinite(self.energy)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that :meth:`from_json` reads."""
        record = {"version": VERSION, **asdict(self), "metrics": dict(self.metrics)}
        # What is stored was neither: older versions read it as well.
        return {name: one for name, one in record.items() if one or name not in RARE}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Outcome":
        """Return the outcome of :meth:`to_json`.

        Raises:
            ValueError: The record has another version.
        """
        if record.get("version") != VERSION:
            raise ValueError(f"outcome: want version {VERSION}, got {record.get('version')}")
        return cls(**{key: value for key, value in record.items() if key != "version"})


def hash_json(record: Any) -> str:
    """Return the SHA-256 of ``record`` in canonical JSON, as 64 hexadecimal digits."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
