import numpy as np
import pytest

from autocompress.store.pack.reference import base
from autocompress.store.pack.reference.base import (
    build_matrix,
    byte_width,
    check_input,
    read_columns,
)
from tests.store.pack.reference.matrices import draw


@pytest.mark.parametrize("shape", [(3, 5), (1, 4), (4, 1), (0, 3)])
def test_columns_come_one_after_the_other(shape: tuple[int, int]) -> None:
    matrix = draw(*shape)

    patterns = read_columns(matrix)

    want = [float(matrix[row, column]) for column in range(shape[1]) for row in range(shape[0])]
    assert patterns.view(np.float32).tolist() == want
    assert np.array_equal(build_matrix(patterns, shape), matrix)


@pytest.mark.parametrize(("most", "width"), [(0, 1), (255, 1), (256, 2), (65_535, 2), (65_536, 4)])
def test_numbers_take_the_bytes_that_the_largest_needs(most: int, width: int) -> None:
    assert byte_width(most) == width


def test_too_many_entries_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MOST_ENTRIES", 5)

    with pytest.raises(ValueError, match="want at most 5 entries, got 6"):
        read_columns(draw(2, 3))
    check_input(np.zeros((0, 3), np.float32), 3)
