"""Start a search from what another study evaluated: its results, its models, its best points.

A round takes over the best stored candidates of its base that meet its limits; results that are
stored under the key of a job answer it; and a model of a round of the source may be where the new
study begins.
"""

import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autocompress.graph.layers import LayerGraph
from autocompress.jobs import Candidate, Job, Outcome
from autocompress.masks.latency import LatencyTable
from autocompress.search.bounds import Bounds, make_bounds
from autocompress.search.counts import read_counts
from autocompress.search.records import Record
from autocompress.search.rounds import Course, holds_metric, is_too_bad
from autocompress.search.site import count_dense
from autocompress.search.spec import Settings
from autocompress.search.storage import strip_password
from autocompress.store.run_folder import RunFolder, open_folder

MOST_IMPORTS = 10  # Taken over per round: a searcher starts at the best of them.
MOST_HINTS = 2
SLACK = 1.05  # Whole filters seldom cost exactly what a round's limit is.
LEAST = 0.25  # Halvings of the cost below which a base brings nothing.
FULL = Candidate(filters={}, columns={})


@dataclass(frozen=True, kw_only=True)
class Source:
    """The study that another one starts from.

    Attributes:
        name: Its name.
        storage: URL of its database.
        run_dir: Its run folder.
    """

    name: str
    storage: str = field(repr=False)  # It may hold a password.
    run_dir: str

    def describe(self) -> str:
        """Return the text that :func:`find_source` reads, without a password."""
        return f"{strip_password(self.storage)}#{self.name}"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A successful evaluation of the source.

    Attributes:
        job: What was evaluated.
        record: The decision on it.
    """

    job: Job
    record: Record


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a search begins.

    Attributes:
        base: Key of a model of the source; empty for the dense one.
        progress: How far it is on the way to the budget.
    """

    base: str = ""
    progress: float = 0.0


class Stock:
    """What a search may take from its source.

    Attributes:
        source: Where it comes from.
        stored: Its evaluations, in the order of their decisions.
        table: Its latency table, if it has one that was measured as this study wants.
    """

    def __init__(
        self,
        source: Source,
        stored: tuple[Stored, ...],
        folder: RunFolder,
        table: LatencyTable | None = None,
    ) -> None:
        self.source = source
        self.stored = stored
        self.table = table
        self._folder = folder
        self._results = {one.record.key: one.record for one in reversed(stored)}

    def find(self, key: str, has: Callable[[str], bool]) -> Outcome | None:
        """Return the outcome stored under ``key``, its model now in the run folder as well.

        Args:
            key: Of a job.
            has: Says whether a model is in the run folder already.
        """
        record = self._results.get(key)
        if record is None or not (has(record.artifact) or self.fetch(record.artifact)):
            return None
        return Outcome(energy=record.energy, metrics=record.metrics, artifact=record.artifact)

    def fetch(self, key: str) -> bool:
        """Copy a model into the run folder; return whether it is there now."""
        return fetch_object(key, open_folder(self.source.run_dir), self._folder)

    def list_imports(self, base: str, bounds: Bounds, limits: Mapping[str, float]) -> list[Stored]:
        """Return the best few candidates of a base which a round may take over, best first.

        Args:
            base: Where the round starts.
            bounds: What may be kept of it.
            limits: Most units of each resource.
        """
        fits: dict[str, Stored] = {}
        ranked = sorted(self.stored, key=lambda one: (one.record.energy, one.record.seq))
        for one in ranked:
            if len(fits) == MOST_IMPORTS:
                break
            if one.job.stage != "fast" or one.job.base != base:
                continue
            if fits_space(bounds, one.job.candidate):
                cost = bounds.model.count_candidate(one.job.candidate).list_known()
                if all(cost[name] <= limit for name, limit in limits.items()):
                    fits.setdefault(one.job.candidate.key(), one)
        return list(fits.values())

    def list_hints(self, base: str) -> tuple[Candidate, ...]:
        """Return the best few candidates of the last round that began at a base.

        Args:
            base: Where a round starts.
        """
        scored = [one for one in self.stored if (one.job.stage, one.job.base) == ("fast", base)]
        if not scored:
            return ()
        last = max(one.record.round for one in scored)
        ranked = sorted(
            (one for one in scored if one.record.round == last),
            key=lambda one: (one.record.energy, one.record.seq),
        )
        fits = {one.job.candidate.key(): one.job.candidate for one in ranked}
        return tuple(fits.values())[:MOST_HINTS]

    def choose_start(
        self,
        settings: Settings,
        graph: LayerGraph,
        course: Course,
        has: Callable[[str], bool],
        table: LatencyTable | None = None,
    ) -> Start:
        """Return the model of the source that is nearest to the budget, else the dense one.

        It lies between the dense model and the budget, fits the space and is good enough to go
        on from; the way that is left takes no more rounds than the one from the dense model.

        Args:
            settings: Of the new study.
            graph: The dense model.
            course: The way to its budget.
            has: Says whether a model is in the run folder.
            table: Predicts latency, where that is asked for.
        """
        bounds = make_bounds(settings.space, graph, graph, FULL, table)
        best = Start()
        for one in self.stored:
            record, candidate = one.record, one.job.candidate
            if one.job.stage != "round" or not may_follow(course, record):
                continue
            if not reaches_space(bounds, candidate):
                continue
            cost = bounds.model.count_candidate(candidate).list_known()
            progress = measure_progress(settings, bounds, course, cost)
            if progress <= best.progress:
                continue
            if has(record.artifact) or self.fetch(record.artifact):
                best = Start(base=record.artifact, progress=progress)
        return best


