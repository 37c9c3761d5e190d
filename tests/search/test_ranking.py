from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.graph.layers import OUTSIDE
from autocompress.jobs import Candidate
from autocompress.masks.cost import CostModel
from autocompress.masks.importance import Importance
from autocompress.search.anneal import Schedule
from autocompress.search.bounds import Bounds, Counts, make_bounds
from autocompress.search.budget import Budget
from autocompress.search.counts import count_cost, make_candidate, make_flat, read_counts
from autocompress.search.guide import Ground
from autocompress.search.ranking import (
    count_above,
    divide_by_mean,
    find_logits,
    mix,
    normalise_all,
    rank_globally,
    score_lamp,
    take_as_is,
)
from autocompress.search.settings import SearchSettings
from autocompress.search.space import SpaceSettings
from tests.fakes import make_importance, make_resnet_graph

FULL = Candidate(filters={}, columns={})
GRAPH = make_resnet_graph(1)
FILTERS_ONLY = SpaceSettings(column_density=(1.0, 1.0))
BOUNDS = make_bounds(FILTERS_ONLY, GRAPH, GRAPH, FULL)
WHOLE = CostModel(GRAPH).count_candidate(FULL)


def make_ground(importance: Importance | None) -> Ground:
    limits = Budget(macs=0.4).limits(WHOLE)
    return Ground(BOUNDS, limits, read_counts(BOUNDS, FULL), 0.3, importance=importance)


def test_a_threshold_keeps_exactly_what_lies_above_it() -> None:
    scores = make_importance(GRAPH)
    counts = count_above(BOUNDS, scores, np.log(0.7))
    for place, group in enumerate(GRAPH.groups):
        above = int((scores.units[group.name] > 0.7).sum())
        least, most = BOUNDS.keeps_low[place], BOUNDS.keeps_high[place]
        assert counts.keeps[place] == min(max(above, least), most)


def draw_scores(seed: int, left: float, follow: float) -> Importance:
    """Return random scores of a base that has about ``left`` of its columns.

    Args:
        seed: Of the scores.
        left: Share of the columns that are there; the others score 0.
        follow: How much the score of a column is that of the unit it reads, 0..1.
    """
    random = np.random.default_rng(seed)
    units = {one.name: random.uniform(0.1, 2, one.size) for one in GRAPH.groups}
    by_unit = np.append(np.concatenate(list(units.values())), 1.0)  # The last one is outside.
    columns = {}
    for layer in GRAPH.column_layers:
        own = np.repeat(by_unit[list(layer.in_units)], layer.area)
        scores = own**follow * random.uniform(0.1, 2, layer.columns) ** (1 - follow)
        there = random.uniform(size=layer.columns) < left
        there[random.integers(layer.columns)] = True
        columns[layer.name] = np.where(there, scores, 0.0)
    return Importance(units, columns)


def bound_base(scores: Importance) -> tuple[Bounds, Candidate]:
    """Return the bounds of a base with the columns that have a score, and its counts."""
    columns = {name: int(np.count_nonzero(one)) for name, one in scores.columns.items()}
    kept = Candidate(filters={}, columns=columns)
    return make_bounds(SpaceSettings(), GRAPH, GRAPH, kept), kept


BASES = st.tuples(st.integers(0, 10**6), st.sampled_from([1.0, 0.5, 0.1]), st.floats(0, 1))


