from math import comb, log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import FormatError
from autocompress.store.pack.rising import read_rising, write_rising


@given(
    limit=st.sampled_from([1, 2, 3, 17, 256, 2**32, 2**64]),
    data=st.data(),
)
def test_numbers_come_back_whatever_their_distances(limit: int, data: st.DataObject) -> None:
    numbers = sorted(data.draw(st.sets(st.integers(0, limit - 1), max_size=min(limit, 80))))

    packed = write_rising(numbers, limit)

    assert read_rising(memoryview(packed), len(numbers), limit) == numbers


def test_all_numbers_below_the_limit_cost_nothing() -> None:
    assert write_rising(list(range(1000)), 1000) == b""
    assert write_rising([], 5) == b""


def test_even_and_clustered_numbers_come_near_or_below_the_bits_of_a_choice() -> None:
    generator = np.random.default_rng(0)
    even = np.unique(generator.integers(0, 2**24, 1000)).tolist()
    clustered = np.unique(generator.integers(0, 2**14, 1000)).tolist()

    floor = log2(comb(2**24, len(even))) / 8

    assert len(write_rising(even, 2**24)) < 1.03 * floor
    assert len(write_rising(clustered, 2**24)) < 0.5 * floor


@given(data=st.binary(max_size=40), count=st.integers(0, 30))
def test_anything_is_refused_or_is_read_as_it_would_be_written(data: bytes, count: int) -> None:
    try:
        numbers = read_rising(memoryview(data), count, 2**16)
    except FormatError:
        return
    assert write_rising(numbers, 2**16) == data


def test_more_numbers_than_there_are_and_a_wrong_length_are_refused() -> None:
    packed = write_rising([3, 70, 200], 256)

    with pytest.raises(FormatError, match="there are no 257"):
        read_rising(memoryview(packed), 257, 256)
    with pytest.raises(FormatError, match="ends in the middle"):
        read_rising(memoryview(packed[:-1]), 3, 256)
    with pytest.raises(FormatError, match="left over"):
        read_rising(memoryview(packed + b"\0"), 3, 256)
