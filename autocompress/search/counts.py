"""Real counts from logits: candidates that meet every budget by construction.

A point of the search is one number per group and per layer, the logit of a density. One offset
shared by all of them is found by bisection, so that the rounded counts, after what dead
filters take along, use the budgets up and never exceed them. Bit widths are no part of the
shift: they are what the point says, lowered by whole steps only where nothing else would fit and
raised where everything is kept and there is room. The more weights or bits, the more it costs.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from autocompress.errors import BudgetError
from autocompress.graph.layers import LayerGraph
from autocompress.jobs import Candidate
from autocompress.masks.coded import FLOAT_BITS
from autocompress.masks.cost import Cost, read_bits
from autocompress.masks.latency import LatencyTable
from autocompress.search.bounds import FULL, Bounds, Counts, Floats, Ints, Logits, make_bounds
from autocompress.search.space import SpaceSettings

FAR = 200.0  # An offset that sends every density to its bound.
HALVINGS = 36  # 400 logits down to 6e-9: far below one filter of the widest layer.
FILL_PASSES = 12
BY_WEIGHTS = {"weights", "params", "coded_bytes"}  # Resources that single weights count for.


def round_counts(bounds: Bounds, logits: Logits, offset: float) -> Counts:
    """Return the counts nearest to the densities of ``logits + offset`` within the bounds."""
    ideal = _expit(logits.filters + offset) * bounds.dense_sizes
    keeps = np.rint(ideal / bounds.filter_step) * bounds.filter_step
    keeps = np.clip(keeps, bounds.keeps_low, bounds.keeps_high).astype(np.int64)
    left, fewest, most = bounds.open_columns(keeps)
    wanted = np.rint(_expit(logits.columns + offset) * left / bounds.column_step)
    columns = np.clip(wanted * bounds.column_step, fewest, most).astype(np.int64)
    weights = _round_weights(bounds, logits, offset, keeps, columns)
    return Counts(keeps, columns, weights, bounds.fine.find_bits(logits.places))


def _round_weights(
    bounds: Bounds, logits: Logits, offset: float, keeps: Ints, columns: Ints
) -> Ints:
    """Return the weights nearest to the densities of ``logits + offset`` within the bounds."""
    block, fewest, most = bounds.open_weights(keeps, columns)
    if not (bounds.fine.any_sparse and len(logits.weights)):
        return most
    wanted = np.rint(_expit(logits.weights + offset) * block)
    return np.clip(wanted, fewest, most).astype(np.int64)


def make_counts(bounds: Bounds, logits: Logits, limits: Mapping[str, float]) -> Counts:
    """Return counts near ``logits`` that use ``limits`` up and exceed none of them.

    Args:
        bounds: What may be kept.
        logits: The point; only differences between its numbers matter, apart from the bounds.
        limits: Most units of each resource, see :class:`autocompress.masks.cost.Cost`.

    Raises:
        BudgetError: Even the fewest counts exceed a limit.
    """
    low, high = -FAR, FAR
    logits = _lower_bits(bounds, logits, limits)
    chosen = round_counts(bounds, logits, low)
    _refuse_unreachable(count_cost(bounds, chosen), limits)
    top = round_counts(bounds, logits, high)
    if _fits(bounds, top, limits):
        return _raise_bits(bounds, top, limits)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        counts = round_counts(bounds, logits, middle)
        if _fits(bounds, counts, limits):
            low, chosen = middle, counts
        else:
            high = middle
    return _spend(bounds, logits, _fill(bounds, logits, high, chosen, limits), limits)


def make_candidate(bounds: Bounds, logits: Logits, limits: Mapping[str, float]) -> Candidate:
    """Return :func:`make_counts` by name of group and layer."""
    return name_counts(bounds, make_counts(bounds, logits, limits))


def name_counts(bounds: Bounds, counts: Counts) -> Candidate:
    """Return ``counts`` by name, without groups and layers that have no choice."""
    graph = bounds.graph
    keeps = zip(graph.groups, counts.keeps.tolist(), strict=True)
    columns = zip(graph.layers, counts.columns.tolist(), strict=True)
    names = [layer.name for layer in graph.layers]
    weights = zip(names, counts.weights.tolist(), bounds.fine.sparse.tolist(), strict=True)
    bits = zip(names, counts.bits.tolist(), strict=True)
    return Candidate(
        filters={group.name: keep for group, keep in keeps if group.prunable},
        columns={layer.name: count for layer, count in columns if layer.groups == 1},
        weights={name: count for name, count, sparse in weights if sparse},
        bits={name: width for name, width in bits if width < FLOAT_BITS},
    )


def read_counts(bounds: Bounds, candidate: Candidate) -> Counts:
    """Return the counts of ``candidate``; what it does not name is full."""
    graph = bounds.graph
    keeps = np.array([candidate.filters.get(group.name, group.size) for group in graph.groups])
    left = bounds.model.count_open(keeps)
    wanted = [
        candidate.columns.get(layer.name, big)
        for layer, big in zip(graph.layers, left.tolist(), strict=True)
    ]
    columns = np.minimum(np.array(wanted), left)
    block = bounds.model.count_rows(keeps) * columns
    kept = [
        candidate.weights.get(layer.name, big)
        for layer, big in zip(graph.layers, block.tolist(), strict=True)
    ]
    weights = np.minimum(np.array(kept), block)
    return Counts(keeps, columns, weights, read_bits(graph, candidate.bits))


def count_shares(bounds: Bounds, counts: Counts) -> tuple[Floats, Floats]:
    """Return the kept share of each group and of each layer's columns, in (0, 1]."""
    left = bounds.model.count_open(counts.keeps)
    return counts.keeps / bounds.dense_sizes, counts.columns / left


