"""Latency without a clock: tables made of formulas, and shares that models are said to have."""

from dataclasses import replace

import numpy as np

from autocompress.graph.layers import LayerGraph
from autocompress.jobs import Candidate, Job, Outcome
from autocompress.masks.cost import CostModel
from autocompress.masks.latency import Fit, FitError, Grid, LatencyTable, LayerTimes, Machine

FULL = Candidate(filters={}, columns={})
MACHINE = Machine(
    device="cpu", name="none", threads=1, batch=1, dtype="float32", layout="contiguous", torch="0"
)
FASTER = 0.9  # Models take this part of what the table says of their candidates.


def make_table(graph: LayerGraph, align: int = 4, *, gathers: bool = True) -> LatencyTable:
    """Return a table in which a layer takes 1 us and one for each 1000 MACs of aligned widths.

    A column that is gathered takes half as long again; but only those that are kept count.

    Args:
        graph: The dense model.
        align: Widths are executed in multiples of this.
        gathers: Whether layers can gather columns.
    """
    shapes = []
    for layer in graph.layers:
        each = layer.area * layer.positions / 1000
        dense = _make_grid(layer.channels, layer.filters, each)
        column = _make_grid(layer.filters, layer.columns, 1.5 * layer.positions / 1000)
        found = column if gathers else None
        shapes.append(LayerTimes(positions=layer.positions, dense=dense, column=found))
    return _fill_table(graph, tuple(shapes), align)


def draw_table(graph: LayerGraph, seed: int) -> LatencyTable:
    """Return a table of random times that nowhere fall with more width."""
    rng = np.random.default_rng(seed)
    shapes = []
    for layer in graph.layers:
        dense = _draw_grid(rng, layer.channels, layer.filters)
        column = _draw_grid(rng, layer.filters, layer.columns)
        shapes.append(LayerTimes(positions=layer.positions, dense=dense, column=column))
    return _fill_table(graph, tuple(shapes), int(rng.integers(1, 10)))


def time_job(graph: LayerGraph, job: Job, outcome: Outcome) -> Outcome:
    """Return ``outcome`` with what a worker measures of a model; other jobs measure nothing."""
    if job.stage == "fast":
        return outcome
    table = make_table(graph)
    predicted = CostModel(graph, table).count_candidate(job.candidate).latency
    assert predicted is not None
    share = FASTER * predicted / table.dense_us
    figures = {"latency_share": share}
    figures |= {"latency_share_low": share - 0.01, "latency_share_high": share + 0.01}
    return replace(outcome, metrics={**outcome.metrics, **figures})


def _fill_table(graph: LayerGraph, shapes: tuple[LayerTimes, ...], align: int) -> LatencyTable:
    table = LatencyTable(
        machine=MACHINE,
        align=align,
        shapes=shapes,
        layers={layer.name: place for place, layer in enumerate(graph.layers)},
        fit=Fit(fixed=5.0),
        error=FitError(median=0.05, high=0.1, models=12),
        dense_us=1.0,
    )
    dense_us = CostModel(graph, table).count_candidate(FULL).latency
    assert dense_us is not None
    return replace(table, dense_us=dense_us)


def _make_grid(first: int, second: int, each: float) -> Grid:
    axes = [(1, end) if end > 1 else (1,) for end in (first, second)]
    rows = tuple(tuple(1 + each * one * other for other in axes[1]) for one in axes[0])
    return Grid(first=axes[0], second=axes[1], micros=rows)


def _draw_grid(rng: np.random.Generator, first: int, second: int) -> Grid:
    axes = [
        tuple(sorted({end, *rng.integers(1, end + 1, size=3).tolist()})) for end in (first, second)
    ]
    steps = rng.exponential(size=(len(axes[0]), len(axes[1]))) + 0.01
    times = steps.cumsum(0).cumsum(1)
    return Grid(first=axes[0], second=axes[1], micros=tuple(map(tuple, times.tolist())))
