"""Codes of a tensor whose rows, columns or channels are gone as a whole: what is left, dense."""

from math import prod

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import FormatError
from autocompress.store.pack.codec import Codec, Codes, Indices
from autocompress.store.pack.wire import Reader, Writer

Kept = NDArray[np.bool_]


class Structured:
    """Empty rows and columns apart, the rest by the best of other codecs.

    Args:
        inner: By number, which the format fixes; the flags of rows and columns take them too.
    """

    name = "structured"

    def __init__(self, inner: dict[int, Codec]) -> None:
        self._inner = inner

    def encode(self, indices: Indices) -> bytes | None:
        """Return the codes as bytes, where at least one row or column is empty."""
        if indices.levels < 2:
            return None
        matrix = indices.matrix
        full = matrix != 0
        rows, columns = full.any(1), full.any(0)
        if rows.all() and columns.all():
            return None
        writer = Writer()
        for kept in (rows, columns):
            self._write(writer, kept.astype(np.uint16), (len(kept),), 2)
        rest = matrix[rows][:, columns]
        # Zero may be gone from the rest: its codes go on counting from 0.
        self._write(writer, rest.reshape(-1), rest.shape, indices.levels)
        return writer.finish()

    def decode(self, data: memoryview, shape: tuple[int, ...], levels: int) -> Codes:
        """Return the codes; see ``Codec``."""
        if levels < 2:
            raise FormatError("structured: want two levels or more")
        reader = Reader(data)
        rows = shape[0] if shape else 1
        columns = prod(shape[1:])
        kept_rows = self._read(reader, (rows,), 2).astype(np.bool_)
        kept_columns = self._read(reader, (columns,), 2).astype(np.bool_)
        size = (int(kept_rows.sum()), int(kept_columns.sum()))
        rest = self._read(reader, size, levels).reshape(size)
        reader.end()
        matrix = np.zeros((rows, columns), np.uint16)
        matrix[np.ix_(kept_rows, kept_columns)] = rest
        return matrix.reshape(-1)

    def _write(self, writer: Writer, codes: Codes, shape: tuple[int, ...], levels: int) -> None:
        indices = Indices(shape=shape, codes=np.ascontiguousarray(codes), levels=levels)
        found = {number: codec.encode(indices) for number, codec in self._inner.items()}
        kept = {number: data for number, data in found.items() if data is not None}
        number = min(kept, key=lambda one: (len(kept[one]), one))
        writer.number(number)
        writer.sized(kept[number])

    def _read(self, reader: Reader, shape: tuple[int, ...], levels: int) -> Codes:
        number = reader.number()
        if number not in self._inner:
            raise FormatError(f"structured: no codec has the number {number}")
        return self._inner[number].decode(reader.sized(), shape, levels)
