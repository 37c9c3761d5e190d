import numpy as np
import pytest

from autocompress.store.pack.reference.index_map import IndexMap, index_bits


@pytest.mark.parametrize(
    ("levels", "width"), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (256, 8), (257, 9)]
)
def test_numbers_take_the_bits_that_the_levels_need(levels: int, width: int) -> None:
    assert index_bits(levels) == width
    if levels:
        matrix = (np.arange(1_000) % levels).astype(np.float32).reshape(10, 100)
        number = 2 if levels > 127 else 1
        size = 2 + number + 4 * levels + -(-1_000 * width // 8)
        assert IndexMap.compress(matrix).nbytes == size
