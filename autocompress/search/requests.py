"""What to ask for next: the proposals of a round, and models of its best candidates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from autocompress.execute.base import Runner
from autocompress.graph.layers import LayerGraph
from autocompress.jobs import Candidate, Job, Stage
from autocompress.masks.importance import Importance
from autocompress.masks.latency import LatencyTable, Machine
from autocompress.search.book import Book
from autocompress.search.budget import measure_excess
from autocompress.search.choose_searcher import RANKING
from autocompress.search.counts import measure_densities
from autocompress.search.entries import Pending, Request
from autocompress.search.records import Record
from autocompress.search.restore import restore_model
from autocompress.search.rounds import Course, Plan, Round, count_evaluations
from autocompress.search.site import Dense, Site, Start, make_site
from autocompress.search.spec import Settings
from autocompress.search.warm import Stock


class Evaluator(Runner, Protocol):
    """What the controller asks about models; ``evaluate.evaluator.Evaluator`` is one."""

    @property
    def dense_key(self) -> str:
        """Return the key of the dense model, which the results of all jobs follow from."""
        ...

    @property
    def dense_metrics(self) -> Mapping[str, float]:
        """Return the dense model's figures, its ``val_metric`` among them."""
        ...

    def has(self, key: str) -> bool:
        """Return whether the model called ``key`` is stored; the dense one, when empty, is."""
        ...

    def describe(self, base: str) -> tuple[LayerGraph, Candidate]:
        """Return the graph and counts of a stored base; of the dense model when empty."""
        ...

    def rank(self, base: str) -> Importance:
        """Return what units and columns of a stored base matter; the dense one, when empty."""
        ...

    def read_table(self, key: str) -> LatencyTable:
        """Return the latency table that a job stored."""
        ...

    def fits_here(self, machine: Machine) -> bool:
        """Return whether times measured there hold on the device of this process."""
        ...


@dataclass(frozen=True, kw_only=True)
class Asker:
    """Makes the requests of one study.

    Attributes:
        settings: The resolved settings.
        course: What the plan of rounds follows from.
        evaluator: Knows the models.
        book: All decisions so far.
        stock: What may be taken from another study.
        table: Predicts latency, where that is asked for.
        sites: Those opened, by number of the round.
    """

    settings: Settings
    course: Course
    evaluator: Evaluator
    book: Book
    stock: Stock | None = None
    table: LatencyTable | None = None
    sites: dict[int, Site] = field(default_factory=dict)

    def open_site(self, current: Round) -> Site:
        """Return a round's site, its searcher told of all that was decided.

        A base that is gone is made again first.
        """
        site = self.sites.get(current.number)
        if site is None or site.round != current:
            self.restore(current.base)
            dense = Dense(self.evaluator.describe("")[0], self.table)
            base, kept = self.evaluator.describe(current.base)
            hints = self.stock.list_hints(current.base) if self.stock is not None else ()
            ranks = self.settings.search.searcher in RANKING
            importance = self.evaluator.rank(current.base) if ranks else None
            start = Start(base, kept, hints, importance)
            site = make_site(self.settings, current, dense, start)
            for record in self.book.find(current.number, "fast"):
                site.searcher.decide(record)
            self.sites[current.number] = site
        return site

    def restore(self, key: str) -> None:
        """Make a model that the study made again unless it is stored."""
        if self.stock is not None and not self.evaluator.has(key):
            self.stock.fetch(key)
        restore_model(key, self.book.records, self.evaluator, seed=self.settings.seed)

    def list_requests(self, plan: Plan, undecided: Sequence[Pending]) -> list[Request]:
        """Return the evaluations to ask for now.

        Args:
            plan: Where the search stands.
            undecided: What was asked for and is not decided.
        """
        if plan.todo == "done":
            return []
        places = [(one.job.round, one.job.stage) for one in undecided]
        asked = [
            one.job.candidate
            for one, place in zip(undecided, places, strict=True)
            if place == (plan.round.number, plan.todo)
        ]
        if plan.todo == "fast":
            waiting = [
                one
                for one, place in zip(undecided, places, strict=True)
                if place == (plan.round.number, "fast")
            ]
            missing = self._request_imports(plan.round, waiting)
            if missing or any("source" in one.attrs for one in waiting):
                return missing  # The first proposal follows from all that is taken over.
            return self._request_candidates(plan.round, asked)
        chosen = [one for one in plan.chosen if one.candidate not in asked]
        return [self.request_model(plan, one, plan.todo) for one in chosen]

    def request_model(self, plan: Plan, source: Record, stage: Stage) -> Request:
        """Return the request for a pruned or finished model of a decided candidate."""
        site = self.open_site(plan.find_round(source.round))
        return replace(self._request(site, stage, source.candidate), parent=source.number)

    def _request_imports(self, current: Round, waiting: Sequence[Pending]) -> list[Request]:
        """Return what a round takes over before its first proposal and did not ask for yet."""
        begun = any("source" not in one.attrs for one in waiting)
        if self.stock is None or begun or self.book.count_asked(current.number):
            return []
        site = self.open_site(current)
        known = self.book.list_known(current.number)
        known = known | {one.job.candidate.key() for one in waiting}
        before = len(self.book) - len(self.book.find(current.number, "fast"))
        requests = []
        for one in self.stock.list_imports(current.base, site.ground.bounds, site.ground.limits):
            if one.job.candidate.key() not in known:
                request = self._request(site, "fast", one.job.candidate)
                requests.append(
                    replace(
                        request,
                        job=replace(request.job, seed=one.job.seed),
                        key=one.record.key,
                        after=before,
                        source=f"{self.stock.source.name}/{one.record.number}",
                    )
                )
        return requests

    def _request_candidates(self, current: Round, asked: Sequence[Candidate]) -> list[Request]:
        """Return the next proposals of a round: one, or what is missing of a batch."""
        searcher = self.open_site(current).searcher
        known = self.book.list_known(current.number) | {one.key() for one in asked}
        decided = self.book.count_asked(current.number)
        first, last = decided + len(asked), count_evaluations(self.course, current)
        batch = self.settings.search.batch
        last = min(last, (decided // batch + 1) * batch if batch else first + 1)
        requests = []
        for index in range(first, last):
            proposal = searcher.propose(index, known)
            known.add(proposal.candidate.key())
            request = self._request(self.open_site(current), "fast", proposal.candidate)
            requests.append(
                replace(request, index=index, chain=proposal.chain, parent=proposal.parent)
            )
        return requests

    def _request(self, site: Site, stage: Stage, candidate: Candidate) -> Request:
        bounds = site.ground.bounds
        job = Job(
            stage=stage,
            candidate=candidate,
            round=site.round.number,
            base=site.round.base,
            seed=self.settings.seed,
        )
        costs = bounds.model.count_candidate(candidate).list_known()
        return Request(
            job=job,
            key=job.key(self.settings.evaluate.hash_for(stage, self.evaluator.dense_key)),
            after=len(self.book),
            densities=measure_densities(bounds, candidate),
            excess=measure_excess(costs, site.ground.limits) if stage == "fast" else {},
        )
