"""What to ask for next: the proposals of a round, and models of its best candidates."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

from autocompress.execute.base import Runner
from autocompress.graph.layers import LayerGraph
from autocompress.jobs import Candidate, Job, Stage, hash_json
from autocompress.search.book import Book
from autocompress.search.budget import measure_excess
from autocompress.search.counts import measure_densities
from autocompress.search.ledger import Pending, Request
from autocompress.search.records import Record
from autocompress.search.restore import restore_model
from autocompress.search.rounds import Course, Plan, Round, count_evaluations
from autocompress.search.site import Site, make_site
from autocompress.search.spec import Settings
from autocompress.settings import settings_to_json


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


@dataclass(frozen=True, kw_only=True)
class Asker:
    """Makes the requests of one study.

    Attributes:
        settings: The resolved settings.
        course: What the plan of rounds follows from.
        evaluator: Knows the models.
        book: All decisions so far.
        sites: Those opened, by number of the round.
    """

    settings: Settings
    course: Course
    evaluator: Evaluator
    book: Book
    sites: dict[int, Site] = field(default_factory=dict)

    def open_site(self, current: Round) -> Site:
        """Return a round's site, its searcher told of all that was decided.

        A base that is gone is made again first.
        """
        site = self.sites.get(current.number)
        if site is None or site.round != current:
            self.restore(current.base)
            dense, _ = self.evaluator.describe("")
            base, kept = self.evaluator.describe(current.base)
            site = make_site(self.settings, current, dense, base, kept)
            for record in self.book.find(current.number, "fast"):
                site.searcher.decide(record)
            self.sites[current.number] = site
        return site

    def restore(self, key: str) -> None:
        """Make a model that the study made again unless it is stored."""
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
            return self._request_candidates(plan.round, asked)
        chosen = [one for one in plan.chosen if one.candidate not in asked]
        return [self.request_model(plan, one, plan.todo) for one in chosen]

    def request_model(self, plan: Plan, source: Record, stage: Stage) -> Request:
        """Return the request for a pruned or finished model of a decided candidate."""
        site = self.open_site(plan.find_round(source.round))
        return replace(self._request(site, stage, source.candidate), parent=source.number)

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
        costs = asdict(bounds.model.count_candidate(candidate))
        return Request(
            job=job,
            key=job.key(self._hash_evaluation()),
            after=len(self.book),
            densities=measure_densities(bounds, candidate),
            excess=measure_excess(costs, site.ground.limits) if stage == "fast" else {},
        )

    def _hash_evaluation(self) -> str:
        how = settings_to_json(self.settings.evaluate)
        return hash_json({"dense": self.evaluator.dense_key, "evaluate": how})
