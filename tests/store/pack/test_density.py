import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.store.pack.codec import Indices
from autocompress.store.pack.density import Density
from autocompress.store.pack.gaps import Gaps
from autocompress.store.pack.rans import Rans
from tests.store.pack import coding


@pytest.mark.parametrize("shape", coding.SHAPES)
@pytest.mark.parametrize("levels", [2, 16])
@pytest.mark.parametrize("pruned", [0.5, 0.9])
def test_codes_come_back(shape: tuple[int, ...], levels: int, pruned: float) -> None:
    tensor = coding.draw(shape, levels, pruned)
    data = coding.check_round_trip(Density(), tensor)
    kept = np.count_nonzero(tensor.codes)
    assert (data is None) == (kept == 0 or 2 * kept > len(tensor.codes))


@given(coding.indices())
def test_any_codes_come_back(tensor: Indices) -> None:
    coding.check_round_trip(Density(), tensor)


@pytest.mark.parametrize("shape", [(200, 300), (48, 32, 3, 3)])
@pytest.mark.parametrize("pruned", [0.7, 0.9, 0.99])
def test_unevenly_pruned_tensors_take_less_than_by_gaps(
    shape: tuple[int, ...], pruned: float
) -> None:
    tensor = coding.draw(shape, 16, pruned, uneven=1.0)
    data = coding.check_round_trip(Density(), tensor)
    others = [len(codec.encode(tensor) or b"") for codec in (Gaps(), Rans())]
    assert data is not None
    assert len(data) < 0.93 * min(others)


@pytest.mark.parametrize("pruned", [0.6, 0.9, 0.99])
def test_evenly_pruned_tensors_take_their_entropy(pruned: float) -> None:
    tensor = coding.draw((640, 500), 16, pruned)
    data = coding.check_round_trip(Density(), tensor)
    assert data is not None
    assert len(data) <= 1.005 * coding.measure_entropy(tensor) + 40


def test_values_by_class_of_rows() -> None:
    """Where each class of rows has values of its own, these cost less."""
    random = np.random.default_rng(0)
    mask = random.random((100, 200)) < np.repeat([0.05, 0.5], 50)[:, None]
    low, high = random.integers(1, 5, mask.shape), random.integers(5, 9, mask.shape)
    apart = np.where(mask, np.vstack([low[:50], high[50:]]), 0)
    mixed = np.where(mask, np.where(random.random(mask.shape) < 0.5, low, high), 0)
    sizes = [
        len(coding.check_round_trip(Density(), coding.number(each.reshape(-1), each.shape)) or b"")
        for each in (apart, mixed)
    ]
    assert sizes[0] < sizes[1] - 0.8 * mask.sum() / 8


@pytest.mark.parametrize(
    ("shape", "levels", "pruned", "uneven"),
    [((12, 25), 3, 0.9, 2.0), ((6, 5, 3, 3), 9, 0.9, 2.0), ((30,), 3, 0.7, 0.0)],
)
def test_damage_is_told_or_leads_to_codes(
    shape: tuple[int, ...], levels: int, pruned: float, uneven: float
) -> None:
    tensor = coding.draw(shape, levels, pruned, uneven=uneven)
    coding.check_truncations(Density(), tensor)
    coding.check_flips(Density(), tensor)


@given(st.integers(0, 2**32))
def test_noise_is_told_or_leads_to_codes(seed: int) -> None:
    coding.check_noise(Density(), seed)
