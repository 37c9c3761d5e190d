from math import log2 as exact_log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import FormatError
from autocompress.store.pack.range_coder import (
    CHANCES,
    ONE,
    REACH,
    STEPS,
    BitCounter,
    BitReader,
    BitWriter,
    log2,
)

Bits = list[tuple[int, int]]
BITS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.one_of(st.integers(1, ONE - 1), st.sampled_from([1, 2, ONE // 2, ONE - 1])),
    ),
    max_size=200,
)


def write(bits: Bits) -> bytes:
    writer = BitWriter()
    assert [writer.code(bit, chance) for bit, chance in bits] == [bit for bit, _ in bits]
    return writer.finish()


def read(data: bytes, bits: Bits) -> list[int]:
    """Return as many bits as ``bits`` has, with its probabilities."""
    reader = BitReader(data)
    found = [reader.code(0, chance) for _, chance in bits]
    reader.finish()
    return found


@given(BITS)
def test_bits_come_back(bits: Bits) -> None:
    assert read(write(bits), bits) == [bit for bit, _ in bits]


@given(BITS, st.integers(0, 40), st.binary(min_size=1, max_size=5))
def test_no_code_begins_another(bits: Bits, cut: int, more: bytes) -> None:
    data = write(bits)
    with pytest.raises(FormatError):
        read(data + more, bits)
    if cut < len(data):
        with pytest.raises(FormatError):
            read(data[:cut], bits)


@given(st.binary(max_size=12), st.lists(st.integers(1, ONE - 1), max_size=80))
def test_what_is_accepted_is_what_a_writer_writes(data: bytes, chances: list[int]) -> None:
    reader = BitReader(data)
    try:
        bits = [(reader.code(1, chance), chance) for chance in chances]
        reader.finish()
    except FormatError:
        return
    assert write(bits) == data


def test_all_short_data_are_read_or_refused() -> None:
    """Of one bit in eight, codes of eight bits: 256 of them, and nothing else is accepted."""
    chances = [9000, 1, 33000, ONE - 1, 20000, 60000, 32768, 300]
    codes = set()
    for number in range(256):
        bits = [(number >> place & 1, chance) for place, chance in enumerate(chances)]
        codes.add(write(bits))
    assert len(codes) == 256
    accepted = set()
    for data in [b"", *(n.to_bytes(1, "big") for n in range(256))]:
        try:
            read(data, [(0, chance) for chance in chances])
        except FormatError:
            continue
        accepted.add(data)
    assert accepted == {code for code in codes if len(code) < 2}
    assert accepted


@given(BITS)
def test_length_is_what_the_bits_cost(bits: Bits) -> None:
    counter = BitCounter()
    for bit, chance in bits:
        counter.code(bit, chance)
    exact = -sum(exact_log2((chance if bit else ONE - chance) / ONE) for bit, chance in bits)
    assert counter.cost / STEPS == pytest.approx(exact, abs=len(bits) / STEPS + 1e-9)
    assert 8 * len(write(bits)) <= 1.01 * exact + 16 + len(bits) / 1000


def test_long_runs_of_likely_bits_cost_next_to_nothing() -> None:
    assert len(write([(1, ONE - 16)] * 100_000)) <= 100_000 * 16 / ONE / 0.69 / 8 + 3


@given(st.one_of(st.integers(1, 5000), st.integers(1, 2**70)))
def test_logarithms_are_near(number: int) -> None:
    assert log2(number) == pytest.approx(STEPS * exact_log2(number), abs=1)


def test_logarithms_rise() -> None:
    logarithms = [log2(number) for number in range(1, 20_000)]
    assert logarithms == sorted(logarithms)
    assert [log2(2**power) for power in range(80)] == [power * STEPS for power in range(80)]


def test_chances_are_those_of_the_log_odds() -> None:
    assert len(CHANCES) == 2 * REACH + 1
    for odds, chance in enumerate(CHANCES, -REACH):
        assert chance == pytest.approx(ONE / (1 + 2 ** (-odds / STEPS)), abs=1)
    assert CHANCES[REACH] == ONE // 2
    assert min(CHANCES) >= 1
    assert max(CHANCES) < ONE
    assert sorted(CHANCES) == CHANCES
