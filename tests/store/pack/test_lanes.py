import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import FormatError
from autocompress.store.pack.codec import Codes
from autocompress.store.pack.lanes import SymbolReader, SymbolWriter
from autocompress.store.pack.tables import Table, scale_counts
from autocompress.store.pack.wire import Reader

Run = tuple[Codes, Table]


def draw_run(random: np.random.Generator, count: int, symbols: int, bits: int) -> Run:
    counts = np.ceil(np.exp(2 * random.normal(size=symbols)) * 100).astype(np.int64)
    table = Table(bits=bits, frequencies=scale_counts(counts, bits))
    drawn = random.choice(symbols, count, p=table.frequencies / 2**bits)
    return drawn.astype(np.uint16), table


def write(runs: list[Run], lanes: int | None) -> bytes:
    writer = SymbolWriter()
    for symbols, table in runs:
        writer.run(symbols, table)
    return writer.finish(lanes)


def read(data: bytes, runs: list[Run]) -> list[Codes]:
    reader = SymbolReader(memoryview(data))
    found = [reader.run(len(symbols), table) for symbols, table in runs]
    reader.end()
    return found


@given(
    st.integers(0, 2**32),
    st.sampled_from((None, 1, 16, 17, 64, 4096)),
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 16), st.integers(4, 16)), max_size=4),
)
def test_runs_of_symbols_come_back(
    seed: int, lanes: int | None, sizes: list[tuple[int, int, int]]
) -> None:
    random = np.random.default_rng(seed)
    runs = [draw_run(random, *size) for size in sizes]
    data = write(runs, lanes)
    for (symbols, _), found in zip(runs, read(data, runs), strict=True):
        assert np.array_equal(symbols, found)


@pytest.mark.parametrize("bits", range(4, 17))
@pytest.mark.parametrize("lanes", [1, 16, 100])
def test_the_size_is_that_of_the_table(bits: int, lanes: int) -> None:
    run = draw_run(np.random.default_rng(bits), 20_000, 12, bits)
    data = write([run], lanes)
    assert np.array_equal(read(data, [run])[0], run[0])
    cost = run[1].cost(np.bincount(run[0], minlength=12)) / 8
    most = 1.0025 if bits == 16 else 1.0005
    assert len(data) <= most * cost + (5 if lanes == 1 else 4 * lanes + 5)


def test_a_frequency_of_all_but_one() -> None:
    table = Table(bits=16, frequencies=np.array([2**16 - 1, 1], np.uint32))
    symbols = np.zeros(5000, np.uint16)
    symbols[[0, 7, 4999]] = 1
    for lanes in (1, 16):
        data = write([(symbols, table)], lanes)
        assert np.array_equal(read(data, [(symbols, table)])[0], symbols)


def test_what_must_be_costs_nothing() -> None:
    table = Table(bits=8, frequencies=np.array([0, 256, 0], np.uint32))
    symbols = np.ones(1000, np.uint16)
    data = write([(symbols, table)], None)
    assert data == b"\0"
    assert np.array_equal(read(data, [(symbols, table)])[0], symbols)


def test_lanes_are_two_thousandths_of_the_stream() -> None:
    random = np.random.default_rng(0)
    for count in (1000, 300_000, 700_000):
        run = draw_run(random, count, 200, 14)
        data = write([run], None)
        head = Reader(data).number()
        lanes = head // 2 if head % 2 else 1
        assert 4 * lanes <= max(0.00201 * len(data), 4)
        assert (lanes == 1) == (count < 300_000)


@pytest.mark.parametrize("lanes", [1, 16])
def test_nothing_shorter_or_longer_is_read(lanes: int) -> None:
    run = draw_run(np.random.default_rng(3), 100, 5, 12)
    data = write([run], lanes)
    for size in range(len(data)):
        with pytest.raises(FormatError):
            read(data[:size], [run])
    for more in (b"\0", bytes(2), bytes(64)):
        with pytest.raises(FormatError):
            read(data + more, [run])


def test_states_end_where_they_began() -> None:
    table = Table(bits=4, frequencies=np.array([8, 8], np.uint32))
    symbols = np.array([0, 1] * 40, np.uint16)
    for lanes in (1, 16):
        data = write([(symbols, table)], lanes)
        for fewer in (0, 79):
            reader = SymbolReader(memoryview(data))
            reader.run(fewer, table)
            with pytest.raises(FormatError):
                reader.end()


@given(st.binary(max_size=100), st.integers(0, 500))
def test_any_bytes_are_symbols_or_an_error(data: bytes, count: int) -> None:
    table = Table(bits=12, frequencies=scale_counts(np.array([5, 0, 1, 300]), 12))
    try:
        reader = SymbolReader(memoryview(data))
        symbols = reader.run(count, table)
        reader.end()
    except FormatError:
        return
    assert symbols.shape == (count,)
    assert set(symbols.tolist()) <= {0, 2, 3}


def test_states_out_of_range_and_odd_lanes_are_refused() -> None:
    for data in (
        b"\x03" + bytes(4),
        b"\x21" + bytes(64),
        b"\x21" + bytes([255]) * 65,
        b"\x04\x01\x00",
        b"\x02\x01",
        b"\x02\x00",
        b"\x83\x80\x04" + bytes(99),
    ):
        with pytest.raises(FormatError):
            SymbolReader(memoryview(data))
