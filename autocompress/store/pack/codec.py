"""What a codec of the compact format does: numbers of levels to bytes and back."""

from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

MAX_LEVELS = 2**16 - 1

Codes = NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True)
class Indices:
    """A tensor as numbers of its distinct values.

    Attributes:
        shape: Of the tensor, outputs first as PyTorch has them; () and empty ones too.
        codes: Number of each value, in C order, below ``levels``; shape (entries,). 0 is the
            value that occurs most often: of a pruned tensor, zero.
        levels: Distinct values, 0..65,535; 0 only of an empty tensor. Each occurs.
    """

    shape: tuple[int, ...]
    codes: Codes
    levels: int

    @property
    def rows(self) -> int:
        """Rows of the tensor as a matrix: its first axis; 1 without axes."""
        return self.shape[0] if self.shape else 1

    @property
    def matrix(self) -> Codes:
        """The codes, shape (rows, the other axes): filters by columns of a convolution."""
        return self.codes.reshape(self.rows, prod(self.shape[1:]))


class Codec(Protocol):
    """One way to write codes. It knows nothing of what the levels stand for.

    The bytes hold all that decoding needs beside shape and number of levels, and begin with
    nothing that says which codec it is. The same codes give the same bytes, on every machine:
    whole numbers only, or floats that decide nothing a decoder must repeat.
    """

    name: str

    def encode(self, indices: Indices) -> bytes | None:
        """Return the codes as bytes; None where this codec does not apply or cannot win."""
        ...

    def decode(self, data: memoryview, shape: tuple[int, ...], levels: int) -> Codes:
        """Return the codes; shape (entries,).

        Args:
            data: Exactly the bytes that ``encode`` returned, or anything: it may come from
                anyone. Nothing is allocated that ``data`` and the entries do not account for.
            shape: Of the tensor; its entries are known to fit the memory.
            levels: 1..65,535, or 0 for an empty tensor.

        Raises:
            FormatError: The bytes do not fit, hold a code of ``levels`` or more, or go on.
        """
        ...
