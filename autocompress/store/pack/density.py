"""The places of non-zeros where rows and columns are unevenly pruned, and their codes.

Rows fall into classes and so do columns. The entries where a class of rows meets a class of
columns are equally likely to be kept, each such block with its own share: their gaps are coded as
those of places that are, which needs nothing but how many are kept. Blocks without any cost next
to nothing, in bytes and in time. The classes are found by turns, as in co-clustering by
description length (Chakrabarti et al., "Fully automatic cross-associations", KDD 2004).
"""

from math import prod

import numpy as np

from autocompress.errors import FormatError
from autocompress.store.pack.bits import BitReader, BitWriter
from autocompress.store.pack.classes import MOST_CLASSES, Classes, View, list_classes, list_views
from autocompress.store.pack.codec import Codes, Indices
from autocompress.store.pack.even import Places, read_even, write_even
from autocompress.store.pack.lanes import SymbolReader, SymbolWriter
from autocompress.store.pack.tables import SINGLE, Table, read_table, write_table

_CLASS_BITS = (MOST_CLASSES - 1).bit_length()


class Density:
    """Classes of rows and columns, the places block by block, the codes of the non-zeros."""

    name = "density"

    def encode(self, indices: Indices) -> bytes | None:
        """Return the codes as bytes; None where more than half are not 0, or none is."""
        kept = int(np.count_nonzero(indices.codes))
        if kept == 0 or 2 * kept > len(indices.codes):
            return None
        choices = []
        for number, view in enumerate(list_views(indices.shape)):
            mask = (indices.codes != 0).reshape(view.rows, view.columns)
            for rows, units, length in list_classes(mask, view):
                choices.append((length, number, view, rows, units))
        _, number, view, rows, units = min(choices, key=lambda choice: choice[0])
        return _write(indices, (number, view), rows, units)

    def decode(self, data: memoryview, shape: tuple[int, ...], levels: int) -> Codes:
        """Return the codes; shape (entries,).

        Raises:
            FormatError: The bytes do not fit.
        """
        if levels < 2 or prod(shape) == 0:
            raise FormatError(f"want 2 levels or more, got {levels} of {prod(shape)} entries")
        bits = BitReader(data)
        views = list_views(shape)
        number = bits.plain(2)
        if number >= len(views):
            raise FormatError(f"view {number} does not fit the shape {shape}")
        view = views[number]
        sizes = bits.plain(_CLASS_BITS) + 1, bits.plain(_CLASS_BITS) + 1
        maps = [read_table(bits, size) for size in sizes]
        counts = _read_counts(bits, sizes[0] * sizes[1])
        per_class = np.array([kept for kept, _ in counts]).reshape(sizes).sum(axis=1)
        if not 0 < per_class.sum() <= prod(shape):
            raise FormatError(f"{per_class.sum():,} entries do not fit the tensor")
        tables = _read_values(bits, per_class, levels - 1)
        reader = SymbolReader(bits.rest())
        rows = reader.run(view.rows, maps[0])
        units = reader.run(view.units, maps[1])
        if (int(rows.max()) + 1, int(units.max()) + 1) != sizes:
            raise FormatError("a class is empty")
        places = []
        for (kept, escapes), (_, members, columns) in zip(
            counts, view.blocks(rows, units), strict=True
        ):
            if kept:
                inside = read_even(reader, kept, escapes, len(members) * len(columns))
                row, column = np.divmod(inside, len(columns))
                places.append(members[row] * view.columns + columns[column])
            elif escapes:
                raise FormatError("an empty block has no gaps")
        values = [
            reader.run(int(kept), table) for kept, table in zip(per_class, tables, strict=True)
        ]
        reader.end()
        codes = np.zeros(prod(shape), np.uint16)
        codes[np.concatenate(places)] = np.concatenate(values) + np.uint16(1)
        return codes


def _write(indices: Indices, choice: tuple[int, View], rows: Classes, units: Classes) -> bytes:
    number, view = choice
    codes = indices.codes.reshape(view.rows, view.columns)
    head, writer = BitWriter(), SymbolWriter()
    sizes = int(rows.max()) + 1, int(units.max()) + 1
    head.plain(number, 2)
    head.plain(sizes[0] - 1, _CLASS_BITS)
    head.plain(sizes[1] - 1, _CLASS_BITS)
    for classes in (rows, units):
        writer.run(classes, write_table(np.bincount(classes), head))
    counts, values = [], [np.empty(0, np.uint16)] * sizes[0]
    for row_class, members, columns in view.blocks(rows, units):
        block = codes[np.ix_(members, columns)].reshape(-1)
        places = np.flatnonzero(block)
        values[row_class] = np.concatenate([values[row_class], block[places] - np.uint16(1)])
        escapes = write_even(writer, places, len(block)) if len(places) else 0
        counts.append((len(places), escapes))
    _write_counts(head, counts)
    _write_values(head, writer, values, indices.levels - 1)
    return head.finish() + writer.finish()


def _write_counts(head: BitWriter, counts: list[tuple[int, int]]) -> None:
    """Append kept entries and escapes of each block, in the codes that suit them best."""
    for numbers in zip(*counts, strict=True):
        tries = []
        for order in range(16):
            writer = BitWriter()
            for number in numbers:
                writer.golomb(number, order)
            tries.append(writer.count)
        best = tries.index(min(tries))
        head.plain(best, 4)
        for number in numbers:
            head.golomb(number, best)


def _read_counts(bits: BitReader, blocks: int) -> list[tuple[int, int]]:
    numbers = []
    for _ in range(2):
        order = bits.plain(4)
        numbers.append([bits.golomb(order) for _ in range(blocks)])
    return list(zip(*numbers, strict=True))


def _write_values(
    head: BitWriter, writer: SymbolWriter, values: list[Codes], symbols: int
) -> None:
    """Append the codes by class of rows, with one table or one for each class that has any."""
    histograms = [np.bincount(some, minlength=symbols) for some in values]
    tries = []
    for shared in (True, False):
        trial = BitWriter()
        trial.plain(int(shared), 1)
        if shared:
            tables = [write_table(np.sum(histograms, axis=0), trial)] * len(values)
        else:
            tables = [write_table(each, trial) if each.any() else SINGLE for each in histograms]
        costs = (
            table.cost(histogram)
            for table, histogram in zip(tables, histograms, strict=True)
            if histogram.any()
        )
        tries.append((trial.count + sum(costs), trial, tables))
    _, trial, tables = min(tries, key=lambda one: one[0])
    head.extend(trial)
    for some, table in zip(values, tables, strict=True):
        writer.run(some, table)


def _read_values(bits: BitReader, kept: Places, symbols: int) -> list[Table]:
    """Return the table of each class of rows; some table where no entry is kept."""
    if bits.plain(1):
        return [read_table(bits, symbols)] * len(kept)
    return [read_table(bits, symbols) if each else SINGLE for each in kept]
