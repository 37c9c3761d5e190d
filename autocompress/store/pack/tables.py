"""How often each symbol is expected: tables of frequencies, few bytes each.

A stream holds rough counts, and both sides make them frequencies that sum to a power of two, in
whole numbers. So a table of a short stream may cost a few bits a symbol, and no table can have a
wrong sum.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import FormatError
from autocompress.store.pack.bits import BitReader, BitWriter

LEAST_BITS, MOST_BITS = 4, 16

Counts = NDArray[np.uint64]
Steps = NDArray[np.int64]

_TOP = 60  # Counts times their scale stay below 2^60, twice that in 64 bits.
_CLASSES = 32  # Bits of a count in a table.
_LONG = 2**12
_TABLE_COST = 2**-13  # Bits that an entry of the decoder's table is worth: it takes time.


@dataclass(frozen=True, kw_only=True)
class Table:
    """Frequencies of symbols.

    Attributes:
        bits: They sum to ``2**bits``, 4..16.
        frequencies: Of each symbol, 0 of those that never occur; shape (symbols,).
    """

    bits: int
    frequencies: NDArray[np.uint32]

    @property
    def starts(self) -> NDArray[np.uint32]:
        """Sum of the frequencies before each symbol; shape (symbols,)."""
        return (np.cumsum(self.frequencies) - self.frequencies).astype(np.uint32)

    @property
    def single(self) -> int | None:
        """The symbol when there is but one, which costs nothing; None otherwise."""
        symbol = int(self.frequencies.argmax())
        return symbol if self.frequencies[symbol] == 1 << self.bits else None

    def cost(self, histogram: NDArray[np.integer[Any]]) -> float:
        """Return about how many bits symbols of this ``histogram``, shape (symbols,), take."""
        occur = histogram > 0
        widths = self.bits - np.log2(self.frequencies[occur])
        return float((histogram[occur] * widths).sum())


SINGLE = Table(bits=LEAST_BITS, frequencies=np.array([1 << LEAST_BITS], np.uint32))


def scale_counts(histogram: NDArray[np.integer[Any]], bits: int) -> NDArray[np.uint32]:
    """Return frequencies in about the proportion of counts, in whole numbers throughout.

    The best ones give each unit in turn to the symbol whose code becomes shortest by it: to the
    highest c / (f + 1/2), as log((f + 1) / f) is about 1 / (f + 1/2). These are rounded
    quotients by one divisor (Webster's method), and never less than 1.

    Args:
        histogram: Of each symbol, at least one not 0, their sum below 2^58; shape (symbols,).
            No more of them may occur than ``2**bits``.
        bits: 4..16.

    Returns:
        0 where the count is, at least 1 elsewhere, of sum ``2**bits``; shape (symbols,).
    """
    occur = np.flatnonzero(histogram)
    counts = histogram[occur].astype(np.uint64)
    total, target = int(counts.sum()), 1 << bits
    if not 0 < len(occur) <= target:
        raise ValueError(f"want 1..{target} symbols that occur, got {len(occur)}")
    scaled = counts << np.uint64(_TOP - total.bit_length())

    def divide(divisor: int) -> Counts:
        double = np.uint64(2 * divisor)
        return np.maximum((2 * scaled + np.uint64(divisor)) // double, np.uint64(1))

    # Half the quotient of the sums is always too little, as no more occur than the target.
    high = int(scaled.sum()) >> bits
    low, found = high // 2, divide(high)
    while int(found.sum()) > target:
        low, high = high, 2 * high
        found = divide(high)
    while high - low > 1 and int(found.sum()) < target:
        middle = (low + high) // 2
        tried = divide(middle)
        if int(tried.sum()) > target:
            low = middle
        else:
            high, found = middle, tried
    missing = target - int(found.sum())
    if missing:  # Several grow at once at the next divisor; the first ones do.
        more = divide(low) - found
        before = np.minimum(np.cumsum(more) - more, np.uint64(missing))
        found += np.minimum(more, np.uint64(missing) - before)
    frequencies = np.zeros(len(histogram), np.uint32)
    frequencies[occur] = found
    return frequencies


def write_table(
    histogram: NDArray[np.integer[Any]], writer: BitWriter, steps: Steps | None = None
) -> Table:
    """Append the rough counts that make table and symbols together shortest.

    Args:
        histogram: How often each symbol occurs, at least one; shape (symbols,), 1..65,536.
        writer: What to append to.
        steps: Sizes of runs of symbols that share one frequency; None when each has its own.

    Returns:
        The table that :func:`read_table` returns.
    """
    if len(histogram) == 1:
        return SINGLE
    counts = histogram.astype(np.int64)
    if steps is not None:
        counts = np.add.reduceat(counts, np.cumsum(steps) - steps)
    excess = max(int(counts.max()).bit_length() + 1 - _CLASSES, 0)
    counts = np.where(counts, np.maximum(counts >> excess, 1), 0)
    # Few digits are tried of a long table: each try costs time.
    choices = (0, 1, 2, 3, 4, 6, 9, 12) if len(counts) <= _LONG else (2, 4, 8, 12)
    tries = [(_list_fields(_round(counts, kept), kept), kept) for kept in choices]
    widest = _choose_bits(len(histogram))
    costs = []
    for fields, kept in tries:
        table = _make_table(_round(counts, kept), widest[-1], steps)
        costs.append(_measure(fields) + table.cost(histogram))
    fields, kept = tries[int(np.argmin(costs))]
    tables = [_make_table(_round(counts, kept), bits, steps) for bits in widest]
    lengths = [table.cost(histogram) + _TABLE_COST * 2**table.bits for table in tables]
    best = tables[int(np.argmin(lengths))]
    writer.plain(best.bits - 1, 4)
    writer.plain(kept, 4)
    for value, width in fields:
        if width < 0:
            writer.golomb(value)
        else:
            writer.plain(value, width)
    return best


def read_table(reader: BitReader, symbols: int, steps: Steps | None = None) -> Table:
    """Return the table that :func:`write_table` returned.

    Args:
        reader: Of the bits.
        symbols: How many there are; 1..65,536.
        steps: As it was.

    Raises:
        FormatError: There is no such table.
    """
    if symbols == 1:
        return SINGLE
    bits, kept = reader.plain(4) + 1, reader.plain(4)
    if bits < LEAST_BITS:
        raise FormatError(f"want frequencies of {LEAST_BITS} bits or more, got {bits}")
    size = symbols if steps is None else len(steps)
    counts = np.zeros(size, np.int64)
    place, before = 0, 0
    while place < size:
        code = reader.golomb()
        length = before + (-(code + 1) // 2 if code % 2 else code // 2)
        if not 0 <= length <= _CLASSES:
            raise FormatError(f"want counts of up to {_CLASSES} bits, got {length}")
        if length == 0:
            place += 1 + reader.golomb()
            continue
        width = min(kept, length - 1)
        counts[place] = (1 << width | reader.plain(width)) << (length - 1 - width)
        place, before = place + 1, length
    if place > size or not counts.any():
        raise FormatError(f"want counts of {size:,} symbols, one at least")
    expanded = _expand(counts, steps)
    if np.count_nonzero(expanded) > 1 << bits:
        raise FormatError(f"frequencies of {bits} bits are too short for the symbols")
    return Table(bits=bits, frequencies=scale_counts(expanded, bits))


def _choose_bits(symbols: int) -> list[int]:
    """Return the precisions to try; 16 bits would cost 0.1 % as the coder divides."""
    least = max(8, (symbols - 1).bit_length() + 1)
    return [bits for bits in (8, 10, 12, 14, 15) if bits >= least] or [MOST_BITS]


def _round(counts: NDArray[np.int64], kept: int) -> NDArray[np.int64]:
    """Return counts rounded to their highest bit and the ``kept`` next ones."""
    excess = np.maximum(np.frexp(counts)[1].astype(np.int64) - 1 - kept, 0)
    return (counts + (1 << excess >> 1)) >> excess << excess


def _list_fields(counts: NDArray[np.int64], kept: int) -> list[tuple[int, int]]:
    """Return what is written: values and widths, -1 for the width of a Golomb code."""
    fields: list[tuple[int, int]] = []
    place, before, values = 0, 0, counts.tolist()
    while place < len(values):
        length = values[place].bit_length()
        change = length - before
        fields.append((2 * change if change >= 0 else -2 * change - 1, -1))
        if length == 0:
            first = place
            while place < len(values) and not values[place]:
                place += 1
            fields.append((place - first - 1, -1))
            continue
        width = min(kept, length - 1)
        fields.append((values[place] >> (length - 1 - width) & ((1 << width) - 1), width))
        place, before = place + 1, length
    return fields


def _measure(fields: list[tuple[int, int]]) -> int:
    return sum(
        width if width >= 0 else 2 * (value + 1).bit_length() - 1 for value, width in fields
    )


def _make_table(counts: NDArray[np.int64], bits: int, steps: Steps | None) -> Table:
    return Table(bits=bits, frequencies=scale_counts(_expand(counts, steps), bits))


def _expand(counts: NDArray[np.int64], steps: Steps | None) -> NDArray[np.int64]:
    """Return the counts of all symbols of the ``steps``; shape (symbols,)."""
    return counts if steps is None else np.repeat((counts << 16) // steps, steps)
