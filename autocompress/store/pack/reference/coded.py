"""A run of values as canonical Huffman words, cut into columns: what HAC and sHAC share.

In the file: the number of distinct values, the code, the values by falling frequency (4 bytes
each); the bit at which each column starts (4 bytes each); the words (4 bytes each).
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from autocompress.errors import FormatError
from autocompress.store.pack.reference.base import Counts, Patterns, pack_array, read_array
from autocompress.store.pack.reference.huffman import (
    Code,
    Words,
    check_padding,
    decode_symbols,
    encode_symbols,
    make_code,
    read_code,
)
from autocompress.store.pack.wire import Reader, Writer

START_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class CodedColumns:
    """Values of columns, of any number each, as code words.

    Attributes:
        code: Of the values.
        values: Bits of the distinct values by falling frequency, then ascending; shape (k,).
        starts: Bit at which each column starts; shape (columns,).
        words: The stream; shape (words,).
    """

    code: Code
    values: Patterns
    starts: Counts
    words: Words

    @classmethod
    def encode(cls, patterns: Patterns, firsts: Counts) -> Self:
        """Return the bits of values as code words.

        Args:
            patterns: Column by column, shape (entries,).
            firsts: Number of the first entry of each column, shape (columns,).

        Raises:
            ValueError: The stream is too long for starts of 32 bits.
        """
        values, symbols, counts = np.unique(patterns, return_inverse=True, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        ranks = np.empty_like(order)
        ranks[order] = np.arange(len(order))
        code = make_code(counts[order])
        words, bits = encode_symbols(code, ranks[symbols])
        if int(bits[-1]) >= 2**32:
            raise ValueError(f"want less than 2^32 bits of code, got {int(bits[-1]):,}")
        return cls(code=code, values=values[order], starts=bits[firsts], words=words)

    def write(self, writer: Writer) -> None:
        """Append all parts."""
        writer.number(len(self.values))
        self.code.write(writer)
        writer.raw(pack_array(self.values, 4))
        writer.raw(pack_array(self.starts, START_BYTES))
        writer.raw(pack_array(self.words, 4))

    @classmethod
    def read(cls, reader: Reader, firsts: Counts, entries: int) -> Self:
        """Return the code words of ``entries`` values, which end the file.

        Raises:
            FormatError: They are damaged.
        """
        levels = reader.number(entries)
        if not levels and entries:
            raise FormatError("want a value for the entries, got none")
        code = read_code(reader, levels)
        values = read_array(reader, levels, 4)
        starts = read_array(reader, len(firsts), START_BYTES).astype(np.int64)
        words = read_array(reader, reader.left // 4, 4)
        reader.end()
        found = cls(code=code, values=values, starts=starts, words=words)
        symbols, end = decode_symbols(code, words, 0, entries)
        check_padding(words, end)
        if not found._is_like(cls.encode(values[symbols], firsts)):
            raise FormatError("the code words are not written in the one way of the format")
        return found

    def _is_like(self, other: Self) -> bool:
        return (
            self.code == other.code
            and np.array_equal(self.values, other.values)
            and np.array_equal(self.starts, other.starts)
            and np.array_equal(self.words, other.words)
        )

    def decode(self, start: int, count: int) -> Patterns:
        """Return the bits of ``count`` values from bit ``start`` on."""
        return self.values[decode_symbols(self.code, self.words, start, count)[0]]
