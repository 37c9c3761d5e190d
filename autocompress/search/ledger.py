"""Trials of a study: create, requeue, decide, read. Every prefix of the writes is recoverable.

A trial is decided by one attribute, its verdict, which is written as a whole or not at all;
what follows it, constraints and the end of the trial, is only repeated from it.
"""

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from autocompress.search.entries import (
    ORIGINAL,
    Pending,
    Request,
    Verdict,
    count_tries,
    make_pending,
    read_job,
)
from autocompress.search.outage import name_outage
from autocompress.search.records import Record, order_records
from autocompress.search.rows import Rows

Checkpoint = Callable[[str], None]
DENSITY = FloatDistribution(0.0, 1.0)
BITS = IntDistribution(1, 32)
MOST_LOSSES = 20  # Stops that one evaluation survives; each was somebody else's fault, mostly.
COPIED = (
    "stage", "round", "chain", "index", "parent", "after", "key", "candidate", "base", "seed",
)  # fmt: skip


def ignore_checkpoint(name: str) -> None:
    """Do nothing; tests stop the process here."""


class Hold(Protocol):
    """A study that no other process writes to; see ``search.study.hold_study``."""

    @property
    def study(self) -> optuna.Study:
        """Return the study, which another object stands for after ``reopen``."""
        ...

    def check(self) -> None:
        """Make sure that the study is still held.

        Raises:
            StudyLostError: It may not be.
        """
        ...

    def reopen(self, patience_s: float) -> None:
        """Hold the study again after its database went away, which may take some waiting.

        Raises:
            StudyBusyError: Another process holds it now.
            StudyError: The database was away for longer than ``patience_s``.
        """
        ...


class Ledger:
    """The trials of one held study.

    Everything raises a StudyLostError where the database goes away or the study is no longer
    held, and a StudyError where it cannot be written or read for another reason.

    Attributes:
        attempts: Attempts at a job before it is given up.
        checkpoint: Called between any two writes.
        writes: How often something was written, without an outage meanwhile.
    """

    def __init__(
        self, hold: Hold, attempts: int, checkpoint: Checkpoint = ignore_checkpoint
    ) -> None:
        self._hold = hold
        self.attempts = attempts
        self.checkpoint = checkpoint
        self.writes = 0
        self._load()

    @property
    def study(self) -> optuna.Study:
        """Return the study; no other process writes to it."""
        return self._hold.study

    def reopen(self, patience_s: float) -> None:
        """Read the study anew after its database went away, see ``Hold``."""
        self._hold.reopen(patience_s)
        self._load()

    def _load(self) -> None:
        # No one else writes: all trials are read once, not before every step.
        with self._reach():
            trials = self.study.get_trials(deepcopy=False)
        self._rows = Rows(self.study, trials)
        self._tries: dict[int, int] = {}  # Most of any trial, by the origin of its job.
        for one in trials:
            self._note_tries(one.number, one.user_attrs)
        self._waiting = deque(
            make_pending(one.number, one.user_attrs)
            for one in trials
            if one.state is TrialState.WAITING
        )

    @contextmanager
    def _reach(self) -> Iterator[None]:
        """Let the database be used inside while the study is held."""
        with name_outage(self._hold.study.study_name):
            self._hold.check()
            yield

    @contextmanager
    def _write(self) -> Iterator[None]:
        """Let the database be written inside, and count that it was."""
        with self._reach():
            yield
        self.writes += 1

    def read_records(self) -> list[Record]:
        """Return the decided evaluations in order.

        Raises:
            StudyError: A decision is missing.
        """
        with self._reach():
            return read_records(self.study)

    def describe_study(self, attrs: Mapping[str, Any]) -> None:
        """Write what readers of the study need besides its settings."""
        with self._write():
            stored = self.study.user_attrs
            for name, value in attrs.items():
                if stored.get(name) != value:
                    self.study.set_user_attr(name, value)

    def plan_extension(self, evaluations: int, finalize_top: int) -> dict[str, int]:
        """Return the attributes that say that more is wanted than the settings; 0 leaves one."""
        with self._reach():
            attrs = self.study.user_attrs
        wanted = {}
        if evaluations:
            wanted["extra_evaluations"] = attrs.get("extra_evaluations", 0) + evaluations
        if finalize_top:
            wanted["finalize_top"] = finalize_top
        return wanted

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
        with self._write():
            self._add(request.densities, attrs, request.excess)
            self.checkpoint("created")

    def take(self) -> Pending | None:
        """Return the oldest waiting trial, now running; None when none waits."""
        if not self._waiting:
            return None
        with self._write():
            self._rows.start(self._waiting[0].number)
            self.checkpoint("asked")
            return self._waiting.popleft()

    def find_waiting(self) -> list[Pending]:
        """Return the waiting trials, the oldest first."""
        return list(self._waiting)

    def find_running(self) -> list[Pending]:
        """Return the undecided trials that a stopped process left running.

        Those that were decided, or had been queued again, are ended on the way.
        """
        undecided = []
        with self._reach():
            for left in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                pending = make_pending(left.number, left.user_attrs)
                if "verdict" in left.user_attrs:
                    self._close(left.number, json.loads(left.user_attrs["verdict"]))
                elif self._was_requeued(pending):
                    self._rows.finish(left.number, None)
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
        with self._write():
            self._rows.note(pending.number, "verdict", text)
            self.checkpoint("written")
            self._close(pending.number, record)

    def _close(self, number: int, verdict: Mapping[str, Any]) -> None:
        """End a decided trial."""
        values, excess = verdict["values"], verdict["excess"]
        if values is not None and excess:
            there = self._rows.read(number).constraints
            for name, value in excess.items():
                if name not in there:
                    self._rows.constrain(number, name, value)
                    self.checkpoint("constrained")
        self._rows.finish(number, values)
        self.checkpoint("told")

    def _repeat(self, pending: Pending, counter: str, error: str) -> None:
        number, attrs = pending.number, pending.attrs
        with self._write():
            self._rows.note(number, "error", error)
            self.checkpoint("excused")
            if not self._was_requeued(pending):
                copied = (*COPIED, "attempt", "losses", "source")
                kept = {name: attrs[name] for name in copied if name in attrs}
                kept |= {counter: int(attrs[counter]) + 1, "origin": pending.origin}
                trial = self._rows.read(number)
                self._add(trial.params, kept, trial.constraints)
            self.checkpoint("cloned")
            self._rows.finish(number, None)
            self.checkpoint("failed")

    def _add(
        self, densities: Mapping[str, float], attrs: dict[str, Any], excess: Mapping[str, float]
    ) -> None:
        trial = create_trial(
            state=TrialState.WAITING,
            params=dict(densities),
            distributions={
                name: BITS if name.startswith("bits/") else DENSITY for name in densities
            },
            user_attrs=attrs,
            constraints=dict(excess),
        )
        number = self._rows.add(trial)
        self._waiting.append(make_pending(number, attrs))
        self._note_tries(number, attrs)

    def _note_tries(self, number: int, attrs: Mapping[str, Any]) -> None:
        if "origin" in attrs:
            origin = number if attrs["origin"] == ORIGINAL else attrs["origin"]
            self._tries[origin] = max(count_tries(attrs), self._tries.get(origin, 0))

    def _was_requeued(self, pending: Pending) -> bool:
        """Return whether a later trial repeats this one."""
        return self._tries[pending.origin] > count_tries(pending.attrs)


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
