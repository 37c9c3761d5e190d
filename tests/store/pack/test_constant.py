from math import prod

import numpy as np
import pytest

from autocompress.errors import FormatError
from autocompress.store.pack.codec import Indices
from autocompress.store.pack.constant import Constant
from tests.store.pack import coding


@pytest.mark.parametrize("shape", coding.SHAPES)
def test_one_value_or_none_takes_no_bytes(shape: tuple[int, ...]) -> None:
    given = coding.number(np.zeros(prod(shape), np.int64), shape)

    assert coding.check_round_trip(Constant(), given) == b""


def test_two_values_are_for_others() -> None:
    assert Constant().encode(coding.number(np.array([1, 2, 1]), (3,))) is None
    with pytest.raises(FormatError, match="no bytes and one level"):
        Constant().decode(memoryview(b""), (3,), 2)
    with pytest.raises(FormatError, match="no bytes and one level"):
        Constant().decode(memoryview(b"\0"), (3,), 1)


def test_noise_is_refused() -> None:
    coding.check_noise(Constant(), 0)
    empty = Indices(shape=(0,), codes=np.zeros(0, np.uint16), levels=0)
    assert Constant().encode(empty) == b""
