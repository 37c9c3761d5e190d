"""Pareto fronts of many points, with NumPy only."""

import numpy as np
from numpy.typing import NDArray


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


def _sweep_sorted(rows: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the positions of the front among sorted rows of one or two objectives."""
    if len(rows) == 0:
        return np.zeros(0, dtype=np.intp)
    last = rows[:, -1]
    lowest_before = np.minimum.accumulate(last)[:-1]
    return np.flatnonzero(np.append(True, last[1:] < lowest_before))


def _thin_sorted(rows: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the positions of the front among sorted rows of any number of objectives."""
    left = np.arange(len(rows))
    found: list[int] = []
    while len(left):
        found.append(int(left[0]))
        # The first row left is on the front; all it dominates or repeats goes at once.
        left = left[(rows[left] < rows[left[0]]).any(axis=1)]
    return np.array(found, dtype=np.intp)
