"""Canonical Huffman codes: short words for frequent symbols, known from their lengths alone.

Symbols are numbered by falling frequency, so that lengths ascend; words of one length are
consecutive, and shorter ones come first. The stream is cut into words of 32 bits, the first bit
the highest; zero bits fill the last one. In the file a code is its longest length, then the
number of words of each length from 1 on: all that decoding needs. A code of one symbol has the
word "0": HAC spends a bit on every weight.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import FormatError
from autocompress.store.pack.reference.base import Counts
from autocompress.store.pack.wire import Reader, Writer

MAX_BITS = 32
WORD_BITS = 32

Words = NDArray[np.uint32]
Symbols = NDArray[np.int64]

_WINDOW = 2**18  # Bits looked at together.


@dataclass(frozen=True)
class Code:
    """A canonical code.

    Attributes:
        sizes: How many words have length 1, 2, ..; the last is not 0. Empty without symbols.
    """

    sizes: tuple[int, ...]

    @property
    def levels(self) -> int:
        """Number of symbols."""
        return sum(self.sizes)

    def write(self, writer: Writer) -> None:
        """Append the code; the number of symbols is known to the reader."""
        if self.sizes:
            writer.number(len(self.sizes))
        for size in self.sizes:
            writer.number(size)

    @cached_property
    def lengths(self) -> Counts:
        """Length of the word of each symbol; shape (levels,)."""
        return np.repeat(np.arange(1, len(self.sizes) + 1), self.sizes)

    @cached_property
    def words(self) -> NDArray[np.uint64]:
        """Word of each symbol in its last bits; shape (levels,)."""
        lengths = self.lengths.astype(np.uint64)
        # In units of the shortest step, each word begins where the one before ends.
        steps = np.uint64(1) << (np.uint64(MAX_BITS) - lengths)
        return (np.cumsum(steps) - steps) >> (np.uint64(MAX_BITS) - lengths)

    @cached_property
    def _limits(self) -> NDArray[np.uint64]:
        """What follows the last word of each length, at the front of 32 bits."""
        lengths = np.arange(1, len(self.sizes) + 1).astype(np.uint64)
        steps = np.array(self.sizes, dtype=np.uint64) << (np.uint64(MAX_BITS) - lengths)
        return np.cumsum(steps)

    def measure_words(self, windows: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """Return the length of the word at the front of each 32 bits; too long where none is."""
        return (np.searchsorted(self._limits, windows, side="right") + 1).astype(np.uint8)

    def name_symbols(self, windows: NDArray[np.uint64]) -> Symbols:
        """Return the symbol of the word at the front of each 32 bits, all of which have one."""
        ends = np.cumsum(np.array(self.sizes, dtype=np.int64))
        places = np.searchsorted(self._limits, windows, side="right")
        shifts = (MAX_BITS - 1 - places).astype(np.uint64)
        # Words of a length are consecutive: count back from the last of them.
        back = (self._limits[places] - 1 >> shifts) - (windows >> shifts)
        return ends[places] - 1 - back.astype(np.int64)


def make_code(counts: Counts) -> Code:
    """Return the code of least bits whose words have at most 32.

    Args:
        counts: How often each symbol occurs, 1 or more, descending; shape (levels,).
    """
    return Code(tuple(np.bincount(find_lengths(counts))[1:].tolist()))


def find_lengths(counts: Counts, most: int = MAX_BITS) -> Counts:
    """Return the lengths of words for descending counts, by package-merge; ascending.

    Source: Larmore and Hirschberg, 1990. Where Huffman's lengths are at most ``most``, these
    cost as many bits.
    """
    levels = len(counts)
    if levels < 2:
        return np.ones(levels, dtype=np.int64)
    rising = counts[::-1].astype(np.int64)
    packages = np.empty(0, dtype=np.int64)
    leaves: list[NDArray[np.bool_]] = []
    for _ in range(most):
        merged = np.concatenate([rising, packages])
        order = np.argsort(merged, kind="stable")
        leaves.append(order < levels)
        merged = merged[order]
        packages = merged[0 : len(merged) // 2 * 2 : 2] + merged[1::2]
    lengths = np.zeros(levels, dtype=np.int64)
    taken = 2 * levels - 2
    for is_leaf in reversed(leaves):
        single = int(is_leaf[:taken].sum())
        lengths[:single] += 1
        taken = 2 * (taken - single)
    return lengths[::-1].copy()


def read_code(reader: Reader, levels: int) -> Code:
    """Return the code of ``levels`` symbols that comes next.

    Raises:
        FormatError: It is damaged, or leaves some bits without a meaning.
    """
    if not levels:
        return Code(())
    longest = reader.number(MAX_BITS)
    code = Code(tuple(reader.number(levels) for _ in range(longest)))
    if code.levels != levels or not code.sizes[-1]:
        raise FormatError(f"want code words for {levels:,} values, got {code.levels:,}")
    used = sum(size << (MAX_BITS - length) for length, size in enumerate(code.sizes, start=1))
    if used != 2 ** (MAX_BITS - 1 if levels == 1 else MAX_BITS):
        raise FormatError("the lengths of the code words do not make a code")
    return code


def encode_symbols(code: Code, symbols: Symbols) -> tuple[Words, Counts]:
    """Return the stream, and the bit at which each symbol starts; shape (symbols + 1,)."""
    starts = np.zeros(len(symbols) + 1, dtype=np.int64)
    lengths = code.lengths[symbols]
    np.cumsum(lengths, out=starts[1:])
    count = -(-int(starts[-1]) // WORD_BITS)
    shifts = 2 * WORD_BITS - lengths - starts[:-1] % WORD_BITS
    pairs = code.words[symbols] << shifts.astype(np.uint64)
    first = starts[:-1] // WORD_BITS
    # Sums of separate bits below 2^32: exact in the floats of bincount.
    high = np.bincount(first, (pairs >> np.uint64(WORD_BITS)).astype(np.float64), count + 1)
    low = np.bincount(first + 1, (pairs & np.uint64(2**32 - 1)).astype(np.float64), count + 1)
    return (high + low)[:count].astype(np.uint32), starts


def decode_symbols(code: Code, words: Words, start: int, count: int) -> tuple[Symbols, int]:
    """Return ``count`` symbols from bit ``start`` on, and the bit after them.

    A word may begin at any bit of the stream and go on in the next 32.

    Raises:
        FormatError: The stream ends before, or holds bits without a meaning.
    """
    total = len(words) * WORD_BITS
    if count > total - start:
        raise FormatError("the code words end too early")
    found = np.empty(count, dtype=np.int64)
    done, place = 0, start
    longest = max(len(code.sizes), 1)
    while done < count:
        if place >= total:
            raise FormatError("the code words end too early")
        # Never more bits than the symbols that are left can have.
        stop = min(total, place + min(_WINDOW, (count - done) * longest))
        windows = _read_windows(words, place, stop)
        lengths = code.measure_words(windows).tobytes()
        begins: list[int] = []
        offset, left = 0, count - done
        while offset < stop - place and len(begins) < left:
            begins.append(offset)
            offset += lengths[offset]
        chosen = windows[np.array(begins, dtype=np.int64)]
        if code.levels == 1 and (chosen >> np.uint64(MAX_BITS - 1)).any():
            raise FormatError("a code word has no meaning")
        found[done : done + len(begins)] = code.name_symbols(chosen)
        done += len(begins)
        place += offset
    if place > total:
        raise FormatError("the code words end too early")
    return found, place


def check_padding(words: Words, end: int) -> None:
    """Raise FormatError unless the stream ends in the word of bit ``end`` with zero bits."""
    if len(words) != -(-end // WORD_BITS):
        raise FormatError(f"want {-(-end // WORD_BITS):,} words of code, got {len(words):,}")
    if end % WORD_BITS and int(words[-1]) & ((1 << (WORD_BITS - end % WORD_BITS)) - 1):
        raise FormatError("the bits that fill the last word are not zero")


def _read_windows(words: Words, start: int, stop: int) -> NDArray[np.uint64]:
    """Return the 32 bits from each bit on, from ``start`` to before ``stop``; zeros at the end."""
    first = start // WORD_BITS
    some = np.zeros((stop - 1) // WORD_BITS - first + 2, dtype=np.uint64)
    own = words[first : first + len(some)]
    some[: len(own)] = own
    pairs = some[:-1] << np.uint64(WORD_BITS) | some[1:]
    shifts = np.arange(WORD_BITS, 0, -1).astype(np.uint64)
    windows = (pairs[:, None] >> shifts) & np.uint64(2**32 - 1)
    begin = start - first * WORD_BITS
    return windows.reshape(-1)[begin : begin + stop - start]