def fetch_object(key: str, there: RunFolder, here: RunFolder) -> bool:
    """Link or copy an object of another run folder; return whether it is here now."""
    if here.has(key):
        return True
    if not there.has(key):
        return False
    here.write(key, lambda path: _link_files(there.path(key), path))
    return True


def fits_space(bounds: Bounds, candidate: Candidate) -> bool:
    """Return whether a candidate is one that a search within ``bounds`` may propose."""
    counts = read_counts(bounds, candidate)
    prunable = [place for place, group in enumerate(bounds.graph.groups) if group.prunable]
    keeps, low, high = (
        one[prunable] for one in (counts.keeps, bounds.keeps_low, bounds.keeps_high)
    )
    if (
        (keeps < low) | (keeps > high) | ((keeps % bounds.filter_step > 0) & (keeps < high))
    ).any():
        return False
    _, fewest, most = bounds.open_columns(counts.keeps)
    columns = counts.columns
    odd = (columns % bounds.column_step > 0) & (columns < most)
    if ((columns < fewest) | (columns > most) | odd).any():
        return False
    _, fewest, most = bounds.open_weights(counts.keeps, columns)
    fine = bounds.fine
    is_wide = fine.find_bits(fine.find_places(counts.bits)) == counts.bits
    return bool(is_wide.all() and ((fewest <= counts.weights) & (counts.weights <= most)).all())


def reaches_space(bounds: Bounds, candidate: Candidate) -> bool:
    """Return whether a model keeps at least what the space wants of every group and layer.

    Bit widths are chosen anew.
    """
    counts = read_counts(bounds, candidate)
    _, fewest, _ = bounds.open_columns(counts.keeps)
    enough = (counts.keeps >= bounds.keeps_low).all() and (counts.columns >= fewest).all()
    _, fewest, _ = bounds.open_weights(counts.keeps, counts.columns)
    return bool(enough and (counts.weights >= fewest).all())


def may_follow(course: Course, record: Record) -> bool:
    """Return whether a round's model is good enough for another round to start from it."""
    if course.worst_energy is None:
        return not is_too_bad(course, record)
    return holds_metric(course, record)


def measure_progress(
    settings: Settings, bounds: Bounds, course: Course, cost: Mapping[str, float]
) -> float:
    """Return how far a model is on the way to the budget, 0..1; 0 when it is beyond it.

    The resource that is least far counts, so that no limit of the next round lies more than a
    step below the model; those whose limit holds already do not. Beyond the budget is a model of
    which any resource, limited or not, fell by more than the budget asks of the most demanding
    one: it gave up what it need not.
    """
    dense = count_dense(bounds.graph, bounds.model.table)
    limits, costs = settings.budget.limits(dense), dense.list_known()
    least = settings.budget.minimize
    wanted = {*limits} | ({least} if least else set())
    # Coded bytes fall by other means than the rest does: they count where they are asked for.
    given = {*costs} - {"coded_bytes", "latency"} | wanted
    if "latency" in wanted:
        given = wanted  # Time falls by less than what is counted does, and layer by layer.
    if max(costs[name] / cost[name] for name in given) > course.reduction * SLACK:
        return 0.0
    far = []
    for name in wanted:
        limit = limits.get(name, 0.0) if name != least else 0.0
        fell = math.log(costs[name] / cost[name])
        if least:
            far += [fell / math.log(course.reduction)] if cost[name] > limit else []
        elif cost[name] > limit:
            far.append(fell / math.log(costs[name] / limit))
    progress = min(far, default=0.0)
    return progress if progress * math.log2(course.reduction) >= LEAST and progress < 1 else 0.0


def _link_files(there: Path, here: Path) -> None:
    for file in sorted(there.rglob("*")):
        target = here / file.relative_to(there)
        if file.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, target)
        except OSError:  # Another file system, or one without links.
            shutil.copy2(file, target)
