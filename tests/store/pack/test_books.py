import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import FormatError
from autocompress.store.pack.books import read_book, split_tensor, write_book
from autocompress.store.tensors import DTYPES, write_bits

SPECIAL = [0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-45, -3.5]


def draw(dtype: torch.dtype, levels: int, entries: int, seed: int = 0) -> torch.Tensor:
    """Return a tensor of at most ``levels`` distinct random bit patterns."""
    generator = np.random.default_rng(seed)
    word = np.dtype(f"<u{dtype.itemsize}")
    most = 2 if dtype == torch.bool else 2 ** (8 * dtype.itemsize)
    values = generator.integers(0, most, levels, dtype=np.uint64).astype(word)
    bits = values[generator.integers(0, levels, entries)]
    return write_bits(bits, dtype, (entries,))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
@pytest.mark.parametrize("levels", [1, 2, 7, 300])
def test_codes_and_book_give_the_bits_again(dtype: torch.dtype, levels: int) -> None:
    tensor = draw(dtype, levels, 1000)

    found = split_tensor(tensor)
    assert found is not None
    indices, values = found
    again = read_book(memoryview(write_book(values, dtype)), indices.levels, dtype)

    assert np.array_equal(again, values)
    made = write_bits(again[indices.codes], dtype, indices.shape)
    assert torch.equal(made.view(torch.uint8), tensor.view(torch.uint8))
    counts = np.bincount(indices.codes, minlength=indices.levels)
    assert counts[0] == counts.max()
    assert counts.min() > 0


def test_levels_rise_after_the_most_frequent_and_every_bit_pattern_counts() -> None:
    tensor = torch.tensor([2.0, 2.0, 2.0, -1.0, 5.0, 0.0, -0.0, -7.0])

    found = split_tensor(tensor)

    assert found is not None
    assert found[1].view("<f4").tolist() == [2.0, -7.0, -1.0, -0.0, 0.0, 5.0]
    assert len(np.unique(found[1])) == 6
    special = split_tensor(torch.tensor(SPECIAL))
    assert special is not None
    assert special[0].levels == len(SPECIAL)


@given(
    scale=st.floats(2.0**-100, 2.0**100, width=32),
    steps=st.lists(st.integers(-(2**12), 2**12), min_size=1, max_size=40, unique=True),
)
def test_products_of_one_scale_are_short(scale: float, steps: list[int]) -> None:
    ordered = np.array(sorted(steps), np.float32)
    with np.errstate(over="ignore", under="ignore"):
        values = (ordered * np.float32(scale)).view("<u4")

    data = write_book(values, torch.float32)

    assert np.array_equal(read_book(memoryview(data), len(values), torch.float32), values)
    assert len(data) <= 1 + values.nbytes


def test_equal_distances_cost_a_byte_each() -> None:
    values = (np.arange(-7, 8).astype(np.float32) * np.float32(0.0123)).view("<u4")

    assert len(write_book(values, torch.float32)) == 1 + 4 + 15


def test_minus_zero_is_on_no_grid() -> None:
    values = np.array([0.0, -1.0, -0.5, -0.0, 0.5, 1.0], np.float32).view("<u4")

    data = write_book(values, torch.float32)

    assert np.array_equal(read_book(memoryview(data), 6, torch.float32), values)


def test_what_is_no_book_is_refused() -> None:
    values = (np.arange(-3, 4).astype(np.float32) * np.float32(0.5)).view("<u4")
    data = write_book(values, torch.float32)

    for size in range(len(data)):
        with pytest.raises(FormatError):
            read_book(memoryview(data[:size]), 7, torch.float32)
    with pytest.raises(FormatError, match="left over"):
        read_book(memoryview(data), 6, torch.float32)
    with pytest.raises(FormatError, match="has no form"):
        read_book(memoryview(data), 7, torch.int32)
    with pytest.raises(FormatError, match="a scale above 0"):
        read_book(memoryview(b"\1" + b"\0" * 11), 7, torch.float32)
    with pytest.raises(FormatError, match="truth values"):
        read_book(memoryview(b"\0\2"), 1, torch.bool)


def test_a_tensor_of_too_many_values_has_no_book() -> None:
    assert split_tensor(torch.arange(2**16, dtype=torch.int32)) is None
    assert split_tensor(torch.arange(2**18, dtype=torch.int32)) is None
    most = split_tensor(torch.arange(2**16 - 1, dtype=torch.int32))
    assert most is not None
    assert most[0].levels == 2**16 - 1


@pytest.mark.parametrize("first", [0.0, 0.5])
def test_free_values_need_not_tell_their_order(first: float) -> None:
    drawn = np.random.default_rng(0).normal(size=255).astype(np.float32)
    values = np.concatenate([np.array([first], np.float32), np.sort(drawn)]).view("<u4")

    data = write_book(values, torch.float32)

    assert np.array_equal(read_book(memoryview(data), 256, torch.float32), values)
    assert len(data) < 0.75 * values.nbytes


@given(data=st.binary(max_size=24), levels=st.integers(0, 6), kind=st.integers(0, 3))
def test_any_bytes_are_a_book_or_refused(data: bytes, levels: int, kind: int) -> None:
    for dtype in DTYPES.values():
        try:
            values = read_book(memoryview(bytes([kind]) + data), levels, dtype)
        except FormatError:
            continue
        assert len(values) == levels
        assert values.dtype.itemsize == dtype.itemsize
