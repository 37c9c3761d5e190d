import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.store.pack.codec import Indices
from autocompress.store.pack.gaps import Gaps
from tests.store.pack import coding


@pytest.mark.parametrize("shape", coding.SHAPES)
@pytest.mark.parametrize("levels", [2, 16])
@pytest.mark.parametrize("pruned", [0.5, 0.9])
def test_codes_come_back(shape: tuple[int, ...], levels: int, pruned: float) -> None:
    tensor = coding.draw(shape, levels, pruned)
    data = coding.check_round_trip(Gaps(), tensor)
    kept = np.count_nonzero(tensor.codes)
    assert (data is None) == (kept == 0 or 2 * kept > len(tensor.codes))


@given(coding.indices())
def test_any_codes_come_back(tensor: Indices) -> None:
    coding.check_round_trip(Gaps(), tensor)


def test_many_levels() -> None:
    codes = np.zeros(200_000, np.int64)
    codes[:65_534] = np.arange(1, 65_535)
    coding.check_round_trip(Gaps(), coding.number(codes, (2, 100_000)))


@pytest.mark.parametrize("levels", [16, 256])
@pytest.mark.parametrize("pruned", [0.9, 0.99, 0.999])
def test_large_tensors_take_their_entropy(levels: int, pruned: float) -> None:
    tensor = coding.draw((640, 1000), levels, pruned, seed=levels)
    data = coding.check_round_trip(Gaps(), tensor)
    assert data is not None
    assert len(data) <= 1.005 * coding.measure_entropy(tensor) + tensor.levels


def test_long_gaps() -> None:
    codes = np.zeros(3_000_000, np.int64)
    codes[[0, 1, 2_999_999]] = 1, 2, 1
    data = coding.check_round_trip(Gaps(), coding.number(codes, codes.shape))
    assert data is not None
    assert len(data) < 20


def test_the_better_order_is_taken() -> None:
    """Kept columns are long gaps by rows and none by columns."""
    matrix = np.zeros((300, 400), np.int64)
    matrix[:, ::40] = 1
    matrix[np.random.default_rng(0).random(matrix.shape) < 0.3] = 0
    sizes = [
        len(coding.check_round_trip(Gaps(), coding.number(each.reshape(-1), each.shape)) or b"")
        for each in (matrix, np.ascontiguousarray(matrix.T))
    ]
    assert abs(sizes[0] - sizes[1]) <= 2


@pytest.mark.parametrize(("shape", "levels", "pruned"), [((40,), 3, 0.8), ((12, 25), 9, 0.9)])
def test_damage_is_told_or_leads_to_codes(
    shape: tuple[int, ...], levels: int, pruned: float
) -> None:
    tensor = coding.draw(shape, levels, pruned)
    coding.check_truncations(Gaps(), tensor)
    coding.check_flips(Gaps(), tensor)


def test_damage_to_stored_tables_of_gaps() -> None:
    values = np.zeros(1200, np.int64)
    values[::3] = 1
    tensor = coding.number(values, (1200,))
    coding.check_truncations(Gaps(), tensor)
    coding.check_flips(Gaps(), tensor)


@given(st.integers(0, 2**32))
def test_noise_is_told_or_leads_to_codes(seed: int) -> None:
    coding.check_noise(Gaps(), seed)
