"""The loop of a search: plan, ask, evaluate, decide. The study is its only memory."""

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Protocol

from optuna.trial import Trial

from autocompress.errors import DataError, EvaluationError, SettingError, StudyError
from autocompress.execute.base import Executor, Runner
from autocompress.graph.layers import LayerGraph
from autocompress.jobs import Candidate, Job, Outcome, Stage, hash_json
from autocompress.search.anneal import Walk, decide, fold, measure_temperature
from autocompress.search.budget import measure_excess
from autocompress.search.counts import measure_densities
from autocompress.search.forecast import (
    count_left,
    estimate_seconds,
    make_course,
)
from autocompress.search.guide import propose
from autocompress.search.ledger import (
    Ledger,
    Request,
    Verdict,
    read_job,
)
from autocompress.search.progress import Phase, SearchProgress, Watch
from autocompress.search.records import Record
from autocompress.search.rounds import Plan, Round, find_scored, plan_rounds
from autocompress.search.site import Site, check_reachable, count_dense, make_site
from autocompress.search.spec import Settings, make_spec

logger = logging.getLogger(__name__)

MOST_FAILURES = 3  # Candidates given up at the start of a round before the search stops.


class Evaluator(Runner, Protocol):
    """What the controller asks about models; ``evaluate.evaluator.Evaluator`` is one."""

    @property
    def dense_metrics(self) -> Mapping[str, float]:
        """Return the dense model's figures, its ``val_metric`` among them."""
        ...

    def describe(self, base: str) -> tuple[LayerGraph, Candidate]:
        """Return the graph and counts of a stored base; of the dense model when empty."""
        ...


