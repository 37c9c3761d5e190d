"""Classes of rows and of columns such that entries of a class are about equally often kept."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_CLASSES = 16

Classes = NDArray[np.uint16]

_PAIRS = ((1, 1), (1, 4), (4, 1), (2, 2), (4, 4), (1, 16), (16, 1), (8, 8), (16, 16))
_TURNS = 8
_BLOCK_BITS = 12  # What the counts of a block take, about.

Sums = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class View:
    """A tensor as a matrix.

    Attributes:
        rows: At least 1.
        columns: At least 1.
        unit: Neighbouring columns that share a class.
    """

    rows: int
    columns: int
    unit: int

    @property
    def units(self) -> int:
        """Runs of columns that share a class."""
        return self.columns // self.unit

    def blocks(self, rows: Classes, units: Classes) -> Iterator[tuple[int, Places, Places]]:
        """Yield class of rows, numbers of rows and of columns of each block."""
        columns = np.repeat(units, self.unit)
        held = [np.flatnonzero(columns == each) for each in range(int(columns.max()) + 1)]
        for each in range(int(rows.max()) + 1):
            members = np.flatnonzero(rows == each)
            for other in held:
                yield each, members, other


def list_views(shape: tuple[int, ...]) -> list[View]:
    """Return what classes may be of: filters and columns, filters and channels, kernels."""
    rows, columns = (shape[0], prod(shape[1:])) if shape else (1, 1)
    views = [View(rows=rows, columns=columns, unit=1)]
    if len(shape) > 2:
        kernel = prod(shape[2:])
        views.append(View(rows=rows, columns=columns, unit=kernel))
        views.append(View(rows=rows * shape[1], columns=kernel, unit=1))
    return views


def list_classes(mask: NDArray[np.bool], view: View) -> Iterator[tuple[Classes, Classes, float]]:
    """Yield classes of rows, of units of columns, and about how many bits they lead to."""
    wide = mask.reshape(view.rows, view.units, view.unit)
    kept: Sums = wide.sum(axis=2, dtype=np.uint16).astype(np.float32)
    for row_classes, unit_classes in _PAIRS:
        if row_classes > view.rows or unit_classes > view.units:
            continue
        rows = _split(kept.sum(axis=1), row_classes)
        units = _split(kept.sum(axis=0), unit_classes)
        for _ in range(_TURNS if row_classes * unit_classes > 1 else 0):
            before = rows, units
            if row_classes > 1:
                rows = _assign(*_gather(kept, units, view.unit), rows)
            if unit_classes > 1:
                units = _assign(*_gather(kept.T, rows, view.unit), units)
            if np.array_equal(before[0], rows) and np.array_equal(before[1], units):
                break
        sums, sizes = _gather(kept, units, view.unit)
        yield rows, units, _measure(sums, sizes, rows) + _entropy(rows) + _entropy(units)


def _split(density: Sums, classes: int) -> Classes:
    """Return classes of about equal size by rising density, and of the empty ones."""
    ranks = np.empty(len(density), np.int64)
    ranks[np.argsort(density, kind="stable")] = np.arange(len(density))
    empty = int((density == 0).sum())
    if not 0 < empty < len(density) or classes == 1:
        return _renumber(ranks * classes // len(density))
    split = (ranks - empty) * (classes - 1) // (len(density) - empty) + 1
    return _renumber(np.where(ranks < empty, 0, split))


def _gather(kept: Sums, classes: Classes, unit: int) -> tuple[Sums, Sums]:
    """Return kept entries of each line in each class, (lines, classes), and sizes of these."""
    members = np.eye(int(classes.max()) + 1, dtype=np.float32)[classes]
    return (kept @ members).astype(np.float64), members.sum(axis=0).astype(np.float64) * unit


def _assign(sums: Sums, sizes: Sums, classes: Classes) -> Classes:
    """Return for each line the class whose shares describe it in the fewest bits."""
    members = np.eye(int(classes.max()) + 1)[classes]
    lines = members.sum(axis=0)
    shares = (members.T @ sums + 1e-3) / (lines[:, None] * sizes + 2e-3)
    costs = -sums @ np.log2(shares).T - (sizes - sums) @ np.log2(1 - shares).T
    return _renumber((costs - np.log2(lines / len(classes))).argmin(axis=1))


def _renumber(classes: NDArray[np.integer[Any]]) -> Classes:
    """Return classes without those that have no members."""
    return np.unique(classes, return_inverse=True)[1].astype(np.uint16)


def _measure(sums: Sums, sizes: Sums, rows: Classes) -> float:
    """Return about how many bits the places take, given the classes of rows."""
    members = np.eye(int(rows.max()) + 1)[rows]
    totals = members.sum(axis=0)[:, None] * sizes
    shares = (members.T @ sums) / totals
    inner = shares[(shares > 0) & (shares < 1)]
    of = totals[(shares > 0) & (shares < 1)]
    bits = -inner * np.log2(inner) - (1 - inner) * np.log2(1 - inner)
    return float((of * bits).sum()) + _BLOCK_BITS * len(inner) + 2 * shares.size


def _entropy(classes: Classes) -> float:
    """Return about how many bits the classes themselves take."""
    histogram = np.bincount(classes)
    return float(-(histogram * np.log2(histogram / len(classes))).sum()) + 8 * len(histogram)
