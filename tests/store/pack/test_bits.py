import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import FormatError
from autocompress.store.pack.bits import (
    BitReader,
    BitWriter,
    PackedBits,
    pack_bits,
    unpack_bits,
)
from autocompress.store.pack.codec import Indices
from tests.store.pack import coding


@given(st.integers(0, 16), st.lists(st.integers(0, 2**16 - 1), max_size=40))
def test_bits_are_those_of_the_numbers_one_after_the_other(width: int, numbers: list[int]) -> None:
    values = np.array([value % 2**width for value in numbers], np.uint16)
    data = pack_bits(values, width)
    whole = sum(int(value) << width * place for place, value in enumerate(values))
    assert data == whole.to_bytes(-(-width * len(values) // 8), "little")
    assert np.array_equal(unpack_bits(memoryview(data), len(values), width), values)


@pytest.mark.parametrize("width", range(17))
def test_more_numbers_than_are_handled_at_a_time(width: int) -> None:
    values = np.random.default_rng(width).integers(0, 2**width, 300_003).astype(np.uint16)
    data = pack_bits(values, width)
    assert np.array_equal(unpack_bits(memoryview(data), len(values), width), values)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    rows = bits[: width * len(values)].reshape(len(values), width).astype(np.int64)
    assert np.array_equal(rows @ (1 << np.arange(width)), values)


def test_no_other_length_and_no_other_padding_is_read() -> None:
    data = pack_bits(np.array([5, 1, 7], np.uint16), 3)
    for wrong in (data[:-1], data + b"\0", data[:-1] + bytes([data[-1] | 0x80])):
        with pytest.raises(FormatError):
            unpack_bits(memoryview(wrong), 3, 3)


FIELDS = st.one_of(
    st.tuples(st.just("plain"), st.integers(0, 2**20 - 1), st.just(20)),
    st.tuples(st.just("golomb"), st.integers(0, 2**30), st.integers(0, 15)),
    st.tuples(st.just("signed"), st.integers(-(2**20), 2**20), st.just(0)),
)


@given(st.lists(FIELDS, max_size=20))
def test_fields_come_back(fields: list[tuple[str, int, int]]) -> None:
    writer = BitWriter()
    for kind, value, order in fields:
        if kind == "signed":
            writer.signed(value)
        else:
            getattr(writer, kind)(value, order)
    data = writer.finish()
    assert len(data) == -(-writer.count // 8)
    reader = BitReader(memoryview(data + b"rest"))
    for kind, value, order in fields:
        read = reader.signed() if kind == "signed" else getattr(reader, kind)(order)
        assert read == value
    assert bytes(reader.rest()) == b"rest"


def test_writers_join() -> None:
    first, second, both = BitWriter(), BitWriter(), BitWriter()
    for writer in (first, both):
        writer.plain(5, 3)
    for writer in (second, both):
        writer.golomb(77)
    first.extend(second)
    assert (first.count, first.finish()) == (both.count, both.finish())


@given(st.binary(max_size=12), st.lists(st.sampled_from(("plain", "golomb", "signed"))))
def test_any_bytes_are_numbers_or_an_error(data: bytes, kinds: list[str]) -> None:
    reader = BitReader(memoryview(data))
    try:
        for kind in kinds:
            value = reader.plain(9) if kind == "plain" else getattr(reader, kind)()
            assert abs(value) < 2**41
        assert len(reader.rest()) <= len(data)
    except FormatError:
        pass


def test_padding_of_fields_is_zero() -> None:
    reader = BitReader(memoryview(b"\x81"))
    reader.plain(1)
    with pytest.raises(FormatError, match="zeros"):
        reader.rest()


@pytest.mark.parametrize("shape", coding.SHAPES)
@pytest.mark.parametrize("levels", [1, 2, 16])
def test_packed_codes_come_back(shape: tuple[int, ...], levels: int) -> None:
    tensor = coding.draw(shape, levels, 0.0)
    data = coding.check_round_trip(PackedBits(), tensor)
    assert data is not None
    width = max(tensor.levels - 1, 0).bit_length()
    assert len(data) == -(-len(tensor.codes) * width // 8)


@given(coding.indices())
def test_any_packed_codes_come_back(tensor: Indices) -> None:
    coding.check_round_trip(PackedBits(), tensor)


def test_all_levels() -> None:
    codes = np.arange(65_535).astype(np.uint16)
    coding.check_round_trip(PackedBits(), Indices(shape=(5, 13107), codes=codes, levels=65_535))


def test_damage_is_told_or_leads_to_codes() -> None:
    tensor = coding.draw((4, 5), 5, 0.0)
    coding.check_truncations(PackedBits(), tensor)
    coding.check_flips(PackedBits(), tensor)
    coding.check_noise(PackedBits(), 0)