def read_logits(bounds: Bounds, counts: Counts) -> Logits:
    """Return a point that rounds to ``counts`` at offset 0, as far as the bounds allow.

    A full count lies one logit above the least that rounds to it, so that a layer which has all
    its columns is not made column-sparse by a small offset.
    """
    left, _, most = bounds.open_columns(counts.keeps)
    block, _, all_weights = bounds.open_weights(counts.keeps, counts.columns)
    return Logits(
        _logit(counts.keeps, bounds.dense_sizes, bounds.keeps_high),
        _logit(counts.columns, left, most),
        _logit(counts.weights, block, all_weights),
        bounds.fine.find_places(counts.bits),
    )


def count_cost(bounds: Bounds, counts: Counts) -> Cost:
    """Return what ``counts`` cost."""
    return bounds.model.count(counts.keeps, counts.columns, counts.weights, counts.bits)


def count_fewest(bounds: Bounds) -> Counts:
    """Return the fewest counts of a space, with the smallest bit widths."""
    return round_counts(bounds, make_flat(bounds, place=0), -FAR)


def make_flat(bounds: Bounds, *, place: int | None = None) -> Logits:
    """Return the point with all densities alike.

    Args:
        bounds: What may be kept.
        place: Of every layer's bit width; None takes the one in the middle, the lower of two.
    """
    graph, fine = bounds.graph, bounds.fine
    columns, weights = np.zeros((2, len(graph.layers)))
    places = fine.steps // 2 if place is None else np.minimum(place, fine.steps)
    return Logits(np.zeros(len(graph.groups)), columns, weights, places)


def measure_densities(bounds: Bounds, candidate: Candidate) -> dict[str, float]:
    """Return what ``candidate`` keeps of the dense model by name, with a prefix for its kind.

    Returns:
        ``filters/GROUP`` and ``columns/LAYER``, where weights are chosen ``weights/LAYER``, in
        (0, 1]; and where bit widths are, ``bits/LAYER`` as a whole number.
    """
    sizes = zip(bounds.graph.groups, bounds.dense_sizes.tolist(), strict=True)
    filters = {f"filters/{one.name}": size for one, size in sizes if one.prunable}
    widths = zip(bounds.graph.layers, bounds.dense_columns.tolist(), strict=True)
    columns = {f"columns/{one.name}": width for one, width in widths if one.groups == 1}
    counts = {f"filters/{name}": count for name, count in candidate.filters.items()}
    counts |= {f"columns/{name}": count for name, count in candidate.columns.items()}
    densities = {name: counts[name] / full for name, full in (filters | columns).items()}
    return densities | _measure_fine(bounds, read_counts(bounds, candidate))


