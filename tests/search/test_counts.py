import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.errors import BudgetError
from autocompress.jobs import Candidate
from autocompress.masks.cost import CostModel
from autocompress.search.bounds import Bounds, Logits, make_bounds
from autocompress.search.budget import Budget
from autocompress.search.counts import (
    count_cost,
    feasibility_table,
    make_candidate,
    make_counts,
    measure_densities,
    read_counts,
    read_logits,
    round_counts,
)
from autocompress.search.space import SpaceSettings
from tests.fakes import make_resnet_graph, make_small_graph

FULL = Candidate(filters={}, columns={})
RESNET = make_resnet_graph()
DENSE = CostModel(RESNET).count_candidate(FULL)
BOUNDS = make_bounds(SpaceSettings(), RESNET, RESNET, FULL)


def draw_logits(bounds: Bounds, seed: int) -> Logits:
    rng = np.random.default_rng(seed)
    groups, layers = len(bounds.graph.groups), len(bounds.graph.layers)
    return Logits(rng.normal(size=groups), rng.normal(size=layers))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.01, 0.5), weights=st.floats(0.01, 0.5))
def test_candidates_use_the_budgets_up_and_never_exceed_them(
    seed: int, share: float, weights: float
) -> None:
    limits = Budget(macs=share, weights=weights).limits(DENSE)

    counts = make_counts(BOUNDS, draw_logits(BOUNDS, seed), limits)

    cost = count_cost(BOUNDS, counts).list_known()
    assert all(cost[name] <= limit for name, limit in limits.items())
    assert (counts.keeps >= 1).all()
    assert (counts.columns >= 1).all()
    for place, group in enumerate(RESNET.groups):
        if group.prunable and counts.keeps[place] < group.size:
            more = counts.keeps.copy()
            more[place] += 1
            left = BOUNDS.model.count_open(more)
            opened = np.where(
                counts.columns == BOUNDS.model.count_open(counts.keeps), left, counts.columns
            )
            grown = BOUNDS.model.count(more, opened).list_known()
            # One more filter, with the columns it opens in layers that have them all.
            assert any(grown[name] > limit * 0.99 for name, limit in limits.items())


@pytest.mark.parametrize("share", [0.5, 0.25, 0.1, 0.05, 0.01])
def test_a_proposal_takes_less_than_50_ms(share: float) -> None:
    limits = Budget(macs=share, params=share).limits(DENSE)
    times = []

    for seed in range(5):
        logits = draw_logits(BOUNDS, seed)
        start = time.perf_counter()
        make_candidate(BOUNDS, logits, limits)
        times.append(time.perf_counter() - start)

    assert min(times) < 0.05  # The least of 5: the machine may be busy with other things.


def test_an_unreachable_budget_says_what_is_reachable() -> None:
    smallest = feasibility_table(SpaceSettings(), RESNET)["smallest"]

    with pytest.raises(BudgetError) as error:
        make_counts(BOUNDS, draw_logits(BOUNDS, 0), {"macs": 10.0})

    assert error.value.reachable == smallest.macs


def test_fixed_groups_and_layers_left_alone_stay_full() -> None:
    space = SpaceSettings(leave_alone=("stem",), column_density=(0.5, 1.0))
    bounds = make_bounds(space, RESNET, RESNET, FULL)
    limits = Budget(macs=0.2).limits(DENSE)

    candidate = make_candidate(bounds, draw_logits(bounds, 1), limits)

    assert "out" not in candidate.filters
    assert candidate.filters["stage0"] == 16
    assert candidate.columns["stem"] == 27


def test_filters_only_and_columns_only_are_spaces_too() -> None:
    limits = Budget(weights=0.3).limits(DENSE)
    filters = make_bounds(SpaceSettings(column_density=(1.0, 1.0)), RESNET, RESNET, FULL)
    columns = make_bounds(SpaceSettings(filter_density=(1.0, 1.0)), RESNET, RESNET, FULL)

    by_filters = make_counts(filters, draw_logits(filters, 0), limits)
    by_columns = make_counts(columns, draw_logits(columns, 0), limits)

    assert (by_filters.columns == filters.model.count_open(by_filters.keeps)).all()
    assert (by_columns.keeps == columns.model.sizes).all()


@pytest.mark.parametrize("step", [4, 8])
def test_counts_are_multiples_within_the_budget(step: int) -> None:
    space = SpaceSettings(filters_multiple_of=step, columns_multiple_of=step)
    bounds = make_bounds(space, RESNET, RESNET, FULL)
    limits = Budget(macs=0.2).limits(DENSE)

    counts = make_counts(bounds, draw_logits(bounds, 2), limits)

    full = bounds.model.count_open(counts.keeps)
    assert ((counts.keeps % step == 0) | (counts.keeps == bounds.model.sizes)).all()
    assert ((counts.columns % step == 0) | (counts.columns == full)).all()
    assert count_cost(bounds, counts).macs <= limits["macs"]


def test_a_later_round_stays_within_its_base() -> None:
    dense = make_small_graph()
    base = make_small_graph((8, 10))
    kept = Candidate(filters={"a": 8, "b": 10}, columns={"a": 20, "b": 36, "fc": 10})
    bounds = make_bounds(SpaceSettings(), dense, base, kept)

    top = make_counts(bounds, draw_logits(bounds, 0), {"weights": 1e9})
    less = make_counts(bounds, draw_logits(bounds, 0), {"weights": 250.0})
    densities = measure_densities(bounds, kept)

    assert top.keeps.tolist() == [8, 10, 10]
    assert top.columns.tolist() == [20, 36, 10]
    assert (less.columns <= bounds.open_columns(less.keeps)[2]).all()
    assert densities["filters/a"] == 8 / 12
    assert densities["columns/b"] == 36 / 108


def test_counts_survive_logits() -> None:
    limits = Budget(macs=0.3).limits(DENSE)
    counts = make_counts(BOUNDS, draw_logits(BOUNDS, 3), limits)

    again = round_counts(BOUNDS, read_logits(BOUNDS, counts), 0.0)
    named = read_counts(BOUNDS, make_candidate(BOUNDS, draw_logits(BOUNDS, 3), limits))

    assert again.keeps.tolist() == counts.keeps.tolist() == named.keeps.tolist()
    assert again.columns.tolist() == counts.columns.tolist() == named.columns.tolist()


def test_the_table_orders_its_rows() -> None:
    table = feasibility_table(SpaceSettings(), RESNET)

    assert table["full"] == DENSE
    assert table["smallest"].weights < table["centroid"].weights < table["full"].weights
