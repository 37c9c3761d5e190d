import numpy as np

from autocompress.store.pack.reference.shac import Shac


def test_bytes_are_the_sum_of_what_the_file_holds() -> None:
    matrix = np.zeros((300, 4), dtype=np.float32)
    matrix[[0, 256, 299], [1, 1, 3]] = [1.0, 2.0, 1.0]

    found = Shac.compress(matrix)

    shape, levels, code, values = 2 + 1, 1, 1 + 1, 2 * 4
    counts, rows, starts, words = 4 * 2, 3 * 2, 4 * 4, 4
    assert found.nbytes == shape + levels + code + values + counts + rows + starts + words
    assert found.nbytes_without_starts == found.nbytes - starts


def test_minus_zero_is_a_value() -> None:
    found = Shac.compress(np.array([[0.0, -0.0]], dtype=np.float32))

    assert found.places.starts.tolist() == [0, 0, 1]
    assert np.signbit(found.decompress()).tolist() == [[False, True]]
