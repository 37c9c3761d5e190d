"""Latency as a resource of candidates: limits hold by construction, and widths align."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.errors import BudgetError
from autocompress.jobs import Candidate
from autocompress.masks.cost import CostModel
from autocompress.masks.latency import LatencyTable
from autocompress.search.bounds import Bounds, Logits, make_bounds
from autocompress.search.budget import Budget
from autocompress.search.counts import (
    count_cost,
    count_fewest,
    feasibility_table,
    make_candidate,
    make_counts,
    make_flat,
    name_counts,
    read_counts,
    round_counts,
)
from autocompress.search.fill import measure_fill, scale_limits
from autocompress.search.guide import Ground, make_start, measure_weight
from autocompress.search.relax import relax_densities
from autocompress.search.site import count_dense
from autocompress.search.space import SpaceSettings
from tests.fakes import make_resnet_graph
from tests.timed import draw_table, make_table

FULL = Candidate(filters={}, columns={})
GRAPH = make_resnet_graph(1)
SEEDS = st.integers(0, 2**32 - 1)
SHARES = st.floats(0.3, 0.95)
FILTERS = SpaceSettings(column_density=(1.0, 1.0))


def make_space(table: LatencyTable, space: SpaceSettings | None = None) -> Bounds:
    return make_bounds(space or SpaceSettings(), GRAPH, GRAPH, FULL, table)


def draw_logits(seed: int) -> Logits:
    rng = np.random.default_rng(seed)
    return Logits(rng.normal(size=len(GRAPH.groups)), rng.normal(size=len(GRAPH.layers)))


def time_widths(bounds: Bounds, keeps: Any, taken: Any) -> float:
    kept = np.append(keeps, 1)
    assert bounds.model.times is not None
    channels, rows = bounds.model.inputs @ kept, bounds.model.rows @ kept
    return float(bounds.model.times.predict(channels, rows, taken))


def find_limits(bounds: Bounds, share: float, **others: Any) -> dict[str, float]:
    """Return limits that lie ``share`` of the way from the smallest model to the dense one."""
    least = count_cost(bounds, count_fewest(bounds)).latency
    dense = count_dense(GRAPH, bounds.model.table).latency
    assert least is not None
    assert dense is not None
    return {"latency": least + share * (dense - least), **others}


@settings(max_examples=30, deadline=None)
@given(table=SEEDS, point=SEEDS, share=SHARES, macs=st.floats(0.2, 2.0))
def test_candidates_never_exceed_the_predicted_limit(
    table: int, point: int, share: float, macs: float
) -> None:
    bounds = make_space(draw_table(GRAPH, table))
    dense = CostModel(GRAPH).count_candidate(FULL)
    limits = find_limits(bounds, share, macs=macs * dense.macs)

    counts = make_counts(bounds, draw_logits(point), limits)

    cost = CostModel(GRAPH, bounds.model.table).count_candidate(name_counts(bounds, counts))
    assert cost == count_cost(bounds, counts)
    assert cost.latency is not None
    assert cost.latency <= limits["latency"]
    assert cost.macs <= limits["macs"]


@settings(max_examples=40, deadline=None)
@given(point=SEEDS, share=st.floats(0.05, 0.95), align=st.sampled_from([2, 4, 8, 16, 40]))
def test_under_latency_alone_widths_end_where_they_are_executed(
    point: int, share: float, align: int
) -> None:
    bounds = make_space(make_table(GRAPH, align, gathers=False), FILTERS)

    counts = make_counts(bounds, draw_logits(point), find_limits(bounds, share))

    full = counts.keeps == bounds.keeps_high
    assert ((counts.keeps % align == 0) | full).all()


def test_no_further_width_fits() -> None:
    bounds = make_space(make_table(GRAPH), FILTERS)
    limits = find_limits(bounds, 0.4)

    counts = make_counts(bounds, draw_logits(3), limits)

    wider = 0
    for place in np.flatnonzero(counts.keeps < bounds.keeps_high):
        keeps = counts.keeps.copy()
        keeps[place] += 1
        time = bounds.model.count(keeps, bounds.model.count_open(keeps)).latency
        assert time is not None
        assert time > limits["latency"]
        wider += 1
    assert wider


@settings(max_examples=40, deadline=None)
@given(table=SEEDS, point=SEEDS, share=SHARES)
def test_relaxed_densities_use_the_same_clock_as_counts(
    table: int, point: int, share: float
) -> None:
    bounds = make_space(draw_table(GRAPH, table))
    limits, logits = find_limits(bounds, share), draw_logits(point)
    groups = len(GRAPH.groups)

    densities = relax_densities(bounds, [logits], limits)[0]

    keeps = densities[:groups] * bounds.dense_sizes
    taken = bounds.model.inputs @ np.append(keeps, 1) * bounds.model.area * densities[groups:]
    assert time_widths(bounds, keeps, taken) <= limits["latency"] * (1 + 1e-9)
    # At whole counts it is the cost of a candidate.
    counts = make_counts(bounds, logits, limits)
    used = count_cost(bounds, counts).latency
    assert time_widths(bounds, counts.keeps, counts.columns) == used
    # And it leaves no room: with what is left over the next shift goes further, or all is kept.
    more, most = (
        relax_densities(bounds, [logits], {"latency": factor * limits["latency"]})[0]
        for factor in (1.5, 1e6)
    )
    assert (densities <= more + 1e-12).all()
    assert (most > 0.999).all()
    assert (more > densities).any() or (densities > 0.999).all()


def test_a_latency_that_cannot_be_reached_is_named() -> None:
    table = make_table(GRAPH)
    bounds = make_space(table)
    smallest = feasibility_table(SpaceSettings(), GRAPH, table)["smallest"].latency
    assert smallest is not None

    with pytest.raises(BudgetError, match=r"budget\.latency") as error:
        make_candidate(bounds, draw_logits(0), {"latency": 0.9 * smallest})

    assert error.value.reachable == pytest.approx(smallest)


def test_the_prior_leans_on_the_layers_that_take_longest() -> None:
    bounds = make_space(make_table(GRAPH))
    counts = read_counts(bounds, FULL)
    limits = find_limits(bounds, 0.5)

    _, layers = measure_weight(Ground(bounds, limits, counts, 0.3), counts)

    times = bounds.model.time_layers(counts.keeps, counts.columns)
    assert times.sum() + 5.0 == pytest.approx(count_dense(GRAPH, bounds.model.table).latency)
    assert np.array_equal(np.argsort(layers, kind="stable"), np.argsort(times, kind="stable"))


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, fill=st.floats(0.25, 1.0))
def test_a_fill_scales_the_limit_on_latency(seed: int, fill: float) -> None:
    bounds = make_space(draw_table(GRAPH, seed))
    ground = Ground(bounds, find_limits(bounds, 0.5), read_counts(bounds, FULL), 0.3)

    limits = scale_limits(ground, fill)

    counts = make_counts(bounds, make_flat(bounds), limits)
    used = count_cost(bounds, counts).latency
    assert used is not None
    assert used <= limits["latency"] <= ground.limits["latency"] * (1 + 1e-12)
    assert measure_fill(ground, counts) <= 1


def test_a_share_is_one_of_the_measured_dense_model() -> None:
    table = make_table(GRAPH)
    dense = count_dense(GRAPH, table)

    share, micros = (Budget(latency=one).limits(dense) for one in (0.5, 80.0))

    assert share == {"latency": 0.5 * table.dense_us}
    assert micros == {"latency": 80.0}
    assert Budget(latency=0.5).reduction(dense) == pytest.approx(2)


def test_counts_without_a_table_know_no_latency() -> None:
    bounds = make_bounds(SpaceSettings(), GRAPH, GRAPH, FULL)

    cost = count_cost(bounds, round_counts(bounds, make_flat(bounds), 0.0))

    assert cost.latency is None
    assert "latency" not in cost.list_known()
    with pytest.raises(KeyError):
        Budget(latency=0.5).limits(cost)
    with pytest.raises(ValueError, match="want a latency table"):
        bounds.model.time_layers(bounds.keeps_high, bounds.dense_columns)


def test_starts_meet_a_limit_on_latency() -> None:
    bounds = make_space(make_table(GRAPH))
    ground = Ground(bounds, find_limits(bounds, 0.3), read_counts(bounds, FULL), 0.3)

    for index in range(4):
        candidate = make_start(ground, index)
        time = bounds.model.count_candidate(candidate).latency
        assert time is not None
        assert time <= ground.limits["latency"]