class Controller:
    """Searches one held study.

    Attributes:
        settings: The resolved settings of the study.
        records: All decisions so far.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        evaluator: Evaluator,
        executor: Executor,
        watch: Watch,
    ) -> None:
        self.settings = settings
        self._ledger = ledger
        self._evaluator = evaluator
        self._executor = executor
        self._watch = watch
        self._hash = hash_json(make_spec(settings))
        self._graph, _ = evaluator.describe("")
        metric = evaluator.dense_metrics["val_metric"]
        maximize = settings.task.metric_direction == "maximize"
        self._course = make_course(
            settings, count_dense(self._graph), -metric if maximize else metric
        )
        self._site: Site | None = None
        self._walk = Walk()
        check_reachable(settings, self._graph)
        ledger.describe_study(self._course.dense_energy, settings.run_dir)
        self.records: list[Record] = ledger.read_records()

    def run(self) -> Plan:
        """Search until there is nothing left to do, and return the plan that says so.

        Raises:
            EvaluationError: Evaluations fail again and again.
            KeyboardInterrupt: Someone stopped it; the study can be gone on with.
        """
        self._recover()
        while (plan := self.plan()).todo != "done":
            if not self._evaluate_waiting():
                self._ledger.create(self._make_request(plan))
        self._tell("done")
        return plan

    def finalize(self, number: int) -> Record:
        """Return the finished model of trial ``number``, made now unless it exists.

        Raises:
            EvaluationError: It could not be made.
            StudyError: There is no such decided trial.
        """
        self._recover()
        source = next((one for one in self.records if one.number == number), None)
        if source is None:
            raise StudyError(f"trial {number}: no decided trial of this number in the study")
        request = self._request_model(source, "full")
        while (found := self._find_model(request.job)) is None:
            if not self._evaluate_waiting():
                self._ledger.create(request)
        self._tell("done")
        return found

    def plan(self) -> Plan:
        """Return what is to be done next."""
        return plan_rounds(self._course, self.records)

    def _recover(self) -> None:
        """Take up what a stopped process left behind."""
        for trial in self._ledger.find_running():
            if self._ledger.close_rejected(trial):
                continue
            key = trial.user_attrs["key"]
            stored = self._executor.find(key)
            lost = Outcome(energy=float("nan"), error="the process that evaluated it ended")
            self._settle(trial, stored or lost)
        self.records = self._ledger.read_records()

    def _evaluate_waiting(self) -> bool:
        """Evaluate the oldest waiting trial; return False when there is none."""
        trial = self._ledger.take()
        if trial is None:
            return False
        job = read_job(trial.user_attrs)
        phase: Phase = "search" if job.stage == "fast" else job.stage
        self._tell(phase)
        self._executor.submit(trial.user_attrs["key"], job)
        try:
            _, outcome = self._executor.wait()
        except (KeyboardInterrupt, SettingError, DataError):
            self._executor.close()
            self._ledger.withdraw(trial)
            self._tell("stopped")
            raise
        self._ledger.checkpoint("evaluated")
        self._settle(trial, outcome)
        return True

    def _settle(self, trial: Trial, outcome: Outcome) -> None:
        """Decide on ``outcome``, or queue another attempt when it failed."""
        if outcome.failed and self._ledger.may_retry(trial):
            logger.warning("trial %d failed and is tried again: %s", trial.number, outcome.error)
            self._ledger.retry(trial, outcome.error)
            return
        job = read_job(trial.user_attrs)
        site = self._open_site(self.plan().find_round(job.round))
        metrics = dict(outcome.metrics)
        if not outcome.failed:
            costs = asdict(site.ground.bounds.model.count_candidate(job.candidate))
            metrics = {name: float(cost) for name, cost in costs.items()} | metrics
        record = Record(
            seq=len(self.records),
            number=trial.number,
            stage=job.stage,
            round=job.round,
            chain=trial.user_attrs["chain"],
            index=trial.user_attrs["index"],
            candidate=job.candidate,
            base=job.base,
            energy=float("nan") if outcome.failed else outcome.energy,
            artifact=outcome.artifact,
            metrics=metrics,
        )
        temperature, accepted = None, not outcome.failed
        if job.stage == "fast":
            temperature = measure_temperature(site.schedule, self._walk)
            self._walk = decide(site.schedule, self._walk, record)
            accepted = self._walk.moved
        verdict = Verdict(
            outcome=replace(outcome, metrics=metrics),
            accepted=accepted,
            temperature=temperature,
            excess=measure_excess(metrics, site.ground.limits) if not outcome.failed else {},
        )
        self._ledger.decide(trial, record.seq, verdict)
        self.records.append(record)
        self._stop_hopeless(record, outcome)

    def _stop_hopeless(self, record: Record, outcome: Outcome) -> None:
        """Raise when a search that goes on would only waste time."""
        if not outcome.failed:
            return
        if record.stage == "full":
            raise EvaluationError(
                f"trial {record.number}: the model could not be finished: {outcome.error}"
            )
        scored = find_scored(self.records, record.round)
        if len(scored) >= MOST_FAILURES and self._walk.current is None:
            raise EvaluationError(
                f"round {record.round}: the first {len(scored)} candidates all failed, the "
                f"last one with: {outcome.error}"
            )

    def _make_request(self, plan: Plan) -> Request:
        """Return the next evaluation of ``plan``."""
        if plan.todo in ("round", "full"):
            assert plan.chosen is not None
            return self._request_model(plan.chosen, plan.todo)
        site = self._open_site(plan.round)
        scored = find_scored(self.records, plan.round.number)
        known = {one.candidate.key() for one in scored}
        candidate = propose(site.schedule, self._walk, site.ground, len(scored), known)
        parent = self._walk.current.number if self._walk.current else -1
        request = self._request(site, "fast", candidate)
        return replace(request, index=len(scored), parent=parent)

    def _request_model(self, source: Record, stage: Stage) -> Request:
        """Return the request for a pruned or finished model of a decided candidate."""
        site = self._open_site(self.plan().find_round(source.round))
        return replace(self._request(site, stage, source.candidate), parent=source.number)

    def _request(self, site: Site, stage: Stage, candidate: Candidate) -> Request:
        job = Job(
            stage=stage,
            candidate=candidate,
            round=site.round.number,
            base=site.round.base,
            seed=self.settings.seed,
        )
        densities = measure_densities(site.ground.bounds, candidate)
        return Request(job=job, key=job.key(self._hash), densities=densities)

    def _find_model(self, job: Job) -> Record | None:
        wanted = (job.stage, job.round, job.candidate)
        for one in self.records:
            if (one.stage, one.round, one.candidate) == wanted and math.isfinite(one.energy):
                return one
        return None

    def _open_site(self, current: Round) -> Site:
        """Return a round's site, with the walk folded up to its last decision."""
        if self._site is None or self._site.round != current:
            base, kept = self._evaluator.describe(current.base)
            self._site = make_site(self.settings, current, self._graph, base, kept)
            self._walk = fold(self._site.schedule, find_scored(self.records, current.number))
        return self._site

    def _tell(self, phase: Phase) -> None:
        plan = self.plan()
        self._open_site(plan.round)
        left = count_left(self._course, plan, self.records)
        walk = self._walk
        self._watch(
            SearchProgress(
                phase=phase,
                round=plan.round.number,
                rounds=plan.rounds,
                done=len(self.records),
                total=len(self.records) + sum(left.values()),
                best=walk.best.energy if walk.best else None,
                accepted_share=walk.accepted / walk.moves if walk.moves else None,
                left_s=estimate_seconds(left, self.records),
            )
        )
