"""From an outcome to a verdict."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from autocompress.jobs import Outcome
from autocompress.search.budget import measure_excess
from autocompress.search.entries import Pending, Verdict
from autocompress.search.records import Record
from autocompress.search.site import Site

SHARES = {
    "latency": "latency_share",
    "latency_low": "latency_share_low",
    "latency_high": "latency_share_high",
}


@dataclass(frozen=True, kw_only=True)
class Finished:
    """An outcome that waits for its turn.

    Attributes:
        pending: Whose it is.
        outcome: What came of it.
        cached: Whether the study knew it already.
    """

    pending: Pending
    outcome: Outcome
    cached: bool = False


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Decides on outcomes.

    Attributes:
        resources: What a trial is told besides its energy.
        worst_energy: Limit on the energy of pruned and finished models; None for none.
        dense_us: Microseconds of the dense model; None where latency is not asked for.
    """

    resources: tuple[str, ...]
    worst_energy: float | None
    dense_us: float | None = None

    def judge(self, finished: Finished, site: Site, seq: int) -> tuple[Record, Verdict]:
        """Return the decision and what is written about it; the round's searcher is told.

        Args:
            finished: What is decided on.
            site: The round of its job.
            seq: Place in the order of all decisions.
        """
        outcome = finished.outcome
        metrics = {name: one for name, one in outcome.metrics.items() if math.isfinite(one)}
        if not outcome.failed:
            candidate = finished.pending.job.candidate
            costs = site.ground.bounds.model.count_candidate(candidate).list_known()
            metrics = {name: float(cost) for name, cost in costs.items()} | metrics
            if self.dense_us is not None:
                metrics |= time_candidate(metrics, costs["latency"], self.dense_us)
        outcome = replace(outcome, metrics=metrics)
        record = _make_record(finished.pending, outcome, seq)
        temperature, accepted = None, not outcome.failed
        if record.stage == "fast":
            decision = site.searcher.decide(record)
            temperature, accepted = decision.temperature, decision.accepted
        verdict = Verdict(
            seq=seq,
            outcome=outcome,
            accepted=accepted,
            temperature=temperature,
            cached=finished.cached,
            values=(record.energy, *(metrics.get(name, math.nan) for name in self.resources)),
            excess=self._measure_excess(record, site),
        )
        return record, verdict

    def _measure_excess(self, record: Record, site: Site) -> dict[str, float]:
        """Return by how much a model is beyond each limit: at most 0 within it.

        The constraints of candidates are set before they are evaluated.
        """
        if record.stage == "fast" or not math.isfinite(record.energy):
            return {}
        excess = measure_excess(record.metrics, site.ground.limits)
        if self.worst_energy is not None:
            excess["worst_metric"] = record.energy - self.worst_energy
        return excess


def time_candidate(
    metrics: Mapping[str, float], predicted: float, dense_us: float
) -> dict[str, float]:
    """Return the latency of what was evaluated: measured if it was, predicted otherwise.

    Measured is a share of the dense model's time, side by side, so that a slow moment of the
    machine changes nothing; the dense model's time in the study's table makes microseconds of it,
    which can be compared with the limit.

    Args:
        metrics: Of the evaluation.
        predicted: Microseconds of its candidate.
        dense_us: Microseconds of the dense model.
    """
    times = {"latency": predicted, "predicted_latency": predicted}
    for name, share in SHARES.items():
        if share in metrics:
            times[name] = metrics[share] * dense_us
    return times


def _make_record(pending: Pending, outcome: Outcome, seq: int) -> Record:
    job = pending.job
    return Record(
        seq=seq,
        number=pending.number,
        key=pending.key,
        stage=job.stage,
        round=job.round,
        chain=pending.attrs["chain"],
        index=pending.attrs["index"],
        source=pending.attrs.get("source", ""),
        candidate=job.candidate,
        base=job.base,
        energy=math.nan if outcome.failed else outcome.energy,
        artifact=outcome.artifact,
        metrics=outcome.metrics,
    )
