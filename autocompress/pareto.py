"""Pareto fronts of many points, with NumPy only."""

import numpy as np
from numpy.typing import NDArray

BLOCK = 512  # Rows compared at once: their sets of bits stay in the cache.


def find_front(costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which rows of ``costs`` are on the Pareto front, every column minimised.

    A row is on the front when no other row is at least as small everywhere and smaller
    somewhere. Of equal rows only the first is on it, so a front is a list of different choices.
    A row with a NaN never is on the front and dominates nothing; infinities are ordinary values.

    Args:
        costs: Shape (points, objectives), one objective or more.

    Returns:
        Shape (points,), bool.

    Raises:
        ValueError: ``costs`` is not a matrix with one column or more.
    """
    costs = np.asarray(costs, dtype=np.float64)
    if costs.ndim != 2 or costs.shape[1] == 0:
        raise ValueError(f"costs: want shape (points, objectives), got {costs.shape}")
    front = np.zeros(len(costs), dtype=np.bool_)
    valid = np.flatnonzero(~np.isnan(costs).any(axis=1))
    rows = costs[valid]
    # Lexicographic and stable: a row can only be dominated, or repeated, by an earlier one.
    order = np.lexsort(rows.T[::-1])
    sweep = _sweep_sorted if costs.shape[1] <= 2 else _thin_sorted
    front[valid[order[sweep(rows[order])]]] = True
    return front


def measure_hypervolume(costs: NDArray[np.float64], reference: tuple[float, float]) -> float:
    """Return the area that a front of two objectives dominates, up to a point of reference.

    Source: Zitzler and Thiele, 1998, size of the space covered.

    Args:
        costs: Shape (points, 2), both minimised; rows with a NaN, and those not better than
            ``reference`` in both, add nothing.
        reference: The worst of both.
    """
    costs = np.asarray(costs, dtype=np.float64).reshape(-1, 2)
    rows = costs[(costs < reference).all(axis=1)]  # False for a NaN.
    rows = rows[find_front(rows)]
    rows = rows[rows[:, 0].argsort()]
    ends = np.append(rows[1:, 0], reference[0])
    return float(((ends - rows[:, 0]) * (reference[1] - rows[:, 1])).sum())


def _sweep_sorted(rows: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the positions of the front among sorted rows of one or two objectives."""
    if len(rows) == 0:
        return np.zeros(0, dtype=np.intp)
    last = rows[:, -1]
    lowest_before = np.minimum.accumulate(last)[:-1]
    return np.flatnonzero(np.append(True, last[1:] < lowest_before))


def _thin_sorted(rows: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the positions of the front among sorted rows of two objectives or more.

    One block of rows after the other: what is left of a block once its own rows are compared
    is on the front, and all that it dominates or repeats in later blocks goes at once.
    """
    left = np.arange(len(rows))
    found: list[NDArray[np.intp]] = []
    while len(left):
        block, left = left[:BLOCK], left[BLOCK:]
        sets = [_Below(rows[block, column]) for column in range(1, rows.shape[1])]
        # Only earlier rows can dominate: the first objective need not be compared.
        earlier = _pack_prefixes(np.arange(len(block)))[:-1]
        front = block[~(earlier & _intersect(sets, rows[block])).any(axis=1)]
        found.append(front)
        left = left[~_intersect(sets, rows[left]).any(axis=1)]
    return np.concatenate([np.zeros(0, dtype=np.intp), *found])


class _Below:
    """Which values of a block are at most a given one, as sets of 64 bits a word."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        order = values.argsort(kind="stable")
        self._sorted = values[order]
        ranks = np.empty(len(values), dtype=np.intp)
        ranks[order] = np.arange(len(values))
        self._prefixes = _pack_prefixes(ranks)

    def find(self, values: NDArray[np.float64]) -> NDArray[np.uint64]:
        """Return one set for each of ``values``."""
        return self._prefixes[self._sorted.searchsorted(values, side="right")]


def _intersect(sets: list[_Below], rows: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Return for each row the set of those at most as large in all objectives but the first."""
    common = sets[0].find(rows[:, 1])
    for place, one in enumerate(sets[1:], start=2):
        common &= one.find(rows[:, place])
    return common


def _pack_prefixes(ranks: NDArray[np.intp]) -> NDArray[np.uint64]:
    """Return for n = 0, 1, ... the set of places whose rank is below n."""
    bits = np.zeros((len(ranks) + 1, -(-len(ranks) // 64) * 64), dtype=np.bool_)
    bits[:, : len(ranks)] = ranks < np.arange(len(ranks) + 1)[:, None]
    return np.packbits(bits, axis=1).view(np.uint64)
