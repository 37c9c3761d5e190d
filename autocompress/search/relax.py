"""Densities near a budget without rounding, for many points at once: cheap enough to compare."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from autocompress.masks.cost import FLOAT_BYTES, INDEX_BYTES, NORM_AFFINE, NORM_STATISTICS
from autocompress.search.counts import FULL, Bounds

Floats = NDArray[np.float64]

WIDEST = 12.0  # Offsets searched to both sides, in logits.
HALVINGS = 14  # Down to a thousandth of a logit.


def relax_densities(
    bounds: Bounds, filters: Floats, columns: Floats, limits: Mapping[str, float]
) -> Floats:
    """Return real densities that use up ``limits`` as nearly as one shift of all logits can.

    Args:
        bounds: What may be kept.
        filters: Logits, shape (points, groups).
        columns: Logits, shape (points, layers).
        limits: Most units of each resource.

    Returns:
        Shape (points, groups + layers), each above 0 and at most 1.
    """
    low, high = np.full((len(filters), 1), -WIDEST), np.full((len(filters), 1), WIDEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        fits = _fits(bounds, *_shift(bounds, filters, columns, middle), limits)[:, None]
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    keeps, shares = _shift(bounds, filters, columns, low)
    return np.concatenate([keeps / bounds.dense_sizes, shares], axis=1)


def _shift(
    bounds: Bounds, filters: Floats, columns: Floats, offset: Floats
) -> tuple[Floats, Floats]:
    """Return kept units, shape (points, groups), and column densities, shape (points, layers)."""
    wanted = _expit(filters + offset) * bounds.dense_sizes
    keeps = np.clip(wanted, bounds.keeps_low, bounds.keeps_high)
    highest = np.minimum(bounds.share_high, bounds.survivors)
    shares = np.where(columns >= FULL, 1.0, _expit(columns + offset))
    return keeps, np.clip(shares, np.minimum(bounds.share_low, highest), highest)


def _fits(
    bounds: Bounds, keeps: Floats, shares: Floats, limits: Mapping[str, float]
) -> NDArray[np.bool_]:
    model = bounds.model
    kept = np.concatenate([keeps, np.ones((len(keeps), 1))], axis=1)
    rows = kept @ model.rows.T
    inputs = np.where(model.depthwise, 1.0, kept @ model.inputs.T / model.conv_groups)
    taken = inputs * model.area * shares
    weights = rows * taken
    biases = rows[:, model.has_bias].sum(axis=1)
    params = weights.sum(axis=1) + biases + NORM_AFFINE * (kept @ model.affine)
    indices = np.where(shares < 1, taken, 0.0).sum(axis=1)
    statistics = NORM_STATISTICS * (kept @ model.norms)
    costs = {
        "weights": weights.sum(axis=1),
        "params": params,
        "macs": (weights * model.positions).sum(axis=1),
        "bytes": FLOAT_BYTES * (params + statistics) + INDEX_BYTES * indices,
    }
    within = [costs[name] <= limit for name, limit in limits.items()]
    return np.logical_and.reduce(within)


def _expit(logits: Floats) -> Floats:
    shares: Floats = 1.0 / (1.0 + np.exp(-np.clip(logits, -500.0, 500.0)))
    return shares
