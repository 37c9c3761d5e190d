"""Rising places as gaps between them, and gaps in digits.

The highest digit, the escape, skips that many entries and stores none; any other skips that many
and stores the next. Work goes with the places, not with the entries they are among.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import FormatError
from autocompress.store.pack.codec import Codes
from autocompress.store.pack.lanes import SymbolReader, SymbolWriter
from autocompress.store.pack.tables import LEAST_BITS, Table

Places = NDArray[np.int64]

_BITS = 13
_MOST = 511
_LENGTH = 5  # Bits of the mean of what is left of a gap without its low bits.
_SCALE = 1 << 48  # Stands for 1.


@dataclass(frozen=True, kw_only=True)
class Even:
    """How gaps between places that are all equally likely are coded; nothing is stored of it.

    Such gaps are geometric, and so is what an escape leaves of them.

    Attributes:
        table: Of the high bits of a gap from 0 up, and of the escape.
        low: Lowest bits of a gap, 0..15, all equally likely: where gaps are long.
    """

    table: Table
    low: int

    @property
    def escape(self) -> int:
        """The highest digit."""
        return len(self.table.frequencies) - 1


def plan_even(entries: int, kept: int) -> Even:
    """Return how to code the gaps between ``kept`` of ``entries`` places, each 1 or more."""
    total = 1 << _BITS
    if kept == entries:
        return Even(table=Table(bits=_BITS, frequencies=np.array([total, 0], np.uint32)), low=0)
    low = min(max((entries // kept).bit_length() - _LENGTH, 0), 15)
    rest = _SCALE * (entries - kept) // entries
    for _ in range(low):
        rest = rest * rest // _SCALE
    escape = min(4 * (entries >> low) // kept + 1, _MOST)
    left, ends, spare = _SCALE, [0], total - escape - 1
    for _ in range(escape):
        left = left * rest // _SCALE
        ends.append(spare - spare * left // _SCALE)
    frequencies = (np.diff([*ends, spare]) + 1).astype(np.uint32)
    return Even(table=Table(bits=_BITS, frequencies=frequencies), low=low)


def write_even(writer: SymbolWriter, places: Places, entries: int) -> int:
    """Append rising places below ``entries``, at least one, and return the number of escapes."""
    even = plan_even(entries, len(places))
    skipped = np.diff(places, prepend=-1) - 1
    digits = make_digits(skipped >> even.low, even.escape)
    writer.run(digits, even.table)
    low = skipped & ((1 << even.low) - 1)
    writer.run(low.astype(np.uint16), make_flat_table(even.low))
    return len(digits) - len(places)


def read_even(reader: SymbolReader, kept: int, escapes: int, entries: int) -> Places:
    """Return what :func:`write_even` was given, ``kept`` places.

    Raises:
        FormatError: There are no such places.
    """
    if not 0 < kept <= entries - escapes:
        raise FormatError(f"{kept:,} gaps and {escapes:,} escapes do not fit {entries:,} entries")
    even = plan_even(entries, kept)
    skipped = join_digits(reader.run(kept + escapes, even.table), even.escape, kept)
    low = reader.run(kept, make_flat_table(even.low))
    return find_places(skipped << even.low | low, entries)


def make_flat_table(width: int) -> Table:
    """Return the table of numbers of ``width`` bits, 0..15, all equally likely."""
    bits = max(width, LEAST_BITS)
    return Table(bits=bits, frequencies=np.full(1 << width, 1 << (bits - width), np.uint32))


def make_digits(skipped: Places, escape: int) -> Codes:
    """Return gaps in digits; shape (gaps + escapes,)."""
    ends = np.cumsum(skipped // escape + 1) - 1
    digits = np.full(int(ends[-1]) + 1 if len(ends) else 0, escape, np.uint16)
    digits[ends] = skipped % escape
    return digits


def join_digits(digits: Codes, escape: int, count: int) -> Places:
    """Return ``count`` gaps; the inverse of :func:`make_digits`.

    Raises:
        FormatError: They are more or fewer, or an escape comes last.
    """
    ends = digits != escape
    if np.count_nonzero(ends) != count or not ends[-1:].all():
        raise FormatError(f"want {count:,} gaps, each with an end")
    skipped: Places = np.diff(np.cumsum(digits, dtype=np.int64)[ends], prepend=0)
    return skipped


def find_places(skipped: Places, entries: int) -> Places:
    """Return the places after gaps, rising.

    Raises:
        FormatError: They are not below ``entries``.
    """
    places: Places = np.cumsum(skipped + 1) - 1
    if len(places) and places[-1] >= entries:
        raise FormatError(f"want places below {entries:,}, got {places[-1]:,}")
    return places
