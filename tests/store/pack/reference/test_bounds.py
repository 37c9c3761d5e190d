import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from autocompress.store.pack.reference.bounds import (
    FRAME_BITS,
    START_BITS,
    bound_csc,
    bound_hac,
    bound_hac_2020,
    bound_index_map,
    bound_shac,
    bound_shac_2020,
    table_bits,
)
from autocompress.store.pack.reference.csc import Csc
from autocompress.store.pack.reference.hac import Hac
from autocompress.store.pack.reference.index_map import IndexMap
from autocompress.store.pack.reference.shac import Shac
from tests.store.pack.reference.matrices import Matrix, draw

SHAPES = [(1, 1), (1, 40), (40, 1), (30, 50), (255, 20), (256, 20), (300, 40), (512, 64)]


def entropy_of(values: NDArray[np.float32]) -> float:
    counts = np.unique(values, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) if len(shares) else 0.0


def make_uniform(rows: int, columns: int, levels: int, kept: float) -> Matrix:
    random = np.random.default_rng(levels)
    matrix = random.integers(1, levels + 1, size=(rows, columns)).astype(np.float32)
    matrix[random.random(matrix.shape) >= kept] = 0
    return matrix


@pytest.mark.parametrize("make", [draw, make_uniform])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("levels", [1, 2, 3, 16, 32, 256, 1_000])
@pytest.mark.parametrize("kept", [0.0, 0.05, 1.0])
def test_no_file_is_longer_than_its_bound(
    make: Callable[..., Matrix], shape: tuple[int, int], levels: int, kept: float
) -> None:
    matrix = make(*shape, levels=levels, kept=kept)
    rows, columns = shape
    stored = matrix[matrix != 0]
    every, some = len(np.unique(matrix)), len(np.unique(stored))

    hac, shac = Hac.compress(matrix), Shac.compress(matrix)

    def check(size: int, *bounds: float) -> None:
        for bound in bounds:
            assert 8 * size <= rows * columns * bound + FRAME_BITS

    h = entropy_of(matrix)
    check(hac.nbytes_without_starts, bound_hac(*shape, every), bound_hac(*shape, every, h))
    check(hac.nbytes_without_starts, bound_hac_2020(*shape, every))
    kept_bounds = [
        bound_shac(*shape, len(stored), some),
        bound_shac(*shape, len(stored), some, entropy_of(stored)),
    ]
    check(shac.nbytes_without_starts, *kept_bounds)
    check(Csc.compress(matrix).nbytes, bound_csc(*shape, len(stored)))
    check(IndexMap.compress(matrix).nbytes, bound_index_map(*shape, every))
    starts = START_BITS / rows
    check(hac.nbytes, bound_hac(*shape, every) + starts)
    check(shac.nbytes, *(bound + starts for bound in kept_bounds))


def test_the_bound_of_shac_of_2020_is_wrong_as_printed() -> None:
    matrix = draw(512, 512, levels=16, kept=0.5)
    kept = int((matrix != 0).sum())
    found = Shac.compress(matrix)

    printed = bound_shac_2020(512, 512, kept, 16) * matrix.size
    # A row number of 16 bits for each of 131,000 non-zeros against 1,025 words of 32.
    assert 8 * found.nbytes_without_starts > 2 * printed
    assert 8 * found.nbytes <= bound_shac(512, 512, kept, 16) * matrix.size + 512 * START_BITS


def test_the_bound_of_hac_does_not_hold_with_the_starts_of_short_columns() -> None:
    matrix = make_uniform(4, 5_000, 16, 1.0)
    found = Hac.compress(matrix)
    bound = bound_hac(4, 5_000, 16) * matrix.size

    assert 8 * found.nbytes > bound + FRAME_BITS
    assert 8 * found.nbytes_without_starts <= bound + FRAME_BITS


def test_bounds_are_the_printed_formulas() -> None:
    # b = 32, n = 512: rows of 16 bits; k = 32: numbers of 8, words of up to 31 bits.
    table = 32 * 32 + 31 * 8 + 32 * 32 + 31 * 8
    assert table_bits(32) == table
    assert bound_hac(512, 4096, 32) == pytest.approx(1 + 5 + table / 2**21)
    want = 0.01 * (1 + 5 + 16) + 16 * 4097 / 2**21 + table / 2**21
    assert bound_shac(512, 4096, 20_972, 32) == pytest.approx(want, rel=1e-4)
    assert bound_hac(8, 8, 3, entropy=0.5) == pytest.approx(1.5 + table_bits(3) / 64)
    assert bound_hac_2020(8, 8, 2) == pytest.approx(2 + 6 * 2 * 32 / 64)
    assert math.isclose(bound_index_map(10, 10, 5), 3 + 1.6)
    assert table_bits(0) == 0
