import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import FormatError
from autocompress.store.pack.bits import PackedBits
from autocompress.store.pack.choose import CODECS
from autocompress.store.pack.codec import Indices
from autocompress.store.pack.constant import Constant
from autocompress.store.pack.structured import Structured
from tests.store.pack import coding

PLAIN = Structured({0: Constant(), 1: PackedBits()})


def clear(given: Indices, rows: list[int], columns: list[int]) -> Indices:
    """Return the codes with some rows and columns empty."""
    matrix = given.matrix.astype(np.int64)
    matrix[rows] = 0
    matrix[:, columns] = 0
    kept = np.unique(matrix)
    return Indices(
        shape=given.shape,
        codes=np.searchsorted(kept, matrix.reshape(-1)).astype(np.uint16),
        levels=len(kept),
    )


@pytest.fixture
def sparse() -> Indices:
    return clear(coding.draw((9, 12), 8, 0.3), [0, 4, 8], [1, 2, 11])


@pytest.mark.parametrize("codec", [PLAIN, CODECS["structured"]], ids=["plain", "all"])
def test_codes_come_back(codec: Structured, sparse: Indices) -> None:
    assert coding.check_round_trip(codec, sparse) is not None


@given(
    codes=coding.indices(),
    rows=st.lists(st.integers(0, 8), max_size=4),
    columns=st.lists(st.integers(0, 30), max_size=9),
)
def test_codes_of_any_shape_come_back(codes: Indices, rows: list[int], columns: list[int]) -> None:
    height, width = codes.matrix.shape
    given = codes
    if codes.levels > 1:
        given = clear(
            codes, [row for row in rows if row < height], [one for one in columns if one < width]
        )
    coding.check_round_trip(PLAIN, given)


def test_what_is_gone_costs_little() -> None:
    given = coding.draw((40, 50), 16, 0.0)
    smaller = clear(given, list(range(0, 40, 2)), list(range(0, 50, 2)))

    data = PLAIN.encode(smaller)

    assert data is not None
    assert len(data) < 0.3 * len(PackedBits().encode(smaller))


def test_tensors_without_empty_rows_and_columns_are_for_others() -> None:
    full = coding.draw((9, 12), 8, 0.0)
    assert np.count_nonzero(full.codes) > 80
    identity = coding.number(np.eye(5, dtype=np.int64).reshape(-1), (5, 5))

    assert PLAIN.encode(identity) is None
    assert PLAIN.encode(coding.number(np.zeros(9, np.int64), (9,))) is None
    column = coding.number(np.array([0, 1, 0]), (3,))
    coding.check_round_trip(PLAIN, column)


def test_nothing_shorter_longer_or_changed_is_read_wrongly(sparse: Indices) -> None:
    coding.check_truncations(PLAIN, sparse)
    coding.check_flips(PLAIN, sparse)
    coding.check_noise(PLAIN, 1)
    coding.check_noise(CODECS["structured"], 2)


def test_unknown_codecs_are_refused(sparse: Indices) -> None:
    with pytest.raises(FormatError, match="no codec has the number 9"):
        PLAIN.decode(memoryview(b"\x09\0"), sparse.shape, sparse.levels)
    with pytest.raises(FormatError, match="two levels"):
        PLAIN.decode(memoryview(b""), (3,), 1)
