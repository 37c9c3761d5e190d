"""Codebooks for numbers on a line: the centres of cells, and what they cost in error and bits.

The cells of every codebook here are intervals, so that numbers are sorted once, and a cell is a
range of them: its mean comes from sums from the start on. All is float64 and knows no randomness.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_TRIES = 50


@dataclass(frozen=True)
class Line:
    """Numbers by value.

    Attributes:
        values: Distinct numbers, finite, ascending; shape (n,), 1 or more.
        counts: How often each occurs; shape (n,).
    """

    values: Floats
    counts: Counts

    @classmethod
    def of(cls, numbers: Floats) -> Self:
        """Return the line of some numbers in any order."""
        return cls(*np.unique(numbers, return_counts=True))

    @cached_property
    def total(self) -> int:
        """How many numbers there are."""
        return int(self.counts.sum())

    @cached_property
    def variance(self) -> float:
        """Mean squared distance from the mean."""
        mean = np.average(self.values, weights=self.counts)
        return float(np.average((self.values - mean) ** 2, weights=self.counts))

    @cached_property
    def counted(self) -> Counts:
        """Numbers before each distinct one, then all of them; shape (n + 1,)."""
        return np.concatenate([[0], np.cumsum(self.counts)])

    @cached_property
    def summed(self) -> Floats:
        """Sum of the numbers before each distinct one, then of all; shape (n + 1,)."""
        return np.concatenate([[0.0], np.cumsum(self.values * self.counts)])


@dataclass(frozen=True)
class Cells:
    """Intervals of a line, none of them empty, each with the number that stands for it.

    Attributes:
        centres: Ascending; shape (k,).
        starts: Number of the first distinct value of each cell, then n; shape (k + 1,).
    """

    centres: Floats
    starts: Counts

    def weigh(self, line: Line) -> Counts:
        """Return how many numbers each cell holds; shape (k,)."""
        return np.diff(line.counted[self.starts])

    def assign(self) -> Counts:
        """Return the cell of each distinct value; shape (n,)."""
        return np.repeat(np.arange(len(self.centres)), np.diff(self.starts))


def measure_error(line: Line, cells: Cells) -> float:
    """Return the mean squared distance of the numbers from their centres."""
    gaps = line.values - cells.centres[cells.assign()]
    return float((gaps * gaps * line.counts).sum()) / line.total


def measure_rate(line: Line, cells: Cells) -> float:
    """Return the entropy of the cells in bits per number."""
    shares = cells.weigh(line) / line.total
    return abs(float((shares * np.log2(shares)).sum()))


def measure_cost(line: Line, cells: Cells, weight: float) -> float:
    """Return the error plus ``weight`` times the entropy in nats; see :func:`sweep`."""
    return measure_error(line, cells) + weight * measure_rate(line, cells) * float(np.log(2))


def cut(line: Line, bounds: Floats) -> Cells:
    """Return the cells between ascending bounds with their means; empty ones are left out.

    Args:
        line: The numbers.
        bounds: Between two cells each; a number on a bound belongs to the lower one.
    """
    inner = np.searchsorted(line.values, bounds, side="right")
    return _join(line, np.unique(np.concatenate([[0], inner, [len(line.values)]])))


def cut_evenly(line: Line, step: float) -> Cells:
    """Return the cells of the multiples of a step that occur, with their means."""
    changes = np.flatnonzero(np.diff(np.rint(line.values / step))) + 1
    return _join(line, np.concatenate([[0], changes, [len(line.values)]]))


def _join(line: Line, starts: Counts) -> Cells:
    """Return the cells that start at these distinct values, with their means."""
    sums, sizes = np.diff(line.summed[starts]), np.diff(line.counted[starts])
    # A mean of differences of long sums may leave its cell by a rounding.
    return Cells(
        np.clip(sums / sizes, line.values[starts[:-1]], line.values[starts[1:] - 1]), starts
    )


def sweep(line: Line, cells: Cells, weight: float = 0.0) -> Cells:
    """Give each number to the cell of least cost, then each cell its mean.

    The cost is ``(w - c)^2 - weight ln p`` with p the cell's share of the numbers (entropy-
    constrained quantisation: Chou, Lookabaugh and Gray, 1989); Lloyd's sweep with weight 0. The
    sum of it over all numbers never rises. Less w^2 it is a straight line in w for each cell, so
    that the cells are those of the lower envelope of the lines.
    """
    centres = cells.centres
    heights = centres**2 - weight * np.log(cells.weigh(line) / line.total)
    while True:
        bounds = np.diff(heights) / (2 * np.diff(centres))
        if len(bounds) < 2:
            break
        # A line that meets its right neighbour before its left one is nowhere the lowest.
        inner = bounds[:-1] < bounds[1:]
        if inner.all():
            break
        kept = np.concatenate([[True], inner, [True]])
        centres, heights = centres[kept], heights[kept]
    return cut(line, bounds)


def settle(line: Line, cells: Cells, weight: float, sweeps: int) -> Cells:
    """Sweep until no number changes its cell, or so many times."""
    for _ in range(sweeps):
        after = sweep(line, cells, weight)
        if np.array_equal(after.starts, cells.starts) and np.array_equal(
            after.centres, cells.centres
        ):
            return after
        cells = after
    return cells


def list_starts(line: Line, levels: int) -> list[Cells]:
    """Return starts for sweeps: cells of as many numbers, of equal width, and in between.

    Where cells are small, the density of the best centres is the cube root of that of the
    numbers (Panter and Dite, 1951): that is in between.
    """
    low, high = float(line.values[0]), float(line.values[-1])
    shares = np.arange(1, levels) / levels
    middles = (line.counted[:-1] + line.counted[1:]) / 2 / line.total
    even = low + (high - low) * shares
    edges = np.linspace(low, high, 16 * levels + 1)
    dense = np.diff(line.counted[np.searchsorted(line.values, edges[:-1])], append=line.total)
    grown = np.concatenate([[0.0], np.cumsum(np.cbrt(dense))])
    between = np.interp(shares, grown / grown[-1], edges)
    bounds = (np.interp(shares, middles, line.values), even, between)
    return [fill(line, cut(line, one), levels) for one in bounds]


def fill(line: Line, cells: Cells, levels: int) -> Cells:
    """Split the cells of most error at their means until there are ``levels``, or none is left.

    Where one value occurs very often, most quantiles fall on it and their cells are empty.
    """
    while len(cells.centres) < levels:
        own = cells.assign()
        errors = np.bincount(own, (line.values - cells.centres[own]) ** 2 * line.counts)
        worst = np.argsort(-errors, kind="stable")[: levels - len(cells.centres)]
        worst = worst[np.diff(cells.starts)[worst] > 1]
        if not len(worst):
            break
        highest = line.values[cells.starts[1:] - 1]
        cells = cut(line, np.sort(np.concatenate([highest[:-1], cells.centres[worst]])))
    return cells


def find_means(line: Line, levels: int, sweeps: int) -> Cells:
    """Return the best of a few k-means; one cell for each value where there are no more."""
    if len(line.values) <= levels:
        return Cells(line.values, np.arange(len(line.values) + 1))
    found = [settle(line, start, 0.0, sweeps) for start in list_starts(line, levels)]
    return min(found, key=lambda cells: measure_error(line, cells))


def find_constrained(line: Line, levels: int, weight: float, sweeps: int) -> Cells:
    """Return cells of little error and entropy, by the cost of :func:`sweep`; 1 or more."""
    means = find_means(line, levels, sweeps)
    if not weight:
        return means
    found = _settle_all(line, [means, *_cut_finely(line, levels, weight)], weight, sweeps)
    return min(found, key=lambda cells: measure_cost(line, cells, weight))


def find_for_rate(line: Line, levels: int, rate: float, sweeps: int) -> Cells:
    """Return the cells of least error found whose entropy is at most ``rate`` bits per number.

    Not worse than the means of equal steps of that entropy: those are looked at, too.
    """
    means = find_means(line, levels, sweeps)
    bearable = rate * (1 + 1e-9)  # The same cells, summed elsewhere, are as good.
    if measure_rate(line, means) <= bearable:
        return means
    even = _find_even(line, levels, bearable)
    found = [even]
    low, high = 0.0, 0.0
    for _ in range(_TRIES):
        weight = (low + high) / 2 if high else max(4 * low, 1e-3 * line.variance)
        starts = [means, even, *_cut_finely(line, levels, weight)]
        tried = _settle_all(line, starts, weight, sweeps)
        found += [one for one in tried if measure_rate(line, one) <= bearable]
        best = min(tried, key=lambda cells: measure_cost(line, cells, weight))
        if measure_rate(line, best) <= bearable:
            high = weight
        else:
            low = weight
        if high > 0 and high - low < 1e-5 * high:
            break
    return min(found, key=lambda cells: measure_error(line, cells))


def _find_even(line: Line, levels: int, rate: float) -> Cells:
    """Return the cells of the least step found of so many levels and so much entropy."""
    step = find_step(line, levels) if len(line.values) > levels else 0.0
    if step and measure_rate(line, cut_evenly(line, step)) <= rate:
        return cut_evenly(line, step)
    low, high = step, 4 * float(np.abs(line.values).max())  # All round to 0.
    for _ in range(_TRIES):
        middle = (low + high) / 2
        fine = fits(line, middle, levels) and (
            measure_rate(line, cut_evenly(line, middle)) <= rate
        )
        low, high = (low, middle) if fine else (middle, high)
    return cut_evenly(line, high)


def _cut_finely(line: Line, levels: int, weight: float) -> list[Cells]:
    """Return equal steps that suit a weight, where no more than ``levels`` of them occur.

    Equal steps are nearly the best cells for a given entropy (Gish and Pierce, 1968). Where cells
    are small a step d costs d^2 / 12 - weight ln d, which is least for d^2 = 6 weight.
    """
    steps = [part * math.sqrt(6 * weight) for part in (1.0, 0.7)]
    if not any(fits(line, step, levels) for step in steps):
        steps = [find_step(line, levels)]
    return [cut_evenly(line, step) for step in steps if fits(line, step, levels)]


def _settle_all(line: Line, starts: list[Cells], weight: float, sweeps: int) -> list[Cells]:
    """Return where the starts lead."""
    return [settle(line, start, weight, sweeps) for start in starts]


def fits(line: Line, step: float, levels: int) -> bool:
    """Return whether no more than ``levels`` multiples of a step occur."""
    return int(np.count_nonzero(np.diff(np.rint(line.values / step)))) < levels


def find_step(line: Line, levels: int) -> float:
    """Return a step of uniform levels, ``step * round(w / step)``, of which at most k occur.

    A step a little smaller makes more of them. How many occur does not only fall as the step
    grows, so there may be other such steps.

    Args:
        line: More than ``levels`` distinct values.
        levels: k, 1 or more.
    """
    size = float(np.abs(line.values).max())
    high = float(2.0 ** (np.ceil(np.log2(size)) + 1))  # All round to 0.
    low = high / 2
    while fits(
        line, low, levels
    ):  # Ends: by a power of two the distinct values are divided exactly.
        high, low = low, low / 2
    while True:
        middle = (low + high) / 2
        if not low < middle < high or high - low < 1e-9 * high:
            return high
        low, high = (low, middle) if fits(line, middle, levels) else (middle, high)
