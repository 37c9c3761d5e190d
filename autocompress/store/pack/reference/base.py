"""What a compressed matrix of the papers can do, and the parts that the formats share.

A reference format is here to be compared with and to be studied. It stores one float32 matrix of
``rows`` x ``columns``, inputs by outputs, so that a product with it is ``x @ matrix``. Sources:
arXiv:2007.07967 (ICPR 2020) and arXiv:2108.12704. Numbers of the shape and of the values are
those of :mod:`autocompress.store.pack.wire`; everything else is little-endian.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import FormatError
from autocompress.store.pack.wire import Reader, Writer

Matrix = NDArray[np.float32]
Patterns = NDArray[np.uint32]  # float32 by their bits: -0.0 and every NaN are values of their own.
Counts = NDArray[np.int64]

MOST_ENTRIES = 2**28


class Reference(Protocol):
    """One compressed matrix."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows (inputs) and columns (outputs)."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of the file: what decoding and the product of the paper need."""
        ...

    @property
    def nbytes_without_starts(self) -> int:
        """The same without the bit at which each column starts, where the format has such.

        Only a product that takes the columns in parallel needs them.
        """
        ...

    def to_bytes(self) -> bytes:
        """Return the file; ``nbytes`` long."""
        ...

    def decompress(self) -> Matrix:
        """Return the matrix, bit for bit; C order."""
        ...

    def matmul(self, x: Matrix) -> Matrix:
        """Return ``x @ matrix`` with one decoded column in memory at a time.

        Args:
            x: Shape (batch, rows), float32.

        Returns:
            Shape (batch, columns). Formats that skip zeros also skip infinity times zero.

        Raises:
            ValueError: ``x`` has another shape or dtype.
        """
        ...


class Format(Protocol):
    """One way to compress a matrix."""

    @property
    def name(self) -> str:
        """What the format is called in tables."""
        ...

    def compress(self, matrix: Matrix) -> Reference:
        """Return ``matrix``, shape (rows, columns), in this format.

        Raises:
            ValueError: It is no float32 matrix, or too large for the format.
        """
        ...

    def read(self, data: bytes | memoryview, most: int = MOST_ENTRIES) -> Reference:
        """Return what ``to_bytes`` gave the bytes of.

        Args:
            data: May come from anyone.
            most: Entries that the matrix may have.

        Raises:
            FormatError: The bytes are not those that ``compress`` leads to, of any matrix.
        """
        ...


def read_columns(matrix: Matrix) -> Patterns:
    """Return the bits of all entries, column by column; shape (rows * columns,).

    Raises:
        ValueError: It is no float32 matrix, or has too many entries.
    """
    if matrix.ndim != 2 or matrix.dtype != np.float32:
        raise ValueError(f"want a float32 matrix, got {matrix.dtype} of {matrix.ndim} axes")
    if matrix.size > MOST_ENTRIES:
        raise ValueError(f"want at most {MOST_ENTRIES:,} entries, got {matrix.size:,}")
    return matrix.ravel(order="F").view(np.uint32)


def build_matrix(patterns: Patterns, shape: tuple[int, int]) -> Matrix:
    """Return the matrix that :func:`read_columns` gave the bits of."""
    columns = patterns.reshape(shape[1], shape[0])
    return np.ascontiguousarray(columns.T).view(np.float32)


def check_input(x: Matrix, rows: int) -> None:
    """Raise ValueError unless ``x`` can be multiplied with a matrix of ``rows`` rows."""
    if x.ndim != 2 or x.shape[1] != rows or x.dtype != np.float32:
        raise ValueError(f"want float32 of shape (batch, {rows}), got {x.dtype} of {x.shape}")


def write_shape(writer: Writer, shape: tuple[int, int]) -> None:
    """Append both numbers of a shape."""
    for size in shape:
        writer.number(size)


def read_shape(reader: Reader, most: int) -> tuple[int, int]:
    """Return a shape of at most ``most`` entries, and of as many rows and columns.

    Raises:
        FormatError: It is none.
    """
    rows, columns = reader.number(most), reader.number(most)
    if rows * columns > most:
        raise FormatError(f"want at most {most:,} entries, got {rows:,} x {columns:,}")
    return rows, columns


def pack_array(values: NDArray[Any], width: int) -> bytes:
    """Return whole numbers as bytes, ``width`` of 1, 2 or 4 bytes each."""
    return values.astype(f"<u{width}").tobytes()


def read_array(reader: Reader, count: int, width: int) -> NDArray[Any]:
    """Return ``count`` whole numbers of ``width`` bytes each; shape (count,).

    Raises:
        FormatError: There are not so many.
    """
    found = np.frombuffer(reader.raw(count * width), dtype=f"<u{width}")
    return found.astype(f"u{width}")


def byte_width(most: int) -> int:
    """Return the bytes of a number up to ``most``: 1, 2 or 4."""
    return 1 if most < 2**8 else 2 if most < 2**16 else 4
