"""Trials of a study: create, requeue, decide, read. Every prefix of the writes is recoverable.

A trial is decided by one attribute, its verdict, which is written as a whole or not at all;
what follows it, constraints and the end of the trial, is only repeated from it.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from autocompress.jobs import Candidate, Job, Outcome, Stage
from autocompress.search.records import Record, order_records

Checkpoint = Callable[[str], None]
DENSITY = FloatDistribution(0.0, 1.0)
ORIGINAL = -1
MOST_LOSSES = 20  # Stops that one evaluation survives; each was somebody else's fault, mostly.
COPIED = (
    "stage", "round", "chain", "index", "parent", "after", "key", "candidate", "base", "seed",
)  # fmt: skip


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
        densities: ``filters/GROUP`` and ``columns/LAYER`` relative to the dense model.
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


def ignore_checkpoint(name: str) -> None:
    """Do nothing; tests stop the process here."""


class Ledger:
    """The trials of one held study.

    Attributes:
        study: The study; no other process writes to it.
        attempts: Attempts at a job before it is given up.
        checkpoint: Called between any two writes.
    """

    def __init__(
        self, study: optuna.Study, attempts: int, checkpoint: Checkpoint = ignore_checkpoint
    ) -> None:
        self.study = study
        self.attempts = attempts
        self.checkpoint = checkpoint
        self._handles: dict[int, Trial] = {}  # Of the running trials, by number.
        # No one else writes: what waits is read once, not before every step.
        trials = study.get_trials(deepcopy=False)
        self._count = len(trials)
        self._waiting = [
            _make_pending(one.number, one.user_attrs)
            for one in trials
            if one.state is TrialState.WAITING
        ]

    def read_records(self) -> list[Record]:
        """Return the decided evaluations in order.

        Raises:
            StudyError: A decision is missing.
        """
        return read_records(self.study)

    def describe_study(self, attrs: Mapping[str, Any]) -> None:
        """Write what readers of the study need besides its settings."""
        stored = self.study.user_attrs
        for name, value in attrs.items():
            if stored.get(name) != value:
                self.study.set_user_attr(name, value)

    def extend(self, evaluations: int, finalize_top: int) -> None:
        """Note that more is wanted than the settings say; 0 leaves a number."""
        attrs = self.study.user_attrs
        wanted = {}
        if evaluations:
            wanted["extra_evaluations"] = attrs.get("extra_evaluations", 0) + evaluations
        if finalize_top:
            wanted["finalize_top"] = finalize_top
        self.describe_study(wanted)

    def create(self, request: Request) -> None:
        """Add a waiting trial for ``request``."""
        job = request.job
        attrs = {
            "stage": job.stage,
            "round": job.round,
            "chain": request.chain,
            "index": request.index,
            "parent": request.parent,
            "after": request.after,
            "key": request.key,
            "candidate": json.dumps(job.candidate.to_json(), sort_keys=True),
            "base": job.base,
            "seed": job.seed,
            "attempt": 1,
            "losses": 0,
            "origin": ORIGINAL,
        }
        if request.source:
            attrs["source"] = request.source
        self._add(request.densities, attrs, request.excess)
        self.checkpoint("created")

    def take(self) -> Pending | None:
        """Return the oldest waiting trial, now running; None when none waits."""
        if not self._waiting:
            return None
        trial = self.study.ask()
        self.checkpoint("asked")
        pending = self._waiting.pop(0)
        assert trial.number == pending.number, "another process writes to the study"
        self._handles[pending.number] = trial
        return pending

    def find_waiting(self) -> list[Pending]:
        """Return the waiting trials, the oldest first."""
        return list(self._waiting)

    def find_running(self) -> list[Pending]:
        """Return the undecided trials that a stopped process left running.

        Those that were decided, or had been queued again, are ended on the way.
        """
        undecided = []
        for left in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._handles[left.number] = Trial(self.study, left._trial_id)
            pending = _make_pending(left.number, left.user_attrs)
            if "verdict" in left.user_attrs:
                self._close(left.number, json.loads(left.user_attrs["verdict"]))
            elif self._was_requeued(pending):
                self._end(left.number)
            else:
                undecided.append(pending)
        return undecided

    def may_retry(self, pending: Pending) -> bool:
        """Return whether another attempt is left."""
        return int(pending.attrs["attempt"]) < self.attempts

    def may_requeue(self, pending: Pending) -> bool:
        """Return whether it may be lost to a stopped process once more."""
        return int(pending.attrs["losses"]) < MOST_LOSSES

    def retry(self, pending: Pending, error: str) -> None:
        """Queue another attempt at the job and end this one."""
        self._repeat(pending, "attempt", error)

    def requeue(self, pending: Pending, error: str) -> None:
        """Queue the same attempt again and end this one, which no evaluation caused."""
        self._repeat(pending, "losses", error)

    def decide(self, pending: Pending, verdict: Verdict) -> None:
        """Write ``verdict``."""
        record = verdict.to_json()
        text = json.dumps(record, sort_keys=True)
        self._handles[pending.number].set_user_attr("verdict", text)
        self.checkpoint("written")
        self._close(pending.number, record)

    def _close(self, number: int, verdict: Mapping[str, Any]) -> None:
        """End a decided trial."""
        if verdict["values"] is None:
            self._end(number)
        else:
            trial = self._handles.pop(number)
            there = trial.constraints if verdict["excess"] else {}
            for name, value in verdict["excess"].items():
                if name not in there:
                    trial.set_constraint(name, value)
                    self.checkpoint("constrained")
            self.study.tell(trial, verdict["values"])
        self.checkpoint("told")

    def _end(self, number: int) -> None:
        self.study.tell(self._handles.pop(number), state=TrialState.FAIL)

    def _repeat(self, pending: Pending, counter: str, error: str) -> None:
        trial = self._handles[pending.number]
        trial.set_user_attr("error", error)
        self.checkpoint("excused")
        attrs = pending.attrs
        if not self._was_requeued(pending):
            copied = (*COPIED, "attempt", "losses", "source")
            kept = {name: attrs[name] for name in copied if name in attrs}
            kept |= {counter: int(attrs[counter]) + 1, "origin": pending.origin}
            self._add(trial.params, kept, trial.constraints)
        self.checkpoint("cloned")
        self._end(pending.number)
        self.checkpoint("failed")

    def _add(
        self, densities: Mapping[str, float], attrs: dict[str, Any], excess: Mapping[str, float]
    ) -> None:
        trial = create_trial(
            state=TrialState.WAITING,
            params=dict(densities),
            distributions=dict.fromkeys(densities, DENSITY),
            user_attrs=attrs,
            constraints=dict(excess),
        )
        self.study.add_trial(trial)
        self._waiting.append(_make_pending(self._count, attrs))
        self._count += 1

    def _was_requeued(self, pending: Pending) -> bool:
        """Return whether a later trial repeats this one."""
        origin, tries = pending.origin, _count_tries(pending.attrs)
        return any(
            trial.user_attrs.get("origin") == origin and _count_tries(trial.user_attrs) > tries
            for trial in self.study.get_trials(deepcopy=False)
        )


def read_job(attrs: Mapping[str, Any]) -> Job:
    """Return the job of a trial's attributes."""
    return Job(
        stage=cast(Stage, attrs["stage"]),
        candidate=Candidate.from_json(json.loads(attrs["candidate"])),
        round=attrs["round"],
        base=attrs["base"],
        seed=attrs["seed"],
    )


def read_records(study: optuna.Study) -> list[Record]:
    """Return the decided evaluations of ``study`` in order.

    Raises:
        StudyError: A decision is missing.
    """
    return order_records(_find_decided(study.get_trials(deepcopy=False)))


def _find_decided(trials: Iterable[FrozenTrial]) -> Iterable[Record]:
    for trial in trials:
        attrs = trial.user_attrs
        if "verdict" not in attrs:
            continue
        verdict, job = json.loads(attrs["verdict"]), read_job(attrs)
        yield Record(
            seq=verdict["seq"],
            number=trial.number,
            key=attrs["key"],
            stage=job.stage,
            round=job.round,
            chain=attrs["chain"],
            index=attrs["index"],
            source=attrs.get("source", ""),
            candidate=job.candidate,
            base=job.base,
            energy=math.nan if verdict["energy"] is None else verdict["energy"],
            artifact=verdict["artifact"],
            metrics=verdict["metrics"],
        )


def _make_pending(number: int, attrs: Mapping[str, Any]) -> Pending:
    return Pending(number=number, job=read_job(attrs), attrs=attrs)


def _count_tries(attrs: Mapping[str, Any]) -> int:
    return int(attrs["attempt"]) + int(attrs["losses"])
