"""IM, the index map: a codebook, and for every entry its number in as few bits as all need.

In the file: rows, columns and the k distinct values' count as numbers; the codebook, 4 bytes a
value, ascending by bits; the numbers column by column, ceil(log2 k) bits each, the highest bit
first, without gaps, and zero bits up to the next byte. One value needs no bits at all.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

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
from autocompress.store.pack.wire import Reader, Writer


@dataclass(frozen=True, kw_only=True)
class IndexMap:
    """A matrix as an index map; see :class:`autocompress.store.pack.reference.base.Reference`.

    Attributes:
        shape: Of the matrix.
        values: Bits of the distinct values, ascending; shape (k,).
        packed: The numbers of the entries, as they lie in the file.
    """

    name: ClassVar[str] = "im"

    shape: tuple[int, int]
    values: Patterns
    packed: NDArray[np.uint8]

    @classmethod
    def compress(cls, matrix: Matrix) -> Self:
        """Return ``matrix`` in this format."""
        values, codes = np.unique(read_columns(matrix), return_inverse=True)
        width = index_bits(len(values))
        shape = (matrix.shape[0], matrix.shape[1])
        return cls(shape=shape, values=values, packed=_pack(codes.astype(np.uint32), width))

    @classmethod
    def read(cls, data: bytes | memoryview, most: int = MOST_ENTRIES) -> Self:
        """Return what ``to_bytes`` gave; FormatError for anything else."""
        reader = Reader(data)
        shape = read_shape(reader, most)
        entries = shape[0] * shape[1]
        levels = reader.number(entries)
        if not levels and entries:
            raise FormatError("want a value for the entries, got none")
        values = read_array(reader, levels, 4)
        packed = np.frombuffer(reader.raw((entries * index_bits(levels) + 7) // 8), np.uint8)
        reader.end()
        found = cls(shape=shape, values=values, packed=packed)
        if (np.diff(values.astype(np.int64)) <= 0).any():
            raise FormatError("the values do not ascend")
        if levels > 1:
            counts = np.bincount(found._unpack(0, entries), minlength=levels)
            if len(counts) > levels or not counts.all():
                raise FormatError("numbers without a value, or values without a number")
        filling = -entries * index_bits(levels) % 8
        if len(packed) and int(packed[-1]) & ((1 << filling) - 1):
            raise FormatError("the bits that fill the last byte are not zero")
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return len(self.to_bytes())

    @property
    def nbytes_without_starts(self) -> int:
        """The same: a column starts at a multiple of its bits."""
        return self.nbytes

    def to_bytes(self) -> bytes:
        """Return the file."""
        writer = Writer()
        write_shape(writer, self.shape)
        writer.number(len(self.values))
        writer.raw(pack_array(self.values, 4))
        writer.raw(self.packed.tobytes())
        return writer.finish()

    def decompress(self) -> Matrix:
        """Return the matrix, bit for bit."""
        entries = self.shape[0] * self.shape[1]
        return build_matrix(self.values[self._unpack(0, entries)], self.shape)

    def matmul(self, x: Matrix) -> Matrix:
        """Return ``x @ matrix``; one looked-up column at a time."""
        rows, columns = self.shape
        check_input(x, rows)
        values = self.values.view(np.float32)
        product = np.zeros((len(x), columns), dtype=np.float32)
        for column in range(columns if rows else 0):
            product[:, column] = x @ values[self._unpack(column * rows, (column + 1) * rows)]
        return product

    def _unpack(self, start: int, stop: int) -> NDArray[np.uint32]:
        """Return the numbers of the entries from ``start`` to before ``stop``."""
        width = index_bits(len(self.values))
        first = start * width // 8
        bits = np.unpackbits(self.packed[first : (stop * width + 7) // 8])
        bits = bits[start * width - first * 8 : stop * width - first * 8]
        codes = np.zeros(stop - start, dtype=np.uint32)
        for place in range(width):
            codes <<= 1
            codes |= bits[place::width]
        return codes


def index_bits(levels: int) -> int:
    """Return ceil(log2 levels), the bits of a number below ``levels``; 0 for none."""
    return max(levels - 1, 0).bit_length()


def _pack(codes: NDArray[np.uint32], width: int) -> NDArray[np.uint8]:
    """Return the last ``width`` bits of each number one after the other."""
    bits = np.empty((len(codes), width), dtype=np.uint8)
    for place in range(width):
        bits[:, place] = codes >> (width - 1 - place) & 1
    return np.packbits(bits.reshape(-1))
