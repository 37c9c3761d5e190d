"""Trials of a study: create, requeue, decide, read. Every prefix of the writes is recoverable."""

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


@dataclass(frozen=True, kw_only=True)
class Request:
    """A job to be asked for, and its place in the search.

    Attributes:
        job: What to evaluate.
        key: Name of its result.
        chain: Annealing chain.
        index: Place in the order of the chain's proposals; -1 outside the walk.
        parent: Trial whose candidate was moved; -1 without any.
        densities: ``filters/GROUP`` and ``columns/LAYER`` relative to the dense model.
    """

    job: Job
    key: str
    chain: int = 0
    index: int = -1
    parent: int = -1
    densities: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is written about a decided job.

    Attributes:
        outcome: What came of it.
        accepted: Whether the walk moved there.
        temperature: At the decision; None outside annealing.
        excess: ``cost / limit - 1`` by resource.
    """

    outcome: Outcome
    accepted: bool
    temperature: float | None
    excess: Mapping[str, float]


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

    def read_records(self) -> list[Record]:
        """Return the decided evaluations in order.

        Raises:
            StudyError: A decision is missing.
        """
        return read_records(self.study)

    def describe_study(self, dense_energy: float, run_dir: str) -> None:
        """Write what readers of the study need besides its settings."""
        attrs = {"dense_energy": dense_energy, "run_dir": run_dir}
        stored = self.study.user_attrs
        for name, value in attrs.items():
            if stored.get(name) != value:
                self.study.set_user_attr(name, value)

    def create(self, request: Request) -> None:
        """Add a waiting trial for ``request``."""
        job = request.job
        attrs = {
            "stage": job.stage,
            "round": job.round,
            "chain": request.chain,
            "index": request.index,
            "parent": request.parent,
            "key": request.key,
            "candidate": json.dumps(job.candidate.to_json(), sort_keys=True),
            "base": job.base,
            "seed": job.seed,
            "attempt": 1,
            "origin": ORIGINAL,
        }
        self._add(dict(request.densities), attrs)
        self.checkpoint("created")

    def take(self) -> Trial | None:
        """Return the oldest waiting trial, now running; None when none waits."""
        if not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return None
        trial = self.study.ask()
        self.checkpoint("asked")
        return trial

    def find_running(self) -> list[Trial]:
        """Return the trials that a stopped process left running."""
        left = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [Trial(self.study, trial._trial_id) for trial in left]

    def close_rejected(self, trial: Trial) -> bool:
        """End ``trial`` if it was given up before the process stopped; return whether it was."""
        if not trial.user_attrs.get("final"):
            return False
        self.study.tell(trial, state=TrialState.FAIL)
        return True

    def may_retry(self, trial: Trial) -> bool:
        """Return whether another attempt is left."""
        return int(trial.user_attrs["attempt"]) < self.attempts

    def retry(self, trial: Trial, error: str) -> None:
        """Queue another attempt at the job of ``trial`` and end this one."""
        self._set(trial, {"error": error})
        attrs = trial.user_attrs
        first = trial.number if attrs["origin"] == ORIGINAL else attrs["origin"]
        attempt = int(attrs["attempt"]) + 1
        if not self._has_attempt(first, attempt):
            kept = {name: attrs[name] for name in CREATED}
            self._add(dict(trial.params), {**kept, "attempt": attempt, "origin": first})
        self.checkpoint("cloned")
        self.study.tell(trial, state=TrialState.FAIL)
        self.checkpoint("failed")

    def withdraw(self, trial: Trial) -> None:
        """End ``trial`` undecided: the next process asks for the same job anew."""
        self._set(trial, {"error": "interrupted"})
        self.study.tell(trial, state=TrialState.FAIL)

    def decide(self, trial: Trial, seq: int, verdict: Verdict) -> None:
        """Write ``verdict`` as decision ``seq``."""
        outcome = verdict.outcome
        finite = {name: one for name, one in outcome.metrics.items() if math.isfinite(one)}
        attrs: dict[str, Any] = {
            **finite,
            "artifact": outcome.artifact,
            "accepted": verdict.accepted,
            "seq": seq,
        }
        if verdict.temperature is not None:
            attrs["temperature"] = verdict.temperature
        if outcome.failed:
            attrs |= {"error": outcome.error or "the energy is not finite"}
            self._set(trial, attrs)
            self._set(trial, {"final": True})
            self.checkpoint("rejected")
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self._set(trial, {**attrs, "energy": outcome.energy})
            for name, value in verdict.excess.items():
                if name not in trial.constraints:
                    trial.set_constraint(name, value)
            self.checkpoint("written")
            self.study.tell(trial, outcome.energy)
        self.checkpoint("told")

    def _set(self, trial: Trial, attrs: Mapping[str, Any]) -> None:
        for name, value in attrs.items():
            trial.set_user_attr(name, value)
            self.checkpoint(f"attr {name}")

    def _add(self, densities: dict[str, Any], attrs: dict[str, Any]) -> None:
        trial = create_trial(
            state=TrialState.WAITING,
            params=densities,
            distributions=dict.fromkeys(densities, DENSITY),
            user_attrs=attrs,
        )
        self.study.add_trial(trial)

    def _has_attempt(self, first: int, attempt: int) -> bool:
        return any(
            trial.user_attrs.get("origin") == first and trial.user_attrs.get("attempt") == attempt
            for trial in self.study.get_trials(deepcopy=False)
        )


NOT_METRICS = ("energy", "temperature")
CREATED = ("stage", "round", "chain", "index", "parent", "key", "candidate", "base", "seed")


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
        complete = trial.state is TrialState.COMPLETE
        if complete or (trial.state is TrialState.FAIL and attrs.get("final")):
            job = read_job(attrs)
            yield Record(
                seq=attrs["seq"],
                number=trial.number,
                stage=job.stage,
                round=job.round,
                chain=attrs["chain"],
                index=attrs["index"],
                candidate=job.candidate,
                base=job.base,
                energy=attrs["energy"] if complete else math.nan,
                artifact=attrs.get("artifact", ""),
                metrics={
                    name: float(value)
                    for name, value in attrs.items()
                    if isinstance(value, float) and name not in NOT_METRICS
                },
            )
