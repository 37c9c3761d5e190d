"""sHAC: CSC whose non-zeros are canonical Huffman words.

In the file: rows and columns as numbers; :mod:`places <autocompress.store.pack.reference.places>`
as they are; then :mod:`the coded columns <autocompress.store.pack.reference.coded>` of the
non-zeros. -0.0 counts as a non-zero.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from autocompress.errors import FormatError
from autocompress.store.pack.reference.base import (
    MOST_ENTRIES,
    Matrix,
    build_matrix,
    check_input,
    read_columns,
    read_shape,
    write_shape,
)
from autocompress.store.pack.reference.coded import START_BYTES, CodedColumns
from autocompress.store.pack.reference.places import Places, find_places, read_places
from autocompress.store.pack.wire import Reader, Writer


@dataclass(frozen=True, kw_only=True)
class Shac:
    """A matrix in sHAC; see :class:`autocompress.store.pack.reference.base.Reference`.

    Attributes:
        places: Of the non-zeros.
        coded: The non-zeros.
    """

    name: ClassVar[str] = "shac"

    places: Places
    coded: CodedColumns

    @classmethod
    def compress(cls, matrix: Matrix) -> Self:
        """Return ``matrix`` in this format."""
        patterns = read_columns(matrix)
        places = find_places(patterns, (matrix.shape[0], matrix.shape[1]))
        coded = CodedColumns.encode(patterns[patterns != 0], places.starts[:-1])
        return cls(places=places, coded=coded)

    @classmethod
    def read(cls, data: bytes | memoryview, most: int = MOST_ENTRIES) -> Self:
        """Return what ``to_bytes`` gave; FormatError for anything else."""
        reader = Reader(data)
        places = read_places(reader, read_shape(reader, most))
        coded = CodedColumns.read(reader, places.starts[:-1], len(places.rows))
        if not coded.values.all():
            raise FormatError("a stored value is 0")
        return cls(places=places, coded=coded)

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
        """Bytes of a file that is decoded from its first bit on."""
        return self.nbytes - START_BYTES * self.shape[1]

    def to_bytes(self) -> bytes:
        """Return the file."""
        writer = Writer()
        write_shape(writer, self.shape)
        writer.raw(self.places.to_bytes())
        self.coded.write(writer)
        return writer.finish()

    def decompress(self) -> Matrix:
        """Return the matrix, bit for bit."""
        values = self.coded.decode(0, len(self.places.rows))
        return build_matrix(self.places.spread(values), self.shape)

    def matmul(self, x: Matrix) -> Matrix:
        """Return ``x @ matrix``; the decoded non-zeros of one column at a time."""
        check_input(x, self.shape[0])
        starts, rows = self.places.starts, self.places.rows
        product = np.zeros((len(x), self.shape[1]), dtype=np.float32)
        for column in np.flatnonzero(np.diff(starts)):
            own = slice(int(starts[column]), int(starts[column + 1]))
            values = self.coded.decode(int(self.coded.starts[column]), own.stop - own.start)
            product[:, column] = x[:, rows[own]] @ values.view(np.float32)
        return product
