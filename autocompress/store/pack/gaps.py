"""The places of few non-zeros as gaps between them, and the codes of these.

The gaps' digits have frequencies of their own, those of places that are all equally likely, or
ones that few runs of digits share, whichever takes fewest bytes.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import FormatError
from autocompress.store.pack.bits import BitReader, BitWriter
from autocompress.store.pack.codec import Codes, Indices
from autocompress.store.pack.even import (
    Places,
    find_places,
    join_digits,
    make_digits,
    read_even,
    write_even,
)
from autocompress.store.pack.lanes import SymbolReader, SymbolWriter
from autocompress.store.pack.tables import Steps, Table, read_table, write_table

_EVEN, _LISTED, _STEPPED = range(3)
_LISTED_WIDTHS = (3, 5, 7, 9)
_STEPPED_WIDTHS = (6, 8, 10, 12)
_COUNT_ORDER = 8


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """One way to write gaps: the head of the stream, and the symbols."""

    head: BitWriter
    writer: SymbolWriter

    @property
    def length(self) -> float:
        return self.head.count + self.writer.bits


class Gaps:
    """Gaps in one order of the entries, then the codes of the non-zeros in that order."""

    name = "gaps"

    def encode(self, indices: Indices) -> bytes | None:
        """Return the codes as bytes; None where more than half are not 0, or none is."""
        kept, entries = int(np.count_nonzero(indices.codes)), len(indices.codes)
        if kept == 0 or 2 * kept > entries:
            return None
        found = []
        for turned in (False, True) if min(indices.matrix.shape) > 1 else (False,):
            codes = indices.matrix.T.reshape(-1) if turned else indices.codes
            places = np.flatnonzero(codes)
            plans = _list_plans(places, entries, turned=turned)
            values = codes[places] - np.uint16(1)
            found += [(plan.length, plan, values) for plan in plans]
        _, plan, values = min(found, key=lambda one: one[0])
        histogram = np.bincount(values, minlength=indices.levels - 1)
        plan.writer.run(values, write_table(histogram, plan.head))
        return plan.head.finish() + plan.writer.finish()

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
        gaps = _read_table(bits)
        table = read_table(bits, levels - 1)
        reader = SymbolReader(bits.rest())
        if gaps is None:
            places = read_even(reader, kept, escapes, entries)
        else:
            escape = len(gaps.frequencies) - 1
            digits = reader.run(kept + escapes, gaps)
            places = find_places(join_digits(digits, escape, kept), entries)
        values = reader.run(kept, table)
        reader.end()
        if turned:
            rows = shape[0] if shape else 1
            places = places % rows * (entries // rows) + places // rows
        codes = np.zeros(entries, np.uint16)
        codes[places] = values + np.uint16(1)
        return codes


def _list_plans(places: Places, entries: int, *, turned: bool) -> list[_Plan]:
    def begin(escapes: int) -> BitWriter:
        head = BitWriter()
        head.plain(int(turned), 1)
        head.golomb(len(places), _COUNT_ORDER)
        head.golomb(escapes)
        return head

    writer = SymbolWriter()
    head = begin(write_even(writer, places, entries))
    head.plain(_EVEN, 2)
    plans = [_Plan(head=head, writer=writer)]
    skipped = np.diff(places, prepend=-1) - 1
    for kind, widths in ((_LISTED, _LISTED_WIDTHS), (_STEPPED, _STEPPED_WIDTHS)):
        for width in widths:
            digits = make_digits(skipped, 1 << width)
            head, writer = begin(len(digits) - len(places)), SymbolWriter()
            head.plain(kind, 2)
            head.plain(width, 4)
            histogram: NDArray[np.integer[Any]] = np.bincount(digits, minlength=(1 << width) + 1)
            steps = _make_steps(width) if kind == _STEPPED else None
            writer.run(digits, write_table(histogram, head, steps))
            plans.append(_Plan(head=head, writer=writer))
    return plans


def _read_table(bits: BitReader) -> Table | None:
    """Return the table of the gaps; None where all places are equally likely."""
    kind = bits.plain(2)
    if kind == _EVEN:
        return None
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
