import math

import numpy as np
import pytest

from autocompress.jobs import Candidate
from autocompress.masks.cost import CostModel
from autocompress.search.baselines import draw_logits
from autocompress.search.bounds import make_bounds
from autocompress.search.budget import Budget
from autocompress.search.counts import make_candidate, read_counts
from autocompress.search.fill import (
    FILL_LOW,
    count_least,
    draw_fill,
    measure_fill,
    move_fill,
    scale_limits,
)
from autocompress.search.guide import Ground
from autocompress.search.space import SpaceSettings
from tests.fakes import make_resnet_graph

FULL = Candidate(filters={}, columns={})


def make_ground(budget: Budget) -> Ground:
    graph = make_resnet_graph(1)
    bounds = make_bounds(SpaceSettings(), graph, graph, FULL)
    limits = budget.limits(CostModel(graph).count_candidate(FULL))
    return Ground(bounds, limits, read_counts(bounds, FULL), 0.3)


@pytest.mark.parametrize("fill", [0.25, 0.4, 0.7, 1.0])
def test_a_candidate_made_for_a_fill_has_it(fill: float) -> None:
    ground = make_ground(Budget(weights=0.5, macs=0.6))
    logits = draw_logits(ground, 1.0, np.random.default_rng(0))

    candidate = make_candidate(ground.bounds, logits, scale_limits(ground, fill))

    # The limit that binds is used up to one filter of the widest layers: 2 % of its budget.
    measured = measure_fill(ground, read_counts(ground.bounds, candidate))
    assert measured == pytest.approx(fill, abs=0.02)
    assert measured <= fill


def test_scaled_limits_stay_within_reach() -> None:
    loose = make_ground(Budget(weights=0.5))
    least = count_least(loose.bounds)
    ground = Ground(
        loose.bounds,
        {name: 1.2 * cost for name, cost in least.items()},
        loose.base,
        loose.prior,
    )
    flat = draw_logits(ground, 1.0, np.random.default_rng(0))

    for fill in np.geomspace(FILL_LOW, 1, 8).tolist():
        limits = scale_limits(ground, fill)

        make_candidate(ground.bounds, flat, limits)  # Raises BudgetError when out of reach.
        assert all(limits[name] <= limit for name, limit in ground.limits.items())


def test_a_full_fill_leaves_the_limits_as_they_are() -> None:
    ground = make_ground(Budget(weights=0.5, bytes=0.6))

    assert scale_limits(ground, 1.0) == ground.limits


def test_moves_stay_in_range_and_reach_all_of_it() -> None:
    rng = np.random.default_rng(0)
    fills = [1.0]
    for _ in range(2000):
        fills.append(move_fill(fills[-1], rng))

    assert min(fills) >= FILL_LOW
    assert max(fills) <= 1.0
    # A walk that is mirrored at both ends visits all parts of a logarithmic scale alike; its
    # steps are a fifth of the range, so 2,000 of them are worth some 100 independent draws.
    lower = np.mean(np.log(fills) < math.log(FILL_LOW) / 2)
    assert lower == pytest.approx(0.5, abs=0.15)


def test_drawn_fills_are_uniform_on_a_logarithmic_scale() -> None:
    rng = np.random.default_rng(0)
    places = np.sort(np.log([draw_fill(rng) for _ in range(1000)]) / math.log(FILL_LOW))

    # Kolmogorov's bound at 1 in 1,000 for 1,000 draws.
    assert np.abs(places - np.linspace(0, 1, 1000)).max() < 1.95 / math.sqrt(1000)
