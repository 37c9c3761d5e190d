import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from autocompress.pareto import find_front, measure_hypervolume

Costs = NDArray[np.float64]

# Few distinct values make ties, repeats and NaN frequent.
VALUES = st.sampled_from([0.0, 1.0, 2.0, 3.0, float("inf"), float("-inf"), float("nan")])
COSTS = st.tuples(st.integers(0, 12), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=VALUES)
)


def find_front_slowly(costs: Costs) -> list[bool]:
    """Return the front by its definition, comparing all pairs."""

    def beats(i: int, j: int) -> bool:
        a, b = costs[i], costs[j]
        return bool((a <= b).all() and ((a < b).any() or i < j))

    clean = [i for i in range(len(costs)) if not np.isnan(costs[i]).any()]
    return [
        i in clean and not any(beats(j, i) for j in clean if j != i) for i in range(len(costs))
    ]


@given(COSTS)
def test_front_is_what_the_definition_says(costs: Costs) -> None:
    assert find_front(costs).tolist() == find_front_slowly(costs)


@given(arrays(np.float64, st.tuples(st.integers(0, 12), st.just(2)), elements=VALUES))
def test_two_objectives_give_the_front_of_the_general_way(costs: Costs) -> None:
    constant = np.concatenate([costs, np.zeros((len(costs), 1))], axis=1)

    assert find_front(costs).tolist() == find_front(constant).tolist()


def test_a_nan_row_never_is_on_the_front() -> None:
    costs = np.array([[np.nan, -1.0], [0.0, 0.0], [-1.0, np.nan]])

    assert find_front(costs).tolist() == [False, True, False]


def test_of_equal_rows_the_first_is_on_the_front() -> None:
    costs = np.array([[1.0, 1.0], [0.0, 2.0], [0.0, 2.0], [1.0, 1.0]])

    assert find_front(costs).tolist() == [True, True, False, False]


def test_no_points_have_an_empty_front() -> None:
    assert find_front(np.zeros((0, 2))).tolist() == []


def test_costs_without_objectives_are_refused() -> None:
    with pytest.raises(ValueError, match=r"want shape \(points, objectives\), got \(3,\)"):
        find_front(np.zeros(3))


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_many_points_have_the_front_of_the_definition(objectives: int) -> None:
    draws = np.random.default_rng(objectives)
    # Several blocks of rows, of which the coarse half has ties and repeats.
    costs = np.concatenate(
        [draws.integers(0, 6, (900, objectives)), draws.normal(2, 2, (900, objectives))]
    )
    no_worse = (costs[:, None] <= costs).all(axis=2)
    better = (costs[:, None] < costs).any(axis=2)
    earlier = np.arange(len(costs))[:, None] < np.arange(len(costs))

    beaten = (no_worse & (better | earlier)).any(axis=0)

    assert np.array_equal(find_front(costs), ~beaten)


@pytest.mark.parametrize("objectives", [2, 3, 4])
@pytest.mark.parametrize("all_on_front", [False, True])
def test_ten_thousand_points_take_less_than_100_ms(objectives: int, *, all_on_front: bool) -> None:
    costs = np.random.default_rng(0).random((10_000, objectives))
    if all_on_front:
        costs[:, -1] = -costs[:, :-1].sum(axis=1)
    fronts, times_s = [], []

    for _ in range(3):
        start = time.process_time()
        fronts.append(find_front(costs))
        times_s.append(time.process_time() - start)

    # CPU seconds: other processes share this machine's cores.
    assert min(times_s) < 0.1
    assert fronts[0].all() == all_on_front


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_a_hypervolume_is_the_number_of_unit_squares_that_some_point_dominates(
    points: list[tuple[int, int]],
) -> None:
    reference = (8, 7)
    squares = {
        (x, y)
        for x in range(reference[0])
        for y in range(reference[1])
        if any(a <= x and b <= y for a, b in points)
    }
    costs = np.array([*points, (np.nan, 0)], dtype=np.float64)

    assert measure_hypervolume(costs, reference) == len(squares)
