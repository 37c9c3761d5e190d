"""Laws of all reference formats."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import FormatError
from autocompress.store.pack.reference.base import Format
from autocompress.store.pack.reference.formats import FORMATS
from tests.store.pack.reference.matrices import Matrix, draw, list_hard

HARD = list_hard()
each_format = pytest.mark.parametrize("one", FORMATS.values(), ids=FORMATS.keys())
each_hard = pytest.mark.parametrize("matrix", HARD.values(), ids=HARD.keys())


def same(one: Matrix, other: Matrix) -> bool:
    same_bits = np.array_equal(
        np.ascontiguousarray(one).view(np.uint32), np.ascontiguousarray(other).view(np.uint32)
    )
    return one.dtype == other.dtype == np.float32 and same_bits


@each_format
@each_hard
def test_a_matrix_comes_back_bit_by_bit(one: Format, matrix: Matrix) -> None:
    found = one.compress(matrix)
    data = found.to_bytes()
    again = one.read(data)

    assert len(data) == found.nbytes == again.nbytes
    assert found.shape == again.shape == matrix.shape
    assert same(found.decompress(), matrix)
    assert same(again.decompress(), matrix)
    assert again.to_bytes() == data == one.compress(matrix.copy()).to_bytes()
    assert found.decompress().flags.c_contiguous


@each_format
@given(
    rows=st.integers(0, 9),
    patterns=st.lists(st.sampled_from([0, 2**31, 1, 0x7FC00001, 0x3F800000]) | st.integers(0, 9)),
)
def test_any_bits_come_back(one: Format, rows: int, patterns: list[int]) -> None:
    columns = len(patterns) // rows if rows else 4
    values = np.array(patterns[: rows * columns], np.uint32).view(np.float32)
    matrix = values.reshape(rows, columns)

    assert same(one.read(one.compress(matrix).to_bytes()).decompress(), matrix)


@each_format
@each_hard
def test_the_product_is_that_of_the_matrix(one: Format, matrix: Matrix) -> None:
    finite = np.where(np.isfinite(matrix), matrix, np.float32(0.25))
    x = np.random.default_rng(1).normal(size=(3, len(finite))).astype(np.float32)

    found = one.compress(finite).matmul(x)

    want = x.astype(np.float64) @ finite.astype(np.float64)
    size = np.abs(x).astype(np.float64) @ np.abs(finite).astype(np.float64)
    assert found.dtype == np.float32
    assert found.shape == want.shape
    # Float32 sums of up to 65,536 products.
    assert (np.abs(found - want) <= 1e-5 * size + 1e-37).all()


@each_format
def test_a_product_of_whole_numbers_is_exact_in_every_column(one: Format) -> None:
    matrix = np.rint(draw(40, 300, levels=9, kept=0.4) * 4)
    x = np.rint(np.random.default_rng(2).normal(size=(2, 40)) * 3).astype(np.float32)

    # Products below 2^24 in all sums.
    assert np.array_equal(one.compress(matrix).matmul(x), x @ matrix)


@each_format
def test_inputs_of_another_shape_are_refused(one: Format) -> None:
    found = one.compress(draw(4, 3))

    for x in (np.zeros((2, 3), np.float32), np.zeros(4, np.float32), np.zeros((2, 4))):
        with pytest.raises(ValueError, match="want float32 of shape"):
            found.matmul(x)  # type: ignore[arg-type] # float64 among them
    for matrix in (np.zeros((2, 3)), np.zeros(4, np.float32)):
        with pytest.raises(ValueError, match="want a float32 matrix"):
            one.compress(matrix)  # type: ignore[arg-type]


def damage(data: bytes) -> list[bytes]:
    """Return every truncation, every flip of a bit, and a byte too many."""
    cut = [data[:size] for size in range(len(data))]
    flipped = []
    for bit in range(8 * len(data)):
        other = bytearray(data)
        other[bit // 8] ^= 1 << bit % 8
        flipped.append(bytes(other))
    return [*cut, *flipped, data + b"\0"]


@each_format
@pytest.mark.parametrize("name", ["special values", "one value everywhere", "one row", "no rows"])
def test_damaged_bytes_are_refused_or_are_another_matrix(one: Format, name: str) -> None:
    data = one.compress(HARD[name]).to_bytes()
    refused = 0

    for other in damage(data):
        try:
            found = one.read(other, most=10_000)
        except FormatError:
            refused += 1
        else:
            # Without a hash another value is another file; but it is the one file of its matrix.
            assert one.compress(found.decompress()).to_bytes() == other
    assert refused > len(data)


@each_format
@given(data=st.binary(max_size=40))
def test_any_bytes_are_refused_or_are_a_matrix(one: Format, data: bytes) -> None:
    try:
        found = one.read(data, most=10_000)
    except FormatError:
        return
    assert one.compress(found.decompress()).to_bytes() == data


@each_format
@pytest.mark.parametrize("shape", [(2**14 + 1, 2**14), (2**40, 1), (0, 2**40), (2**28, 2)])
def test_shapes_that_no_memory_holds_are_refused(one: Format, shape: tuple[int, int]) -> None:
    small = one.compress(draw(3, 2)).to_bytes()
    numbers = bytearray()
    for size in shape:
        value = size
        while value > 127:
            numbers.append(value & 127 | 128)
            value >>= 7
        numbers.append(value)

    with pytest.raises(FormatError):
        one.read(bytes(numbers) + small[2:])


@each_format
def test_wide_files_without_entries_are_short(one: Format) -> None:
    # Rows that cost no byte do not let a short file ask for columns.
    data = bytes([0, 0xFF, 0xFF, 0x7F, 0, 0, 0])
    with pytest.raises(FormatError):
        one.read(data if one.name != "im" else data[:4])


@pytest.mark.slow
@each_format
def test_a_layer_of_a_vgg_takes_seconds(one: Format) -> None:
    matrix = draw(512, 4096, levels=255, kept=0.4)
    x = np.random.default_rng(3).normal(size=(8, 512)).astype(np.float32)

    found = one.read(one.compress(matrix).to_bytes())

    assert same(found.decompress(), matrix)
    assert np.allclose(found.matmul(x), x @ matrix, atol=1e-3)
