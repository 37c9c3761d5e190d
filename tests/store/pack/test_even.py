from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import FormatError
from autocompress.store.pack.even import (
    find_places,
    join_digits,
    make_digits,
    make_flat_table,
    plan_even,
    read_even,
    write_even,
)
from autocompress.store.pack.lanes import SymbolReader, SymbolWriter


@given(st.lists(st.integers(0, 500)), st.integers(1, 40))
def test_digits_say_the_gaps(gaps: list[int], escape: int) -> None:
    skipped = np.array(gaps, np.int64)
    digits = make_digits(skipped, escape)
    assert digits.max(initial=0) <= escape
    assert np.array_equal(join_digits(digits, escape, len(gaps)), skipped)
    for count in (len(gaps) - 1, len(gaps) + 1):
        with pytest.raises(FormatError):
            join_digits(digits, escape, count)


def test_open_gaps_and_places_out_of_range_are_refused() -> None:
    with pytest.raises(FormatError, match="end"):
        join_digits(np.array([0, 4], np.uint16), 4, 1)
    assert find_places(np.array([0, 2]), 4).tolist() == [0, 3]
    with pytest.raises(FormatError, match="below"):
        find_places(np.array([0, 2]), 3)


@pytest.mark.parametrize(
    ("entries", "kept"),
    [(1, 1), (2, 1), (10, 9), (100, 3), (10**6, 10**5), (10**6, 999), (10**6, 1), (10**9, 77)],
)
def test_gaps_are_geometric(entries: int, kept: int) -> None:
    even = plan_even(entries, kept)
    table = even.table
    frequencies = table.frequencies.tolist()
    assert sum(frequencies) == 2**table.bits
    *shares, escape = (Fraction(each, 2**table.bits) for each in frequencies)
    if kept == entries:
        assert shares == [1]
        return
    assert min(frequencies) >= 1
    assert len(frequencies) <= 1024
    rest = (1 - kept / entries) ** (1 << even.low)
    for gap, found in enumerate(shares):
        wanted = (1 - rest) * rest**gap
        assert abs(float(found) - wanted) <= wanted / 20 + 2 / 2**table.bits
    assert abs(float(escape) - rest ** len(shares)) <= 0.05


@pytest.mark.parametrize("width", range(16))
def test_flat_tables(width: int) -> None:
    table = make_flat_table(width)
    assert len(set(table.frequencies.tolist())) == 1
    assert len(table.frequencies) == 2**width
    assert int(table.frequencies.sum()) == 2**table.bits


@given(st.sets(st.integers(0, 3000), min_size=1), st.integers(0, 2**34))
def test_places_come_back(places: set[int], more: int) -> None:
    rising = np.array(sorted(places), np.int64)
    entries = 3001 + more
    writer = SymbolWriter()
    escapes = write_even(writer, rising, entries)
    data = memoryview(writer.finish())
    reader = SymbolReader(data)
    assert np.array_equal(read_even(reader, len(rising), escapes, entries), rising)
    reader.end()
    for kept, wrong in ((0, escapes), (len(rising), entries)):
        with pytest.raises(FormatError):
            read_even(SymbolReader(data), kept, wrong, entries)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001, 0.00005])
def test_even_places_take_their_entropy(share: float) -> None:
    entries = 2_000_000
    places = np.flatnonzero(np.random.default_rng(0).random(entries) < share)
    writer = SymbolWriter()
    write_even(writer, places, entries)
    found = len(places) / entries
    entropy = -entries * (found * np.log2(found) + (1 - found) * np.log2(1 - found))
    assert writer.bits <= 1.002 * entropy + 50
