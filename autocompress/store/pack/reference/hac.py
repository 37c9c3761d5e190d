"""HAC: canonical Huffman words for all entries, zeros too, column by column.

In the file: rows and columns as numbers; then
:mod:`the coded columns <autocompress.store.pack.reference.coded>`. The published code multiplies
wrongly where a column starts at bit 31 of a word; see :func:`huffman.decode_symbols`.
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
from autocompress.store.pack.wire import Reader, Writer


@dataclass(frozen=True, kw_only=True)
class Hac:
    """A matrix in HAC; see :class:`autocompress.store.pack.reference.base.Reference`.

    Attributes:
        shape: Of the matrix.
        coded: Its entries.
    """

    name: ClassVar[str] = "hac"

    shape: tuple[int, int]
    coded: CodedColumns

    @classmethod
    def compress(cls, matrix: Matrix) -> Self:
        """Return ``matrix`` in this format."""
        patterns = read_columns(matrix)
        rows, columns = matrix.shape
        coded = CodedColumns.encode(patterns, np.arange(columns) * rows)
        return cls(shape=(rows, columns), coded=coded)

    @classmethod
    def read(cls, data: bytes | memoryview, most: int = MOST_ENTRIES) -> Self:
        """Return what ``to_bytes`` gave; FormatError for anything else."""
        reader = Reader(data)
        rows, columns = read_shape(reader, most)
        if columns > reader.left:
            raise FormatError("the file ends before its columns")
        coded = CodedColumns.read(reader, np.arange(columns) * rows, rows * columns)
        return cls(shape=(rows, columns), coded=coded)

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
        self.coded.write(writer)
        return writer.finish()

    def decompress(self) -> Matrix:
        """Return the matrix, bit for bit."""
        return build_matrix(self.coded.decode(0, self.shape[0] * self.shape[1]), self.shape)

    def matmul(self, x: Matrix) -> Matrix:
        """Return ``x @ matrix``; one decoded column at a time."""
        rows, columns = self.shape
        check_input(x, rows)
        product = np.zeros((len(x), columns), dtype=np.float32)
        for column in range(columns if rows else 0):
            values = self.coded.decode(int(self.coded.starts[column]), rows)
            product[:, column] = x @ values.view(np.float32)
        return product
