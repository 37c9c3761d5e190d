import heapq
from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import FormatError
from autocompress.store.pack.bits import BitReader, BitWriter
from autocompress.store.pack.tables import Table, read_table, scale_counts, write_table

COUNTS = st.lists(
    st.one_of(st.just(0), st.integers(0, 30), st.integers(0, 2**40)), min_size=1, max_size=16
).filter(any)


def split_best(counts: list[int], bits: int) -> list[int]:
    """Return the frequencies of least coded size, unit by unit."""
    found = [int(count > 0) for count in counts]
    gains = [(-count * log2(2.0), place) for place, count in enumerate(counts) if count]
    heapq.heapify(gains)
    for _ in range(2**bits - sum(found)):
        _, place = heapq.heappop(gains)
        found[place] += 1
        more = counts[place] * log2((found[place] + 1) / found[place])
        heapq.heappush(gains, (-more, place))
    return found


@given(COUNTS, st.integers(4, 16))
def test_frequencies_sum_and_none_is_lost(counts: list[int], bits: int) -> None:
    found = scale_counts(np.array(counts), bits)
    assert found.dtype == np.uint32
    assert int(found.sum()) == 2**bits
    assert np.array_equal(found > 0, np.array(counts) > 0)


@given(COUNTS, st.integers(4, 12))
def test_no_unit_is_better_elsewhere_by_the_rule_of_webster(counts: list[int], bits: int) -> None:
    found = scale_counts(np.array(counts), bits).tolist()
    lost = [count / (2 * got - 1) for count, got in zip(counts, found, strict=True) if got > 1]
    won = [count / (2 * got + 1) for count, got in zip(counts, found, strict=True) if got]
    assert not lost or min(lost) >= max(won) * (1 - 1e-9)


@given(COUNTS, st.integers(4, 10))
def test_coded_size_is_within_a_thousandth_of_the_best(counts: list[int], bits: int) -> None:
    histogram = np.array(counts)
    best = Table(bits=bits, frequencies=np.array(split_best(counts, bits), np.uint32))
    found = Table(bits=bits, frequencies=scale_counts(histogram, bits))
    assert found.cost(histogram) <= best.cost(histogram) * 1.001 + 1e-6


def test_frequencies_of_many_symbols() -> None:
    for counts in (np.ones(2**16), np.arange(1, 40_001), 2 ** (np.arange(5000) % 40)):
        found = scale_counts(counts.astype(np.int64), 16)
        assert int(found.sum()) == 2**16
        assert found.min() >= 1


def test_no_frequencies_of_nothing_and_of_too_many() -> None:
    for counts in (np.zeros(4, np.int64), np.ones(17, np.int64)):
        with pytest.raises(ValueError, match="symbols that occur"):
            scale_counts(counts, 4)


def test_known_frequencies_stay_the_same() -> None:
    """They are part of the format."""
    found = scale_counts(np.array([1000, 0, 300, 7, 7, 1, 90, 2]), 8)
    assert found.tolist() == [182, 0, 54, 1, 1, 1, 16, 1]


@given(COUNTS, st.booleans())
def test_tables_come_back(counts: list[int], stepped: bool) -> None:
    writer = BitWriter()
    steps = np.array([1 + place % 3 for place in range(len(counts))]) if stepped else None
    histogram = np.array(counts)
    if steps is not None:
        histogram = np.repeat(histogram, steps)
    table = write_table(histogram, writer, steps)
    data = writer.finish()
    reader = BitReader(memoryview(data))
    again = read_table(reader, len(histogram), steps)
    assert (again.bits, again.frequencies.tolist()) == (table.bits, table.frequencies.tolist())
    assert not len(reader.rest())
    assert int(table.frequencies.sum()) == 2**table.bits
    assert (table.frequencies[histogram > 0] > 0).all()
    assert table.starts.tolist() == [0, *np.cumsum(table.frequencies)[:-1].tolist()]
    if table.single is not None:
        assert table.frequencies[table.single] == 2**table.bits


def test_stepped_symbols_share_their_frequency() -> None:
    histogram = np.array([50, 9, 0, 3, 8, 0, 0])
    table = write_table(histogram, BitWriter(), np.array([1, 2, 2, 2]))
    frequencies = table.frequencies.astype(int)
    assert abs(frequencies[1] - frequencies[2]) <= 1
    assert abs(frequencies[3] - frequencies[4]) <= 1
    assert not frequencies[5:].any()


@pytest.mark.parametrize(("count", "most"), [(200, 2.8), (5000, 6.0)])
def test_a_table_costs_a_few_bits_a_symbol(count: int, most: float) -> None:
    """And the shorter the stream, the fewer."""
    shares = np.exp(-np.abs(np.arange(-16, 16)) / 4)
    histogram = np.round(shares / shares.sum() * count).astype(np.int64)
    writer = BitWriter()
    table = write_table(histogram, writer)
    assert writer.count <= most * 32
    shares = histogram[histogram > 0] / histogram.sum()
    entropy = -(shares * np.log2(shares)).sum() * histogram.sum()
    assert writer.count + table.cost(histogram) <= entropy + (most + 0.5) * 32


def test_a_table_of_all_symbols() -> None:
    histogram = np.random.default_rng(0).integers(1, 50, 2**16)
    writer = BitWriter()
    table = write_table(histogram, writer)
    assert (table.bits, int(table.frequencies.sum())) == (16, 2**16)
    again = read_table(BitReader(memoryview(writer.finish())), 2**16)
    assert np.array_equal(again.frequencies, table.frequencies)


@given(st.binary(max_size=30), st.integers(1, 3000))
def test_any_bytes_are_a_table_or_an_error(data: bytes, symbols: int) -> None:
    try:
        table = read_table(BitReader(memoryview(data)), symbols)
    except FormatError:
        return
    assert len(table.frequencies) == symbols
    assert int(table.frequencies.sum()) == 2**table.bits
