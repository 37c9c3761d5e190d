import numpy as np
import pytest

from autocompress.errors import FormatError
from autocompress.store.pack.reference.csc import Csc


@pytest.mark.parametrize(
    ("rows", "count_bytes", "row_bytes"),
    [(255, 1, 1), (256, 2, 1), (257, 2, 2), (65_535, 2, 2), (65_536, 4, 2), (65_537, 4, 4)],
)
def test_numbers_are_as_wide_as_the_rows_need(rows: int, count_bytes: int, row_bytes: int) -> None:
    matrix = np.ones((rows, 1), dtype=np.float32)

    found = Csc.compress(matrix)

    shape = 1 + (2 if rows < 2**14 else 3)
    assert found.nbytes == shape + count_bytes + rows * (row_bytes + 4)
    assert Csc.read(found.to_bytes()).places.rows[-1] == rows - 1


ONE = b"\0\0\x80\x3f"


@pytest.mark.parametrize(
    "data",
    [
        [3, 1, 2, 1, 1],  # the same row twice
        [3, 1, 2, 2, 1],  # rows that fall
        [3, 1, 1, 3],  # a row too low
        [3, 1, 4, 0, 1, 2, 3],  # more non-zeros than rows
        [3, 2, 1, 2, 0, 1, 1],  # the second column holds a row twice
    ],
)
def test_places_that_cannot_be_are_refused(data: list[int]) -> None:
    stored = len(data) - 2 - data[1]

    with pytest.raises(FormatError):
        Csc.read(bytes(data) + ONE * stored)


def test_a_row_may_be_that_of_the_column_before() -> None:
    found = Csc.read(bytes([3, 3, 1, 0, 2, 1, 0, 1]) + ONE * 3)

    assert found.decompress().tolist() == [[0, 0, 1], [1, 0, 1], [0, 0, 0]]


def test_a_stored_zero_is_refused() -> None:
    good = Csc.compress(np.array([[0.0], [1.0]], dtype=np.float32)).to_bytes()

    with pytest.raises(FormatError, match="a stored value is 0"):
        Csc.read(good[:-4] + bytes(4))
