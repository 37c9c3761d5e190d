"""The places of few non-zeros as gaps between them, and the codes of these.

A gap is written in digits: the highest one, the escape, skips that many entries and stores none;
any other skips that many and stores the next. Work goes with the non-zeros, not the entries.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import FormatError
from autocompress.store.pack.bits import BitReader, BitWriter
from autocompress.store.pack.codec import Codes, Indices
from autocompress.store.pack.lanes import SymbolReader, SymbolWriter
from autocompress.store.pack.tables import Steps, Table, read_table, write_table

Places = NDArray[np.int64]

_EVEN, _LISTED, _STEPPED = range(3)
_LISTED_WIDTHS = (3, 5, 7, 9)
_STEPPED_WIDTHS = (6, 8, 10, 12)
_EVEN_BITS = 15
_EVEN_MOST = 1023
_COUNT_ORDER = 8


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """One way to write gaps: the head of the stream, the table, the digits, bits in all."""

    head: BitWriter
    table: Table
    digits: Codes
    length: float


class Gaps:
    """Gaps in one order of the entries, then the codes of the non-zeros in that order."""

    name = "gaps"

    def encode(self, indices: Indices) -> bytes | None:
        """Return the codes as bytes; None where more than half are not 0, or none is."""
        kept = int(np.count_nonzero(indices.codes))
        entries = len(indices.codes)
        if kept == 0 or 2 * kept > entries:
            return None
        plans = []
        turns = (False, True) if min(indices.matrix.shape) > 1 else (False,)
        for turned in turns:
            codes = indices.matrix.T.reshape(-1) if turned else indices.codes
            places = np.flatnonzero(codes)
            values = codes[places] - np.uint16(1)
            found = min(_list_plans(places, entries, turned=turned), key=lambda plan: plan.length)
            plans.append((found, values))
        plan, values = min(plans, key=lambda one: one[0].length)
        histogram = np.bincount(values, minlength=indices.levels - 1)
        table = write_table(histogram, plan.head)
        writer = SymbolWriter()
        writer.run(plan.digits, plan.table)
        writer.run(values, table)
        return plan.head.finish() + writer.finish()

    def decode(self, data: memoryview, shape: tuple[int, ...], levels: int) -> Codes:
        """Return the codes; shape (entries,).

        Raises:
            FormatError: The bytes do not fit.
        """
        entries = prod(shape)
        if levels < 2:
            raise FormatError(f"want 2 levels or more, got {levels}")
        bits = BitReader(data)
        turned = bits.plain(1)
        kept, escapes = bits.golomb(_COUNT_ORDER), bits.golomb()
        if not 0 < kept <= entries - escapes:
            raise FormatError(f"{kept:,} gaps and {escapes:,} escapes do not fit the tensor")
        gaps = _read_gaps(bits, entries, kept)
        table = read_table(bits, levels - 1)
        reader = SymbolReader(bits.rest())
        digits = reader.run(kept + escapes, gaps)
        places = find_places(digits, len(gaps.frequencies) - 1, entries)
        if len(places) != kept:
            raise FormatError(f"want {kept:,} gaps, got {len(places):,}")
        values = reader.run(kept, table)
        reader.end()
        if turned:
            rows = shape[0] if shape else 1
            places = places % rows * (entries // rows) + places // rows
        codes = np.zeros(entries, np.uint16)
        codes[places] = values + np.uint16(1)
        return codes


def make_even_table(entries: int, kept: int) -> Table:
    """Return the table of gaps between ``kept`` of ``entries`` places, all equally likely.

    Nothing is stored of it. Such gaps are geometric, and so what is left after an escape is too.

    Args:
        entries: 1 or more.
        kept: 1..``entries``.

    Returns:
        Of the gaps from 0 up, and of the escape.
    """
    total = 1 << _EVEN_BITS
    if kept == entries:
        return Table(bits=_EVEN_BITS, frequencies=np.array([total, 0], np.uint32))
    escape = min(4 * entries // kept + 1, _EVEN_MOST)
    left = scale = 1 << 48
    ends = [0]
    spare = total - escape - 1
    for _ in range(escape):
        left = left * (entries - kept) // entries
        ends.append(spare - spare * left // scale)
    frequencies = np.diff([*ends, spare]) + 1
    return Table(bits=_EVEN_BITS, frequencies=frequencies.astype(np.uint32))


def make_digits(places: Places, escape: int) -> Codes:
    """Return the gaps before rising ``places`` in digits; shape (places + escapes,)."""
    skipped = np.diff(places, prepend=-1) - 1
    ends = np.cumsum(skipped // escape + 1) - 1
    digits = np.full(int(ends[-1]) + 1 if len(ends) else 0, escape, np.uint16)
    digits[ends] = skipped % escape
    return digits


def find_places(digits: Codes, escape: int, entries: int) -> Places:
    """Return the places, rising; the inverse of :func:`make_digits`.

    Raises:
        FormatError: They are not below ``entries``, or an escape comes last.
    """
    ends = digits != escape
    if len(ends) and not ends[-1]:
        raise FormatError("the last gap has no end")
    places: Places = np.cumsum(digits + ends.astype(np.int64))[ends] - 1
    if len(places) and places[-1] >= entries:
        raise FormatError(f"want places below {entries:,}, got {places[-1]:,}")
    return places


def _list_plans(places: Places, entries: int, *, turned: bool) -> list[_Plan]:
    even = make_even_table(entries, len(places))
    plans = [_make_plan(places, _EVEN, even, turned=turned)]
    for kind, widths in ((_LISTED, _LISTED_WIDTHS), (_STEPPED, _STEPPED_WIDTHS)):
        plans += [_make_plan(places, kind, width, turned=turned) for width in widths]
    return plans


def _make_plan(places: Places, kind: int, choice: int | Table, *, turned: bool) -> _Plan:
    """Return the plan of one kind of table; ``choice`` is the table, or bits of its digits."""
    escape = len(choice.frequencies) - 1 if isinstance(choice, Table) else 1 << choice
    digits = make_digits(places, escape)
    histogram: NDArray[np.integer[Any]] = np.bincount(digits, minlength=escape + 1)
    head = BitWriter()
    head.plain(int(turned), 1)
    head.golomb(len(places), _COUNT_ORDER)
    head.golomb(len(digits) - len(places))
    head.plain(kind, 2)
    if isinstance(choice, Table):
        table = choice
    else:
        head.plain(choice, 4)
        table = write_table(histogram, head, _make_steps(choice) if kind == _STEPPED else None)
    return _Plan(head=head, table=table, digits=digits, length=head.count + table.cost(histogram))


def _read_gaps(bits: BitReader, entries: int, kept: int) -> Table:
    kind = bits.plain(2)
    if kind == _EVEN:
        return make_even_table(entries, kept)
    width = bits.plain(4)
    if kind == _LISTED:
        return read_table(bits, (1 << width) + 1)
    if kind != _STEPPED or width < 2:
        raise FormatError(f"no table of kind {kind} for gaps of {width} bits")
    return read_table(bits, (1 << width) + 1, _make_steps(width))


def _make_steps(width: int) -> Steps:
    """Return sizes of runs of gaps: 1 four times, 2 twice, 4 twice, 8 .. and the escape."""
    sizes = [1, 1, 1, 1]
    for octave in range(2, width):
        sizes += [1 << (octave - 1)] * 2
    return np.array([*sizes, 1])
