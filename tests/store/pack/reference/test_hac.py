import numpy as np
import pytest

from autocompress.store.pack.reference.hac import Hac
from autocompress.store.pack.reference.huffman import WORD_BITS
from autocompress.store.pack.reference.shac import Shac
from tests.store.pack.reference.matrices import Matrix, draw


def list_starts(found: Hac | Shac) -> list[int]:
    return [int(start) % WORD_BITS for start in found.coded.starts]


@pytest.mark.parametrize("kind", [Hac, Shac])
def test_columns_that_start_at_any_bit_of_a_word_are_multiplied(kind: type[Hac | Shac]) -> None:
    matrix = np.rint(draw(13, 2_000, levels=20, kept=0.5) * 8)
    x = np.eye(13, dtype=np.float32)

    found = kind.compress(matrix)
    product = found.matmul(x)

    starts = np.array(list_starts(found))
    filled = np.array([bool(column.any()) for column in matrix.T])
    for bit in range(WORD_BITS):  # 31 is where the published code is wrong.
        chosen = filled & (starts == bit)
        assert chosen.sum() > 5
        assert np.array_equal(product[:, chosen], matrix[:, chosen])


def make_border_matrix() -> Matrix:
    """Return a first column of 31 bits of code, then one with a value of two bits."""
    first = [0.0] * 31 + [1.0] * 0
    second = [2.0, 3.0, *[0.0] * 28, 2.0]
    return np.array([first, second], dtype=np.float32).T.copy()


def test_a_word_of_two_bits_over_a_border_is_read() -> None:
    matrix = make_border_matrix()

    found = Hac.compress(matrix)

    assert found.coded.starts.tolist() == [0, 31]
    assert found.coded.code.lengths.tolist() == [1, 2, 2]
    assert np.array_equal(found.matmul(np.eye(31, dtype=np.float32)), matrix)


def test_bytes_are_the_sum_of_what_the_file_holds() -> None:
    matrix = make_border_matrix()
    found = Hac.compress(matrix)

    shape, levels, code, values, starts = 2, 1, 1 + 2, 3 * 4, 2 * 4
    words = -(-(31 + 28 + 3 * 2) // 32) * 4
    assert found.nbytes == shape + levels + code + values + starts + words
    assert found.nbytes_without_starts == found.nbytes - starts


def test_every_weight_costs_a_bit_whatever_the_sparsity() -> None:
    for kept in (0.0, 0.001, 0.5):
        found = Hac.compress(draw(64, 128, kept=kept))
        assert 8 * found.nbytes_without_starts >= 64 * 128


def test_infinity_times_zero_is_not_left_out() -> None:
    x = np.array([[np.inf, 1.0]], dtype=np.float32)
    matrix = np.array([[0.0, 1.0], [1.0, 0.0]], dtype=np.float32)

    with np.errstate(invalid="ignore"):
        assert np.isnan(Hac.compress(matrix).matmul(x)[0, 0])
    assert Shac.compress(matrix).matmul(x).tolist() == [[1.0, np.inf]]
