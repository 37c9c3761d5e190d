"""How much of the budget a candidate uses, where resources are objectives too.

The fill is the part of every limit that a candidate is made for, on a logarithmic scale.
"""

import math
from collections.abc import Mapping

import numpy as np

from autocompress.search.bounds import Bounds, Counts
from autocompress.search.counts import count_cost, count_fewest
from autocompress.search.guide import Ground

FILL_LOW = 0.25  # A front is searched over a factor of four; for more, a lower budget.
FILL_STEP = 0.3  # Standard deviation of a move, in e-folds: a fifth of the whole range.


def draw_fill(rng: np.random.Generator) -> float:
    """Return a fill drawn from ``FILL_LOW`` to 1, log-uniform."""
    return float(FILL_LOW ** rng.random())


def move_fill(fill: float, rng: np.random.Generator) -> float:
    """Return a fill near ``fill``, mirrored at ``FILL_LOW`` and 1."""
    moved = abs(math.log(fill) + FILL_STEP * rng.normal())
    width = -math.log(FILL_LOW)
    folded = moved % (2 * width)
    return math.exp(-min(folded, 2 * width - folded))


def measure_fill(ground: Ground, counts: Counts) -> float:
    """Return the part of the limit nearest to exhaustion that ``counts`` use.

    Returns:
        At least ``FILL_LOW``, at most 1.
    """
    cost = count_cost(ground.bounds, counts).list_known()
    used = max(cost[name] / limit for name, limit in ground.limits.items())
    return min(1.0, max(FILL_LOW, used))


def scale_limits(ground: Ground, fill: float) -> dict[str, float]:
    """Return the round's limits times ``fill``, never below what the space can reach."""
    if fill >= 1:
        return dict(ground.limits)
    least = count_least(ground.bounds)
    return {name: max(fill * limit, least[name]) for name, limit in ground.limits.items()}


def count_least(bounds: Bounds) -> Mapping[str, float]:
    """Return what the fewest counts cost, by resource."""
    return count_cost(bounds, count_fewest(bounds)).list_known()