def _measure_fine(bounds: Bounds, counts: Counts) -> dict[str, float]:
    names, fine = [layer.name for layer in bounds.graph.layers], bounds.fine
    shares = (counts.weights / fine.dense).tolist()
    chosen = np.flatnonzero((fine.table < FLOAT_BITS).any(axis=1)).tolist()
    weights = zip(names, shares, fine.sparse.tolist(), strict=True)
    return {f"weights/{name}": share for name, share, sparse in weights if sparse} | {
        f"bits/{names[place]}": int(counts.bits[place]) for place in chosen
    }


def feasibility_table(
    settings: SpaceSettings, graph: LayerGraph, table: LatencyTable | None = None
) -> dict[str, Cost]:
    """Return what the smallest, the centroid and the full model of a space cost.

    The centroid has the middle of every density range.
    """
    full = Candidate(filters={}, columns={})
    bounds = make_bounds(settings, graph, graph, full, table)
    low = np.maximum(bounds.keeps_low / bounds.dense_sizes, 1e-9)
    centre = Logits(
        _logit_share((low + bounds.keeps_high / bounds.dense_sizes) / 2),
        _logit_share((bounds.share_low + bounds.share_high) / 2),
        _logit_share((bounds.fine.low + bounds.fine.high) / 2),
        bounds.fine.steps // 2,
    )
    return {
        "smallest": count_cost(bounds, count_fewest(bounds)),
        "centroid": count_cost(bounds, round_counts(bounds, centre, 0.0)),
        "full": count_cost(bounds, read_counts(bounds, full)),
    }


def _fill(
    bounds: Bounds, logits: Logits, offset: float, counts: Counts, limits: Mapping[str, float]
) -> Counts:
    """Return ``counts`` with single filters and columns added while they fit.

    Under a limit on latency, filters are first added up to widths that are executed: on the way
    there they are free, and passes by single ones may end before.
    """
    table, places = bounds.model.table, _order(bounds, logits, offset, counts)
    if "latency" in limits and table is not None:
        counts = _grow(bounds, counts, [one for one in places if one[0]], limits, table.align)
        places = _order(bounds, logits, offset, counts)
    return _grow(bounds, counts, places, limits, 1)


