from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.quantize.codebook import (
    Cells,
    Floats,
    Line,
    cut,
    cut_evenly,
    fill,
    find_constrained,
    find_for_rate,
    find_means,
    find_step,
    fits,
    list_starts,
    measure_cost,
    measure_error,
    measure_rate,
    sweep,
)

numbers_of = st.lists(st.integers(-20, 20), min_size=1, max_size=40).map(
    lambda some: np.array(some) / 7
)


def draw(size: int, seed: int = 0, *, heavy: bool = False) -> Floats:
    random = np.random.default_rng(seed)
    return random.laplace(size=size) ** 3 if heavy else random.normal(size=size)


def sweep_by_hand(numbers: Floats, centres: Floats, shares: Floats, weight: float) -> Floats:
    """Return the means of the numbers nearest to each centre by its cost; ties go low."""
    costs = (numbers[:, None] - centres) ** 2 - weight * np.log(shares)
    own = costs.argmin(1)
    return np.array([numbers[own == one].mean() for one in np.unique(own)])


@given(numbers_of, st.integers(1, 9), st.sampled_from([0.0, 0.01, 0.1, 1.0]))
def test_a_sweep_gives_each_number_to_the_cell_of_least_cost(
    numbers: Floats, levels: int, weight: float
) -> None:
    line = Line.of(numbers)
    for cells in list_starts(line, levels):
        after = sweep(line, cells, weight)

        shares = cells.weigh(line) / line.total
        by_hand = sweep_by_hand(numbers, cells.centres, shares, weight)
        # Ties between two cells may fall on either side, by a rounding.
        if len(by_hand) == len(after.centres) and np.allclose(by_hand, after.centres):
            continue
        costs = np.sort((numbers[:, None] - cells.centres) ** 2 - weight * np.log(shares), axis=1)
        assert (costs[:, 1] - costs[:, 0]).min() < 1e-9


@pytest.mark.parametrize("weight", [0.0, 1e-3, 0.05, 2.0])
@pytest.mark.parametrize("levels", [1, 2, 7, 40])
@pytest.mark.parametrize("heavy", [False, True])
def test_the_cost_never_rises(weight: float, levels: int, heavy: bool) -> None:
    line = Line.of(draw(3_000, heavy=heavy))
    for start in list_starts(line, levels):
        cells = start
        for _ in range(30):
            before, cells = cells, sweep(line, cells, weight)
            cost = measure_cost(line, before, weight)
            assert measure_cost(line, cells, weight) <= cost + 1e-12 * line.variance


@given(numbers_of, st.integers(1, 4))
def test_means_are_not_far_from_the_best_of_all_cuts(numbers: Floats, levels: int) -> None:
    line = Line.of(numbers)
    found = find_means(line, levels, 1_000)

    def error_of(inner: tuple[int, ...]) -> float:
        bounds = line.values[list(inner)]
        return measure_error(line, cut(line, bounds))

    count = min(levels, len(line.values)) - 1
    best = min(error_of(inner) for inner in combinations(range(len(line.values) - 1), count))
    # Lloyd's ends in a local optimum; three starts keep it this near on 40 numbers.
    assert best - 1e-12 <= measure_error(line, found) <= 1.6 * best + 1e-12
    assert len(found.centres) <= levels


def test_a_weight_of_zero_is_a_k_means() -> None:
    line = Line.of(draw(2_000, heavy=True))

    one, other = find_constrained(line, 20, 0.0, 500), find_means(line, 20, 500)

    assert np.array_equal(one.centres, other.centres)
    assert np.array_equal(one.starts, other.starts)


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("levels", [5, 64])
def test_the_rate_falls_and_the_error_rises_with_the_weight(levels: int, heavy: bool) -> None:
    line = Line.of(draw(4_000, heavy=heavy))
    weights = line.variance * np.geomspace(1e-3, 3, 15)

    found = [find_constrained(line, levels, weight, 500) for weight in weights]

    rates = [measure_rate(line, cells) for cells in found]
    errors = [measure_error(line, cells) for cells in found]
    # The best of a few local optima: nearly monotonic.
    assert (np.diff(rates) <= 0.05).all()
    assert (np.diff(errors) >= -0.05 * line.variance).all()
    assert rates[-1] < 0.3 * rates[0]


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("levels", [2, 3, 4, 16, 100])
def test_at_the_rate_of_equal_steps_the_error_is_less(levels: int, heavy: bool) -> None:
    line = Line.of(draw(5_000, heavy=heavy))
    step = find_step(line, levels)
    multiples = np.rint(line.values / step) * step
    error = np.average((line.values - multiples) ** 2, weights=line.counts)
    rate = measure_rate(line, cut_evenly(line, step))

    found = find_for_rate(line, levels, rate, 200)

    assert measure_rate(line, found) <= rate * (1 + 1e-9)
    assert len(found.centres) <= levels
    assert measure_error(line, found) < error


@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0, 2.5, 4.0])
def test_a_rate_is_kept_to_and_nearly_used(rate: float) -> None:
    line = Line.of(draw(5_000))

    found = find_for_rate(line, 64, rate, 200)

    assert 0.93 * rate - 0.01 <= measure_rate(line, found) <= rate * (1 + 1e-9)
    # The rate-distortion function of a normal source, and 1.53 dB above it.
    least = line.variance * 4**-rate
    assert 0.95 * least <= measure_error(line, found) <= 1.5 * least


def test_a_rate_that_all_values_keep_to_is_lossless() -> None:
    line = Line.of(np.array([0.0, 0.0, 1.0, 3.0]))

    assert measure_error(line, find_for_rate(line, 3, 1.6, 10)) == 0
    assert len(find_for_rate(line, 3, 1e-9, 10).centres) == 1


@given(numbers_of, st.integers(1, 12))
def test_a_step_fits_and_a_smaller_one_does_not(numbers: Floats, levels: int) -> None:
    line = Line.of(numbers)
    if len(line.values) <= levels:
        return

    step = find_step(line, levels)

    assert len(np.unique(np.rint(numbers / step))) <= levels
    assert fits(line, step, levels)
    assert not fits(line, step * (1 - 1e-8), levels)


@given(numbers_of, st.integers(1, 12))
def test_starts_have_all_levels_even_where_one_value_is_most_of_them(
    numbers: Floats, levels: int
) -> None:
    line = Line.of(np.concatenate([np.zeros(1_000), numbers]))

    for cells in list_starts(line, levels):
        assert len(cells.centres) == min(levels, len(line.values))
        assert (np.diff(cells.centres) > 0).all()
        assert cells.weigh(line).sum() == line.total
        assert (cells.weigh(line) > 0).all()


def test_filling_stops_when_nothing_is_left_to_split() -> None:
    line = Line.of(np.array([1.0, 1.0, 2.0]))
    whole = Cells(np.array([4 / 3]), np.array([0, 2]))

    assert fill(line, whole, 5).centres.tolist() == [1, 2]


def test_figures_are_those_of_the_definition() -> None:
    numbers = np.array([0.0, 1.0, 5.0, 5.0])
    line = Line.of(numbers)
    cells = cut(line, np.array([2.0]))

    assert cells.centres.tolist() == [0.5, 5]
    assert measure_error(line, cells) == pytest.approx(0.125)
    assert measure_rate(line, cells) == pytest.approx(1)
    assert measure_cost(line, cells, 0.1) == pytest.approx(0.125 + 0.1 * np.log(2))
    assert line.variance == pytest.approx(numbers.var())
