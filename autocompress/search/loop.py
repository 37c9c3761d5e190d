"""The loop of a search: plan, ask, evaluate, decide. The study is its only memory."""

import logging
import math
from collections.abc import Callable, Sequence

from autocompress.errors import AutoCompressError, EvaluationError, StudyError
from autocompress.jobs import Job, Outcome
from autocompress.search.book import Book
from autocompress.search.desk import Desk
from autocompress.search.entries import Pending, Request
from autocompress.search.forecast import count_left, estimate_seconds, recall_table
from autocompress.search.judge import Finished, Judge
from autocompress.search.outage import outlast
from autocompress.search.progress import Phase, SearchProgress
from autocompress.search.records import Record
from autocompress.search.requests import Asker
from autocompress.search.rounds import Plan, Round, plan_rounds
from autocompress.search.site import Site, check_reachable
from autocompress.search.source import settle_course
from autocompress.search.spec import Settings, uses_latency
from autocompress.search.timetable import settle_table

logger = logging.getLogger(__name__)

MOST_FAILURES = 3  # Candidates given up at the start of a round before the search stops.


class Controller:
    """Searches one held study.

    Attributes:
        settings: The resolved settings of the study.
        book: All decisions so far.
    """

    def __init__(self, settings: Settings, desk: Desk) -> None:
        self.settings = settings
        self._desk = desk
        self._ledger = desk.ledger
        self._table = recall_table(self._ledger.study.user_attrs)
        self._graph, _ = desk.evaluator.describe("")
        check_reachable(settings, self._graph, self._table)
        metric = desk.evaluator.dense_metrics["val_metric"]
        is_raised = settings.task.metric_direction == "maximize"
        self._ledger.describe_study(
            {
                "dense_energy": -metric if is_raised else metric,
                "dense_key": desk.evaluator.dense_key,
                "run_dir": settings.run_dir,
            }
        )
        self._flying: dict[str, list[Pending]] = {}  # Submitted, by key of the result.
        self._finished: list[Finished] = []
        self._arrived: dict[str, Outcome] = {}  # Of what is not decided, by key.
        self._unfinished: list[str] = []  # Errors of models that could not be finished.
        self._begun = desk.clock()
        self.book = Book(self._ledger.read_records())
        self._is_settled = False
        if self._table is not None or not uses_latency(settings):
            self._settle()

    @property
    def records(self) -> Sequence[Record]:
        """Return all decisions so far."""
        return self.book.records

    def run(self) -> Plan:
        """Search until there is nothing left to do or the time is over; return the last plan.

        Raises:
            EvaluationError: Evaluations fail again and again.
            KeyboardInterrupt: Someone stopped it; the study can be gone on with.
        """
        self._drive(lambda: self._asker.list_requests(self.plan(), self._list_undecided()))
        plan = self.plan()
        if plan.todo == "done":
            for record in self.records:
                if record.stage == "full" and math.isfinite(record.energy):
                    self._asker.restore(record.artifact)
        self._tell("done" if plan.todo == "done" else "stopped")
        return plan

    def finalize(self, numbers: Sequence[int]) -> list[Record]:
        """Return the finished models of trials, made now unless they exist.

        Raises:
            EvaluationError: One could not be made.
            StudyError: There is no such decided trial.
        """
        if self._is_settled:  # Otherwise there is no trial yet.
            self._outlast(self._recover)
        sources = {one.number: one for one in self.records}
        for number in numbers:
            if number not in sources:
                raise StudyError(f"trial {number}: no decided trial of this number in the study")
        plan = self.plan()
        wanted = [self._asker.request_model(plan, sources[one], "full") for one in numbers]

        def ask() -> list[Request]:
            asked = {one.key for one in self._list_undecided()}
            missing = {one.key: one for one in wanted if not self._find_model(one.job)}
            return [one for key, one in missing.items() if key not in asked]

        self._drive(ask)
        found = [record for one in wanted if (record := self._find_model(one.job))]
        if len(found) < len(wanted):
            raise EvaluationError("the time was over before all models were finished")
        for record in found:
            self._asker.restore(record.artifact)
        self._tell("done")
        return found

    def plan(self) -> Plan:
        """Return what is to be done next."""
        return plan_rounds(self._course, self.book)

    def open_site(self, current: Round) -> Site:
        """Return a round's site, its searcher told of all that was decided."""
        return self._asker.open_site(current)

    def _measure(self) -> None:
        """Have the latency table measured that the study wants and does not have."""
        if not self._is_settled:
            self._table = settle_table(self.settings, self._desk)
            check_reachable(self.settings, self._graph, self._table)
            self._settle()

    def _settle(self) -> None:
        """Take up the way to the budget, which may follow from the latency table."""
        ledger, stock, has = self._ledger, self._desk.stock, self._desk.evaluator.has
        self._course = settle_course(self.settings, self._graph, ledger, stock, has)
        self._judge = Judge(
            resources=self.settings.search.resources,
            worst_energy=self._course.worst_energy,
            dense_us=None if self._table is None else self._table.dense_us,
        )
        self._is_settled = True
        self._read_study()

    def _read_study(self) -> None:
        self.book = Book(self._ledger.read_records())
        self._asker = Asker(
            settings=self.settings,
            course=self._course,
            evaluator=self._desk.evaluator,
            book=self.book,
            stock=self._desk.stock,
            table=self._table,
        )

    def _recover(self) -> None:
        """Take up what a stopped process, or this one before an outage, left behind."""
        lost = "the process that evaluated it ended"
        left = self._ledger.find_running()
        self._read_study()
        self._flying = {key: [] for key in self._flying}
        self._finished.clear()
        for pending in left:
            arrived, known = self._arrived.get(pending.key), self._find_known(pending.key)
            if pending.key in self._flying:
                self._flying[pending.key].append(pending)
            elif arrived is not None:
                self._finish(pending, arrived)
            elif known is not None:
                cached = self._desk.executor.find(pending.key) is None
                self._finish(pending, known, cached=cached, final=True)
            elif self._ledger.may_requeue(pending):
                self._ledger.requeue(pending, lost)
            else:
                failed = Outcome(energy=math.nan, error=lost)
                self._finished.append(Finished(pending=pending, outcome=failed))
        self._note_arrived()
        self._decide_ready()

    def _note_arrived(self) -> None:
        """Forget the outcomes that the study has heard of."""
        self._arrived = {one.pending.key: one.outcome for one in self._finished}

    def _outlast(self, work: Callable[[], None]) -> None:
        """Do ``work``; when the database goes away, wait and begin it anew.

        Raises:
            StudyError: The database stayed away, or another controller took the study.
        """
        patience_s = self.settings.execute.storage_patience_s

        def reopen() -> None:
            self._tell("waiting")
            self._ledger.reopen(patience_s)

        outlast(
            work,
            reopen,
            patience_s=patience_s,
            count_writes=lambda: self._ledger.writes,
            clock=self._desk.clock,
        )

    def _drive(self, list_requests: Callable[[], Sequence[Request]]) -> None:
        """Evaluate what waits and what is asked for until there is nothing more."""

        def work() -> None:
            self._measure()
            self._recover()
            self._complete_batch()
            while self._fly(list_requests):
                pass
            self._put_back("the time was over before its turn to be decided")

        try:
            self._outlast(work)
            if self._unfinished:
                raise EvaluationError(self._unfinished[0])
        except (KeyboardInterrupt, AutoCompressError):
            self._withdraw()
            raise
        finally:
            self._desk.executor.close()

    def _fly(self, list_requests: Callable[[], Sequence[Request]]) -> bool:
        """Submit what there is room for and take up what finished; return whether any runs."""
        self._fill(list_requests)
        if not self._flying:
            return False
        answer = self._desk.executor.wait()
        if answer is not None:
            key, outcome = answer
            self._arrived[key] = outcome  # Before the study hears of it, which may take long.
            group = self._flying.pop(key, [])
            self._ledger.checkpoint("evaluated")
            for place, pending in enumerate(group):
                self._finish(pending, outcome, cached=place > 0)
            self._decide_ready()
            self._note_arrived()
        return True

    def _complete_batch(self) -> None:
        """Ask for what a stop in the middle of asking for a batch has left out.

        Later would be too late: the others of the batch would be decided on before.
        """
        waiting = self._ledger.find_waiting()
        if self.settings.search.batch and any(one.job.stage == "fast" for one in waiting):
            self._ask(lambda: self._asker.list_requests(self.plan(), self._list_undecided()))

    def _ask(self, list_requests: Callable[[], Sequence[Request]]) -> bool:
        """Queue what there is to ask for; return whether that was anything."""
        requests = [] if self._is_late() or self._unfinished else list_requests()
        for request in requests:
            self._ledger.create(request)
        return bool(requests)

    def _fill(self, list_requests: Callable[[], Sequence[Request]]) -> None:
        """Give every free worker a job."""
        while len(self._flying) < self._desk.executor.slots and not self._is_late():
            pending = self._ledger.take()
            if pending is not None:
                self._start(pending)
            elif not self._ask(list_requests):
                break

    def _start(self, pending: Pending) -> None:
        outcome = self._find_known(pending.key)
        if outcome is not None:
            self._finish(pending, outcome, cached=True, final=True)
            self._decide_ready()
        elif pending.key in self._flying:
            self._flying[pending.key].append(pending)
        else:
            self._flying[pending.key] = [pending]
            # Before a worker looks for it: a base that is gone is made again here.
            self.open_site(self.plan().find_round(pending.job.round))
            self._desk.executor.submit(pending.key, pending.job)
            stage = pending.job.stage
            self._tell("search" if stage == "fast" else stage)

    def _find_known(self, key: str) -> Outcome | None:
        """Return what this study, its run folder or its source says of a job."""
        desk = self._desk
        known = self.book.find_result(key) or desk.executor.find(key)
        if known is None and desk.stock is not None:
            known = desk.stock.find(key, desk.evaluator.has)
        return known or self.book.find_failure(key)

    def _finish(
        self, pending: Pending, outcome: Outcome, *, cached: bool = False, final: bool = False
    ) -> None:
        """Keep ``outcome`` until its turn, or queue another attempt when it failed.

        Args:
            pending: Whose it is.
            outcome: What came of it.
            cached: Whether it was known before the trial ran.
            final: Whether another attempt would find the same.
        """
        if outcome.lost and self._ledger.may_requeue(pending):
            logger.warning("trial %d is queued again: %s", pending.number, outcome.error)
            self._ledger.requeue(pending, outcome.error)
        elif outcome.failed and not (final or outcome.stopped) and self._ledger.may_retry(pending):
            logger.warning("trial %d failed and is tried again: %s", pending.number, outcome.error)
            self._ledger.retry(pending, outcome.error)
        else:
            self._finished.append(Finished(pending=pending, outcome=outcome, cached=cached))

    def _decide_ready(self) -> None:
        """Decide on what is finished: all of it, or in batches what is the oldest asked for."""
        while self._finished:
            oldest = min(self._finished, key=lambda one: one.pending.origin)
            if self.settings.search.batch:
                first = min(one.origin for one in self._list_undecided())
                if first != oldest.pending.origin:
                    break
            self._finished.remove(oldest)
            self._decide(oldest)

    def _decide(self, finished: Finished) -> None:
        pending = finished.pending
        site = self.open_site(self.plan().find_round(pending.job.round))
        record, verdict = self._judge.judge(finished, site, len(self.book))
        self._ledger.decide(pending, verdict)
        self.book.add(record)
        self._tell("search" if record.stage == "fast" else record.stage, record)
        self._stop_hopeless(record, finished.outcome)

    def _stop_hopeless(self, record: Record, outcome: Outcome) -> None:
        """Raise when a search that goes on would only waste time."""
        if not outcome.failed or outcome.stopped:
            return
        if record.stage == "full":  # Models that are asked for already come first.
            self._unfinished.append(
                f"trial {record.number}: the model could not be finished: {outcome.error}"
            )
            return
        scored = self.book.find(record.round, "fast")
        if len(scored) >= MOST_FAILURES and all(math.isnan(one.energy) for one in scored):
            raise EvaluationError(
                f"round {record.round}: the first {len(scored)} candidates all failed, the "
                f"last one with: {outcome.error}"
            )

    def _list_undecided(self) -> list[Pending]:
        """Return what was asked for and is not decided, waiting or running."""
        flying = [pending for group in self._flying.values() for pending in group]
        finished = [one.pending for one in self._finished]
        return [*self._ledger.find_waiting(), *flying, *finished]

    def _find_model(self, job: Job) -> Record | None:
        wanted = (job.stage, job.round, job.candidate)
        for one in self.records:
            if (one.stage, one.round, one.candidate) == wanted and math.isfinite(one.energy):
                return one
        return None

    def _withdraw(self) -> None:
        """Queue again what runs, so that the next process begins with it."""
        self._desk.executor.close()
        try:
            self._put_back("interrupted")
        except StudyError as error:
            logger.warning("what ran is queued again at the next start: %s", error)
        self._tell("stopped")

    def _put_back(self, why: str) -> None:
        """Queue again what runs and what has finished but is not decided."""
        flying = [pending for group in self._flying.values() for pending in group]
        for pending in [*flying, *(one.pending for one in self._finished)]:
            self._ledger.requeue(pending, why)
        self._flying.clear()
        self._finished.clear()

    def _is_late(self) -> bool:
        limit = self.settings.execute.stop_after_s
        return limit > 0 and self._desk.clock() - self._begun >= limit

    def _tell(self, phase: Phase, record: Record | None = None) -> None:
        if not self._is_settled:
            self._desk.watch(SearchProgress(phase=phase))
            return
        plan = self.plan()
        left = count_left(self._course, plan, self.book)
        # Who pressed Ctrl-C waits for no base that is gone and would be made again.
        opened = self._asker.sites.get(plan.round.number)
        site = opened if phase in ("stopped", "waiting") else self.open_site(plan.round)
        best = site.searcher.best if site else None
        self._desk.watch(
            SearchProgress(
                phase=phase,
                round=plan.round.number,
                rounds=plan.rounds,
                done=len(self.book),
                total=len(self.book) + sum(left.values()),
                best=best.energy if best else None,
                accepted_share=site.searcher.accepted_share if site else None,
                left_s=estimate_seconds(left, self.book, self._desk.executor.slots),
                running=len(self._flying),
                record=record,
            )
        )