def _grow(
    bounds: Bounds,
    counts: Counts,
    places: list[tuple[bool, int]],
    limits: Mapping[str, float],
    align: int,
) -> Counts:
    """Return ``counts`` with one of ``places`` after the other widened while they fit.

    Filters grow by the step of the space, or to the next multiple of ``align`` if that is more.
    """
    share = counts.columns / bounds.model.count_open(counts.keeps)
    density = counts.weights / bounds.open_weights(counts.keeps, counts.columns)[0]
    keeps, extra = counts.keeps.copy(), np.zeros_like(counts.columns)
    for _ in range(FILL_PASSES if align == 1 else int(bounds.keeps_high.max())):
        grown = []
        for is_filter, place in places:
            target = keeps if is_filter else extra
            before = target[place]
            if is_filter:
                step, aligned = bounds.filter_step, (before // align + 1) * align
                wanted = max(before + step, aligned // step * step)
                target[place] = min(wanted, bounds.keeps_high[place])
            else:
                target[place] = before + bounds.column_step
            columns = _stretch(bounds, keeps, share, extra)
            block, fewest, most = bounds.open_weights(keeps, columns)
            weights = np.clip(np.floor(density * block + 1e-9), fewest, most).astype(np.int64)
            tried = Counts(keeps.copy(), columns, weights, counts.bits)
            if _differ(tried, counts) and _fits(bounds, tried, limits):
                counts = tried
                grown.append((is_filter, place))
            else:
                target[place] = before
        places = grown  # Costs only grow: what does not fit now will not fit later.
    return counts


def _spend(bounds: Bounds, logits: Logits, counts: Counts, limits: Mapping[str, float]) -> Counts:
    """Return ``counts`` with the weights that use up what rounded filters and columns leave.

    Single weights are the finest grain: all of them are shifted once more, by a bisection.
    """
    if not (bounds.fine.free_weights.any() and len(logits.weights) and BY_WEIGHTS & {*limits}):
        return counts
    low, high = -FAR, FAR
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        weights = _round_weights(bounds, logits, middle, counts.keeps, counts.columns)
        tried = replace(counts, weights=weights)
        if _fits(bounds, tried, limits):
            low, counts = middle, tried
        else:
            high = middle
    return counts


def _lower_bits(bounds: Bounds, logits: Logits, limits: Mapping[str, float]) -> Logits:
    """Return ``logits`` with bit widths at which the fewest counts fit, if any do.

    One step at a time: that of the layer in which it saves most, the first of equal ones.
    """
    fine = bounds.fine
    if "coded_bytes" not in limits or not fine.free_bits.any():
        return logits
    places = np.minimum(logits.places if len(logits.places) else fine.steps, fine.steps)
    while places.any():
        counts = round_counts(bounds, replace(logits, places=places), -FAR)
        if count_cost(bounds, counts).coded_bytes <= limits["coded_bytes"]:
            break
        lower = fine.find_bits(np.maximum(places - 1, 0))
        places = places.copy()
        places[int(np.where(places > 0, counts.weights * (counts.bits - lower), -1).argmax())] -= 1
    return replace(logits, places=places)


def _raise_bits(bounds: Bounds, counts: Counts, limits: Mapping[str, float]) -> Counts:
    """Return ``counts``, which keep all they may, with bit widths raised by steps while they fit.

    The layer with the fewest weights goes first, then the next, until none can be raised.
    """
    fine = bounds.fine
    if "coded_bytes" not in limits:
        return counts
    places, order = fine.find_places(counts.bits), np.argsort(counts.weights, kind="stable")
    is_growing = True
    while is_growing:
        is_growing = False
        for layer in order.tolist():
            raised = places.copy()
            raised[layer] = min(raised[layer] + 1, fine.steps[layer])
            tried = replace(counts, bits=fine.find_bits(raised))
            if raised[layer] > places[layer] and _fits(bounds, tried, limits):
                places, counts, is_growing = raised, tried, True
    return counts


def _stretch(bounds: Bounds, keeps: Ints, share: Floats, extra: Ints) -> Ints:
    """Return the columns at the given shares when the filters have changed, plus ``extra``."""
    left, fewest, most = bounds.open_columns(keeps)
    step = bounds.column_step
    kept = np.where(share >= 1, left, np.floor(share * left / step + 1e-9) * step)
    grown: Ints = np.clip(kept + extra, fewest, most).astype(np.int64)
    return grown


def _order(
    bounds: Bounds, logits: Logits, offset: float, counts: Counts
) -> list[tuple[bool, int]]:
    """Return (is a filter, place) of what can grow, what lost most by rounding first."""
    left, _, most = bounds.open_columns(counts.keeps)
    filters = _expit(logits.filters + offset) - counts.keeps / bounds.dense_sizes
    columns = _expit(logits.columns + offset) - counts.columns / left
    filters = np.where(counts.keeps < bounds.keeps_high, filters, -np.inf)
    columns = np.where(counts.columns < most, columns, -np.inf)
    lost = np.concatenate([filters, columns])
    order = [place for place in np.argsort(-lost, kind="stable").tolist() if lost[place] > -2]
    groups = len(filters)
    return [(place < groups, place if place < groups else place - groups) for place in order]


def _differ(one: Counts, other: Counts) -> bool:
    return not (
        np.array_equal(one.keeps, other.keeps) and np.array_equal(one.columns, other.columns)
    )


def _fits(bounds: Bounds, counts: Counts, limits: Mapping[str, float]) -> bool:
    sizes = bounds.model.measure(counts.keeps, counts.columns, counts.weights, counts.bits)
    return all(getattr(sizes, name) <= limit for name, limit in limits.items())


def _refuse_unreachable(cost: Cost, limits: Mapping[str, float]) -> None:
    for name, reachable in cost.list_known().items():
        if name in limits and reachable > limits[name]:
            raise BudgetError(name, limits[name], reachable)


def _expit(logit: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-np.clip(logit, -500.0, 500.0)))


def _logit_share(share: Floats) -> Floats:
    inside = np.clip(share, 1e-9, 1 - 1e-9)
    return np.where(share >= 1, FULL, np.log(inside / (1 - inside)))


def _logit(count: Ints, full: Ints, most: Ints) -> Floats:
    inside = np.clip(count / full, 0.5 / full, 1 - 0.5 / full)
    plain = np.log(inside / (1 - inside))
    return np.where(count >= most, plain + 1.0, plain)
