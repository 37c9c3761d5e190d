import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import FormatError
from autocompress.store.pack.codec import Indices
from autocompress.store.pack.rans import Rans
from tests.store.pack import coding


@pytest.mark.parametrize("shape", coding.SHAPES)
@pytest.mark.parametrize("levels", [1, 2, 16])
@pytest.mark.parametrize("pruned", [0.0, 0.9])
def test_codes_come_back(shape: tuple[int, ...], levels: int, pruned: float) -> None:
    assert coding.check_round_trip(Rans(), coding.draw(shape, levels, pruned)) is not None


@given(coding.indices())
def test_any_codes_come_back(tensor: Indices) -> None:
    coding.check_round_trip(Rans(), tensor)


@pytest.mark.parametrize("levels", [255, 256, 257, 4095, 65_535])
def test_many_levels(levels: int) -> None:
    codes = np.concatenate([np.zeros(5, np.int64), np.arange(levels), np.arange(levels)])
    coding.check_round_trip(Rans(), coding.number(codes, (len(codes),)))


@pytest.mark.parametrize("levels", [16, 256])
@pytest.mark.parametrize("pruned", [0.0, 0.6, 0.9])
def test_large_tensors_take_their_entropy(levels: int, pruned: float) -> None:
    tensor = coding.draw((640, 1000), levels, pruned, seed=levels)
    data = coding.check_round_trip(Rans(), tensor)
    assert data is not None
    assert len(data) <= 1.005 * coding.measure_entropy(tensor) + tensor.levels


def test_equal_codes_cost_nothing() -> None:
    for shape in ((), (0, 5), (3, 4)):
        tensor = coding.draw(shape, 1, 0.0)
        assert Rans().encode(tensor) == b""
    with pytest.raises(FormatError):
        Rans().decode(memoryview(b"\0"), (3,), 1)
    with pytest.raises(FormatError):
        Rans().decode(memoryview(b""), (3,), 0)


def test_large_tensors_of_hardly_any_non_zeros_are_left_to_gaps() -> None:
    assert Rans().encode(coding.draw((1024, 1024), 16, 0.99)) is None


@pytest.mark.parametrize(("shape", "levels", "pruned"), [((9,), 3, 0.0), ((6, 5), 9, 0.6)])
def test_damage_is_told_or_leads_to_codes(
    shape: tuple[int, ...], levels: int, pruned: float
) -> None:
    tensor = coding.draw(shape, levels, pruned)
    coding.check_truncations(Rans(), tensor)
    coding.check_flips(Rans(), tensor)


def test_damage_to_many_lanes() -> None:
    tensor = coding.draw((600, 600), 256, 0.0)
    data = Rans().encode(tensor)
    assert data
    assert len(data) > 210_000
    for place in (0, 20, 150, 400, 500, 9000, len(data) - 1):
        flipped = bytearray(data)
        flipped[place] ^= 16
        coding.check_hostile(Rans(), bytes(flipped), tensor.shape, tensor.levels)
        with pytest.raises(FormatError):
            Rans().decode(memoryview(data)[:place], tensor.shape, tensor.levels)


@given(st.integers(0, 2**32))
def test_noise_is_told_or_leads_to_codes(seed: int) -> None:
    coding.check_noise(Rans(), seed)