@given(BASES, st.floats(0.1, 1.5))
def test_what_lies_above_the_threshold_is_counted(
    base: tuple[int, float, float], threshold: float
) -> None:
    scores = draw_scores(*base)
    bounds, _ = bound_base(scores)

    counts = count_above(bounds, scores, float(np.log(threshold)))

    kept = {OUTSIDE}
    for place, group in enumerate(GRAPH.groups):
        own = scores.units[group.name]
        above = {group.start + unit for unit in range(group.size) if own[unit] > threshold}
        best = group.start + int(own.argmax())  # A group does not go.
        kept |= above | {best} if group.prunable else set(group.units)
        assert counts.keeps[place] == len(kept & set(group.units))
    _, fewest, most = bounds.open_columns(counts.keeps)
    for place, layer in enumerate(GRAPH.layers):
        read = [layer.in_units[column // layer.area] for column in range(layer.columns)]
        pairs = zip(read, scores.columns[layer.name].tolist(), strict=True)
        columns = sum(unit in kept and score > threshold for unit, score in pairs)
        assert counts.columns[place] == min(max(columns, fewest[place]), most[place])


@given(BASES)
def test_below_all_scores_the_base_stays_as_it_is(base: tuple[int, float, float]) -> None:
    scores = draw_scores(*base)
    bounds, kept = bound_base(scores)
    counts, whole = count_above(bounds, scores, np.log(1e-9)), read_counts(bounds, kept)
    np.testing.assert_array_equal(counts.keeps, whole.keeps)
    np.testing.assert_array_equal(counts.columns, whole.columns)


@cache
def count_above_each() -> list[tuple[Counts, int]]:
    """Return counts and MACs at every threshold there is."""
    scores = make_importance(GRAPH)
    values = np.unique(np.concatenate([*scores.units.values(), *scores.columns.values()]))
    counted = [count_above(BOUNDS, scores, float(np.log(value)) - 1e-9) for value in values]
    return [(counts, count_cost(BOUNDS, counts).macs) for counts in counted]


@given(st.floats(0.05, 0.95))
def test_the_threshold_is_the_lowest_that_fits(share: float) -> None:
    scores = make_importance(GRAPH)
    limits = Budget(macs=share).limits(WHOLE)
    found = make_candidate(BOUNDS, find_logits(BOUNDS, scores, limits), limits)
    fitting = [counts for counts, macs in count_above_each() if macs <= limits["macs"]]
    most = max(fitting, key=lambda one: int(one.keeps.sum()), default=None)
    kept = read_counts(BOUNDS, found).keeps
    # What is left of the budget is filled up; nothing above the threshold is lost but a filter.
    if most is not None:
        assert (kept >= most.keeps - 1).all()
    assert count_cost(BOUNDS, read_counts(BOUNDS, found)).macs <= limits["macs"]


def test_lamp_is_the_energy_over_all_that_are_not_smaller() -> None:
    energies = np.array([3.0, 1.0, 2.0, 4.0])
    np.testing.assert_allclose(score_lamp(energies), [3 / 7, 1 / 10, 2 / 9, 1.0])


@pytest.mark.parametrize("normalise", [divide_by_mean, take_as_is, score_lamp])
def test_a_normalisation_keeps_the_order_within_a_group(normalise: object) -> None:
    energies = np.random.default_rng(0).exponential(size=50)
    assert callable(normalise)
    assert (np.argsort(normalise(energies)) == np.argsort(energies)).all()


def test_scores_by_the_mean_do_not_depend_on_a_layers_scale() -> None:
    energies = np.random.default_rng(0).exponential(size=50)
    for normalise in (divide_by_mean, score_lamp):
        np.testing.assert_allclose(normalise(1e4 * energies), normalise(energies))
    assert (take_as_is(1e4 * energies) > take_as_is(energies)).all()


@pytest.mark.parametrize("normalise", [divide_by_mean, take_as_is, score_lamp])
def test_what_is_gone_does_not_raise_what_is_left(normalise: object) -> None:
    energies = np.random.default_rng(0).exponential(size=50)
    assert callable(normalise)
    masked = normalise(np.concatenate([energies, np.zeros(150)]))
    np.testing.assert_allclose(masked[:50], normalise(energies))
    assert not masked[50:].any()
    assert not normalise(np.zeros(3)).any()


def test_without_importance_all_densities_are_alike() -> None:
    ground = make_ground(None)
    schedule = Schedule(settings=SearchSettings(searcher="global"), seed=0, round=0, starts=3)
    searcher = rank_globally(schedule, ground)
    flat = make_candidate(BOUNDS, make_flat(BOUNDS), ground.limits)
    assert all(searcher.propose(place, ()).candidate == flat for place in range(6))


def test_a_mix_lies_between_equal_densities_and_the_ranking() -> None:
    ground = make_ground(make_importance(GRAPH))
    ranked = find_logits(
        BOUNDS, normalise_all(make_importance(GRAPH), divide_by_mean), ground.limits
    )
    densities = [
        read_counts(
            BOUNDS, make_candidate(BOUNDS, mix(BOUNDS, ranked, share), ground.limits)
        ).keeps
        / BOUNDS.dense_sizes
        for share in (0.0, 0.5, 1.0)
    ]
    spreads = [float(np.std(one[BOUNDS.keeps_low < BOUNDS.keeps_high])) for one in densities]
    assert spreads[0] < spreads[1] < spreads[2]
