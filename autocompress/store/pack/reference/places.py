"""Where the non-zeros of a matrix are: how many each column has, and in which rows.

In the file: one count for each column, of 1, 2 or 4 bytes by the number of rows; one row number
for each non-zero, of 1, 2 or 4 bytes by the highest row. The papers write where each column
starts instead; counts say the same and are never longer.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import FormatError
from autocompress.store.pack.reference.base import (
    Counts,
    Patterns,
    byte_width,
    pack_array,
    read_array,
)
from autocompress.store.pack.wire import Reader


@dataclass(frozen=True, kw_only=True)
class Places:
    """Places of the entries that are not +0.0, column by column.

    Attributes:
        shape: Of the matrix.
        starts: Number of the first non-zero of each column, then that of all; (columns + 1,).
        rows: Row of each non-zero, ascending in each column; shape (non-zeros,).
    """

    shape: tuple[int, int]
    starts: Counts
    rows: NDArray[Any]

    def to_bytes(self) -> bytes:
        """Return the counts, then the rows."""
        height = self.shape[0]
        counts = pack_array(np.diff(self.starts), byte_width(height))
        return counts + pack_array(self.rows, byte_width(max(height - 1, 0)))

    def spread(self, values: Patterns) -> Patterns:
        """Return all entries of the matrix column by column; those not stored are 0."""
        height, width = self.shape
        found = np.zeros(height * width, dtype=np.uint32)
        columns = np.repeat(np.arange(width, dtype=np.int64), np.diff(self.starts))
        found[columns * height + self.rows] = values
        return found


def find_places(patterns: Patterns, shape: tuple[int, int]) -> Places:
    """Return the places of the non-zeros among all entries, column by column."""
    height, width = shape
    stored = np.flatnonzero(patterns)
    columns, rows = np.divmod(stored, max(height, 1))
    starts = np.zeros(width + 1, dtype=np.int64)
    np.cumsum(np.bincount(columns, minlength=width), out=starts[1:])
    return Places(shape=shape, starts=starts, rows=rows.astype(np.int64))


def read_places(reader: Reader, shape: tuple[int, int]) -> Places:
    """Return the places that come next.

    Raises:
        FormatError: They are damaged.
    """
    height, width = shape
    counts = read_array(reader, width, byte_width(height)).astype(np.int64)
    if width and int(counts.max()) > height:
        raise FormatError(f"want up to {height:,} non-zeros in a column, got {counts.max():,}")
    starts = np.zeros(width + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    rows = read_array(reader, int(starts[-1]), byte_width(max(height - 1, 0))).astype(np.int64)
    if rows.size:
        if int(rows.max()) >= height:
            raise FormatError(f"want rows up to {height - 1:,}, got {rows.max():,}")
        rises = np.diff(rows) > 0
        firsts = starts[1:-1]  # A new column may begin anywhere.
        rises[firsts[(firsts > 0) & (firsts < rows.size)] - 1] = True
        if not rises.all():
            raise FormatError("the rows of a column do not ascend")
    return Places(shape=shape, starts=starts, rows=rows)
