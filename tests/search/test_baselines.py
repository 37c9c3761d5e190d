import numpy as np
import pytest

from autocompress.jobs import Candidate
from autocompress.masks.cost import CostModel
from autocompress.search.anneal import Schedule
from autocompress.search.baselines import (
    ATTEMPTS,
    FILTERS_ONLY,
    find_unknown,
    search_randomly,
    split_logits,
    spread_point,
    sweep_uniformly,
)
from autocompress.search.bounds import make_bounds
from autocompress.search.budget import Budget
from autocompress.search.counts import read_counts
from autocompress.search.guide import Ground, make_start
from autocompress.search.settings import SearchSettings
from autocompress.search.space import SpaceSettings
from tests.fakes import make_resnet_graph

FULL = Candidate(filters={}, columns={})


def make_ground(share: float = 0.3) -> Ground:
    graph = make_resnet_graph(1)
    bounds = make_bounds(SpaceSettings(), graph, graph, FULL)
    limits = Budget(weights=share).limits(CostModel(graph).count_candidate(FULL))
    return Ground(bounds, limits, read_counts(bounds, FULL), 0.3)


def make_schedule(settings: SearchSettings | None = None) -> Schedule:
    return Schedule(settings=settings or SearchSettings(), seed=0, round=0, starts=3)


def measure_shares(ground: Ground, candidate: Candidate) -> tuple[list[float], list[float]]:
    """Return the densities of the groups and of the layers with a choice."""
    counts = read_counts(ground.bounds, candidate)
    left = ground.bounds.model.count_open(counts.keeps)
    filters = [
        keep / group.size
        for keep, group in zip(counts.keeps.tolist(), ground.bounds.graph.groups, strict=True)
        if group.prunable
    ]
    return filters, (counts.columns / left).tolist()


def test_the_sweep_begins_with_all_densities_alike() -> None:
    ground = make_ground()

    first = sweep_uniformly(make_schedule(), ground).propose(0, set())

    assert first.candidate == make_start(ground, 0)


def test_the_sweep_reaches_both_ends() -> None:
    ground = make_ground()
    sweep = sweep_uniformly(make_schedule(), ground)

    filters_only = measure_shares(ground, sweep.propose(1, set()).candidate)
    columns_only = measure_shares(ground, sweep.propose(2, set()).candidate)

    assert min(filters_only[1]) == 1
    assert max(filters_only[0]) < 0.6
    assert min(columns_only[0]) == 1
    assert max(columns_only[1]) < 0.4


@pytest.mark.parametrize("index", range(9))
def test_all_filters_have_one_density_and_all_columns_another(index: int) -> None:
    ground = make_ground()

    candidate = sweep_uniformly(make_schedule(), ground).propose(index, set()).candidate

    # Rounding: half a filter of 16; and one more filter where the budget has room for it.
    for shares in measure_shares(ground, candidate):
        assert max(shares) - min(shares) <= 1.5 / 16


@pytest.mark.parametrize("base", [2, 3])
@pytest.mark.parametrize("power", [1, 3, 5])
def test_every_part_of_the_range_gets_its_share_of_points(base: int, power: int) -> None:
    points = sorted(spread_point(number, base) for number in range(base**power))

    assert points == pytest.approx([place / base**power for place in range(base**power)])


def test_splits_refine_the_range_on_both_sides() -> None:
    differences = [columns - filters for filters, columns in map(split_logits, range(3, 16))]

    # 14 of them halve the range three times; the first, which is 0, has been place 0.
    assert sorted(differences) == pytest.approx(sorted(-one for one in differences), abs=3)
    assert len(set(differences)) == 13


def test_a_sweep_over_sizes_takes_turns_at_the_splits() -> None:
    ground = make_ground(0.5)
    settings = SearchSettings(objectives=("energy", "weights"))
    sweep = sweep_uniformly(make_schedule(settings), ground)

    shares = [measure_shares(ground, sweep.propose(index, set()).candidate) for index in range(30)]
    filters_only = [max(filters) for filters, columns in shares if min(columns) == 1]

    assert len(filters_only) == 6
    assert max(filters_only) > 1.5 * min(filters_only)


def test_a_random_point_often_has_all_columns_and_often_not() -> None:
    ground = make_ground()
    search = search_randomly(make_schedule(), ground)

    candidates = [search.propose(index, set()).candidate for index in range(200)]
    full = np.mean([min(measure_shares(ground, one)[1]) == 1 for one in candidates])

    # Three standard deviations of 200 draws.
    assert full == pytest.approx(FILTERS_ONLY, abs=3 * (0.3 * 0.7 / 200) ** 0.5)


def test_the_first_unknown_candidate_is_taken() -> None:
    candidates = [Candidate(filters={"a": count}, columns={}) for count in range(1, 40)]
    known = {one.key() for one in candidates[:5]}

    assert find_unknown(lambda attempt: candidates[attempt], known) == candidates[5]


def test_after_the_last_attempt_a_known_candidate_is_taken() -> None:
    candidates = [Candidate(filters={"a": count}, columns={}) for count in range(1, 40)]
    known = {one.key() for one in candidates}

    assert find_unknown(lambda attempt: candidates[attempt], known) == candidates[ATTEMPTS - 1]
