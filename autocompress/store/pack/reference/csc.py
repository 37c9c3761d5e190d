"""CSC: the non-zeros column by column, each with its row.

In the file: rows and columns as numbers; :mod:`places <autocompress.store.pack.reference.places>`;
the non-zeros, 4 bytes each. -0.0 counts as a non-zero, because it has bits of its own.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from autocompress.errors import FormatError
from autocompress.store.pack.reference.base import (
    MOST_ENTRIES,
    Matrix,
    Patterns,
    build_matrix,
    check_input,
    pack_array,
    read_array,
    read_columns,
    read_shape,
    write_shape,
)
from autocompress.store.pack.reference.places import Places, find_places, read_places
from autocompress.store.pack.wire import Reader, Writer


@dataclass(frozen=True, kw_only=True)
class Csc:
    """A matrix in CSC; see :class:`autocompress.store.pack.reference.base.Reference`.

    Attributes:
        places: Of the non-zeros.
        values: Their bits; shape (non-zeros,).
    """

    name: ClassVar[str] = "csc"

    places: Places
    values: Patterns

    @classmethod
    def compress(cls, matrix: Matrix) -> Self:
        """Return ``matrix`` in this format."""
        patterns = read_columns(matrix)
        places = find_places(patterns, (matrix.shape[0], matrix.shape[1]))
        return cls(places=places, values=patterns[patterns != 0])

    @classmethod
    def read(cls, data: bytes | memoryview, most: int = MOST_ENTRIES) -> Self:
        """Return what ``to_bytes`` gave; FormatError for anything else."""
        reader = Reader(data)
        places = read_places(reader, read_shape(reader, most))
        values = read_array(reader, len(places.rows), 4)
        reader.end()
        if not values.all():
            raise FormatError("a stored value is 0")
        return cls(places=places, values=values)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.places.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return len(self.to_bytes())

    @property
    def nbytes_without_starts(self) -> int:
        """The same: columns start where the counts say."""
        return self.nbytes

    def to_bytes(self) -> bytes:
        """Return the file."""
        writer = Writer()
        write_shape(writer, self.shape)
        writer.raw(self.places.to_bytes())
        writer.raw(pack_array(self.values, 4))
        return writer.finish()

    def decompress(self) -> Matrix:
        """Return the matrix, bit for bit."""
        return build_matrix(self.places.spread(self.values), self.shape)

    def matmul(self, x: Matrix) -> Matrix:
        """Return ``x @ matrix``; one column of non-zeros at a time."""
        check_input(x, self.shape[0])
        values, starts, rows = self.values.view(np.float32), self.places.starts, self.places.rows
        product = np.zeros((len(x), self.shape[1]), dtype=np.float32)
        for column in np.flatnonzero(np.diff(starts)):
            own = slice(starts[column], starts[column + 1])
            product[:, column] = x[:, rows[own]] @ values[own]
        return product
