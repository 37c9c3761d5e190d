"""Codes at their order-0 entropy: each costs what its share of the tensor says."""

from math import prod

import numpy as np

from autocompress.errors import FormatError
from autocompress.store.pack.bits import BitReader, BitWriter
from autocompress.store.pack.codec import Codes, Indices
from autocompress.store.pack.lanes import SymbolReader, SymbolWriter
from autocompress.store.pack.tables import read_table, write_table

_LARGE = 2**20  # Entries of tensors whose time to read counts.
_LEAST = 0.7  # Bits an entry: below, lanes are few for the entries, and gaps are as short.


class Rans:
    """A table of frequencies, then every code."""

    name = "rans"

    def encode(self, indices: Indices) -> bytes | None:
        """Return the codes as bytes; None for large tensors of hardly any non-zeros.

        Gaps of any distribution take no more bits than those of equally likely places, which
        are what an order-0 code pays for zeros.
        """
        codes, levels = indices.codes, indices.levels
        if levels < 2:
            return b""
        histogram = np.bincount(codes, minlength=levels)
        bits = BitWriter()
        table = write_table(histogram, bits)
        if len(codes) >= _LARGE and table.cost(histogram) < _LEAST * len(codes):
            return None
        writer = SymbolWriter()
        writer.run(codes, table)
        return bits.finish() + writer.finish()

    def decode(self, data: memoryview, shape: tuple[int, ...], levels: int) -> Codes:
        """Return the codes; shape (entries,).

        Raises:
            FormatError: The bytes do not fit.
        """
        entries = prod(shape)
        if levels < 2 or entries == 0:
            if len(data) or (entries and not levels):
                raise FormatError(f"want no bytes for {levels} levels, got {len(data):,}")
            return np.zeros(entries, np.uint16)
        bits = BitReader(data)
        table = read_table(bits, levels)
        reader = SymbolReader(bits.rest())
        codes = reader.run(entries, table)
        reader.end()
        return codes
