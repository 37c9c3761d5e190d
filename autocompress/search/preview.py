"""What a new study would take from another one, before it does."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from autocompress.evaluate.task import key_dense
from autocompress.graph.layers import LayerGraph
from autocompress.search.book import Book
from autocompress.search.bounds import make_bounds
from autocompress.search.forecast import TABLE, assume_latency, make_course
from autocompress.search.rounds import plan_rounds
from autocompress.search.site import count_dense, find_smallest
from autocompress.search.source import find_source, open_snapshot, take_snapshot
from autocompress.search.spec import Settings, uses_latency
from autocompress.search.study import open_study
from autocompress.search.warm import FULL, fits_space
from autocompress.store.run_folder import open_folder


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a new study would take.

    Attributes:
        name: Of the source.
        stored: Candidates that it scored.
        misfits: Those of them that the new space does not hold.
        imports: Candidates that the first round would begin with.
        progress: Where on the way to the budget the first round would start, 0..1.
        attrs: What the new study would say beside its settings.
    """

    name: str
    stored: int
    misfits: int
    imports: int
    progress: float
    attrs: Mapping[str, Any]

    def describe(self) -> str:
        """Return one line."""
        start = "the dense model"
        if self.progress:
            start = f"its model at {self.progress:.0%} of the way to the budget"
        dropped = f"; {self.misfits} do not fit the new space" if self.misfits else ""
        return (
            f"{self.stored} stored candidates, {self.imports} of which the first round begins "
            f"with; it starts from {start}{dropped}"
        )


def preview_source(settings: Settings, graph: LayerGraph, text: str) -> Preview:
    """Return what a search would take from the study that ``text`` names; changes nothing.

    Args:
        settings: Of the new study, resolved.
        graph: Its dense model.
        text: As for :func:`find_source`.

    Raises:
        StudyError: There is no such study, or it evaluates something else.
    """
    source = find_source(text, settings)
    there = open_folder(source.run_dir)
    record = take_snapshot(source, settings, key_dense(settings.task))
    stock = open_snapshot(record, there)
    timed = {TABLE: record[TABLE]} if TABLE in record and uses_latency(settings) else {}
    settings, table = assume_latency(settings, timed), stock.table if timed else None
    energy = open_study(source.name, source.storage).user_attrs.get("dense_energy", 0.0)
    course = make_course(settings, graph, {"dense_energy": energy, **timed})
    start = stock.choose_start(settings, graph, course, there.has, table)
    first = plan_rounds(replace(course, base=start.base, start=start.progress), Book()).round
    bounds = make_bounds(settings.space, graph, graph, FULL, table)
    smallest = find_smallest(settings, graph, table)
    limits = settings.budget.limits(count_dense(graph, table), first.goal, smallest)
    scored = [one.job.candidate for one in stock.stored if one.job.stage == "fast"]
    return Preview(
        name=source.name,
        stored=len(scored),
        misfits=sum(not fits_space(bounds, one) for one in scored),
        imports=len(stock.list_imports(first.base, bounds, limits)),
        progress=start.progress,
        attrs={"dense_energy": energy, "start": asdict(start), **timed},
    )
