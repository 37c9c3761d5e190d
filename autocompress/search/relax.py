"""Densities near a budget without rounding, for many points at once: cheap enough to compare."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autocompress.masks.coded import count_weight_bits, log2_choose
from autocompress.masks.cost import FLOAT_BYTES, INDEX_BYTES, NORM_AFFINE, NORM_STATISTICS
from autocompress.search.bounds import FULL, Bounds, Floats, Ints, Logits

WIDEST = 12.0  # Offsets searched to both sides, in logits.
HALVINGS = 14  # Down to a thousandth of a logit.


@dataclass(frozen=True, eq=False)
class Relaxed:
    """Real densities of many points.

    Attributes:
        keeps: Kept units, shape (points, groups).
        shares: Column densities, shape (points, layers).
        densities: Weight densities, shape (points, layers).
    """

    keeps: Floats
    shares: Floats
    densities: Floats


def relax_densities(
    bounds: Bounds, drafts: Sequence[Logits], limits: Mapping[str, float]
) -> Floats:
    """Return real densities that use up ``limits`` as nearly as one shift of all logits can.

    Args:
        bounds: What may be kept.
        drafts: Points.
        limits: Most units of each resource.

    Returns:
        Shape (points, groups + layers + layers that have a choice of weights), in the order
        filters, columns, weights; each above 0 and at most 1.
    """
    filters = np.array([one.filters for one in drafts])
    columns = np.array([one.columns for one in drafts])
    weights = np.array([one.weights for one in drafts])
    bits = np.array([bounds.fine.find_bits(one.places) for one in drafts])
    low, high = np.full((len(filters), 1), -WIDEST), np.full((len(filters), 1), WIDEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        tried = _shift(bounds, (filters, columns, weights), middle)
        fits = _fits(bounds, tried, bits, limits)[:, None]
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    found = _shift(bounds, (filters, columns, weights), low)
    densities = found.densities[:, bounds.fine.free_weights]
    return np.concatenate([found.keeps / bounds.dense_sizes, found.shares, densities], axis=1)


def _shift(bounds: Bounds, logits: tuple[Floats, Floats, Floats], offset: Floats) -> Relaxed:
    """Return the densities of shifted logits of filters, columns and weights."""
    filters, columns, weights = logits
    fine = bounds.fine
    wanted = _expit(filters + offset) * bounds.dense_sizes
    keeps = np.clip(wanted, bounds.keeps_low, bounds.keeps_high)
    highest = np.minimum(bounds.share_high, bounds.survivors)
    shares = np.where(columns >= FULL, 1.0, _expit(columns + offset))
    shares = np.clip(shares, np.minimum(bounds.share_low, highest), highest)
    densities = np.ones_like(shares)
    if fine.any_sparse:
        most = np.minimum(fine.high, fine.survivors)
        densities = np.where(weights >= FULL, 1.0, _expit(weights + offset))
        densities = np.clip(densities, np.minimum(fine.low, most), most)
    return Relaxed(keeps, shares, densities)


def _fits(
    bounds: Bounds, relaxed: Relaxed, bits: Ints, limits: Mapping[str, float]
) -> NDArray[np.bool_]:
    model, keeps, shares = bounds.model, relaxed.keeps, relaxed.shares
    kept = np.concatenate([keeps, np.ones((len(keeps), 1))], axis=1)
    rows = kept @ model.rows.T
    channels = kept @ model.inputs.T
    inputs = np.where(model.depthwise, 1.0, channels / model.conv_groups)
    opened = inputs * model.area
    taken = opened * shares
    block = rows * taken
    weights = block * relaxed.densities
    others = rows[:, model.has_bias].sum(axis=1) + NORM_AFFINE * (kept @ model.affine)
    indices = np.where(shares < 1, taken, 0.0).sum(axis=1)
    statistics = NORM_STATISTICS * (kept @ model.norms)
    costs = {
        "weights": weights.sum(axis=1),
        "params": weights.sum(axis=1) + others,
        "macs": (block * model.positions).sum(axis=1),
        "bytes": FLOAT_BYTES * (block.sum(axis=1) + others + statistics) + INDEX_BYTES * indices,
    }
    if "coded_bytes" in limits:
        coded = count_weight_bits(block, weights, bits) + log2_choose(opened, taken)
        costs["coded_bytes"] = FLOAT_BYTES * (others + statistics) + coded.sum(axis=1) / 8
    if model.times is not None and "latency" in limits:
        costs["latency"] = model.times.predict(channels, rows, taken)
    within = [costs[name] <= limit for name, limit in limits.items()]
    return np.logical_and.reduce(within)


def _expit(logits: Floats) -> Floats:
    shares: Floats = 1.0 / (1.0 + np.exp(-np.clip(logits, -500.0, 500.0)))
    return shares
