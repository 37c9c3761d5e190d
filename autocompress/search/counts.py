"""Real counts from logits: candidates that meet every budget by construction.

A point of the search is one number per group and per layer, the logit of a density. One offset
shared by all of them is found by bisection, so that the rounded counts, after what dead
filters take along, use the budgets up and never exceed them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import BudgetError
from autocompress.graph.layers import LayerGraph
from autocompress.jobs import Candidate
from autocompress.masks.cost import Cost, CostModel
from autocompress.search.space import SpaceSettings, check_names, column_range, filter_range

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FULL = 80.0  # A logit that stays at density 1 until the offset has no other way.
FAR = 200.0  # An offset that sends every density to its bound.
HALVINGS = 36  # 400 logits down to 6e-9: far below one filter of the widest layer.
FILL_PASSES = 12


@dataclass(frozen=True)
class Logits:
    """A point of the search: shape (groups,) and (layers,), in the order of the graph."""

    filters: Floats
    columns: Floats


@dataclass(frozen=True)
class Counts:
    """Real counts: shape (groups,) and (layers,), in the order of the graph."""

    keeps: Ints
    columns: Ints


@dataclass(frozen=True, eq=False)
class Bounds:
    """What may be kept of one base model.

    Attributes:
        model: Costs of the base's graph.
        dense_sizes: Units of each group in the dense model; shape (groups,).
        dense_columns: Columns of each layer in the dense model; shape (layers,).
        keeps_low: Fewest units of each group.
        keeps_high: Most units of each group.
        share_low: Lowest column density of each layer; 1 where there is no choice.
        share_high: Highest column density of each layer.
        survivors: Share of the base's columns that its masks keep.
        filter_step: Kept filters are a multiple of this.
        column_step: Kept columns are a multiple of this.
    """

    model: CostModel
    dense_sizes: Ints
    dense_columns: Ints
    keeps_low: Ints
    keeps_high: Ints
    share_low: Floats
    share_high: Floats
    survivors: Floats
    filter_step: int
    column_step: int

    @property
    def graph(self) -> LayerGraph:
        """Return the base's graph."""
        return self.model.graph

    def open_columns(self, keeps: Ints) -> tuple[Ints, Ints, Ints]:
        """Return (all, fewest, most) columns of each layer when ``keeps`` units are kept."""
        left = self.model.count_open(keeps)
        most = np.floor(np.minimum(self.survivors, self.share_high) * left + 1e-9)
        most = np.clip(_align_down(most, self.column_step, left), 1, left)
        fewest = np.ceil(np.maximum(1.0, self.share_low * left) / self.column_step - 1e-9)
        return left, np.minimum(most, fewest * self.column_step).astype(np.int64), most


def make_bounds(
    settings: SpaceSettings, dense: LayerGraph, base: LayerGraph, kept: Candidate
) -> Bounds:
    """Return what a round may keep of its base model.

    Args:
        settings: The search space.
        dense: The dense model.
        base: The model where the round starts, with its dead filters gone.
        kept: Counts of the base: its columns are those its masks keep.

    Raises:
        SettingError: The space names a group or layer that the model does not have.
    """
    check_names(settings, dense)
    model = CostModel(base)
    step = settings.filters_multiple_of
    dense_sizes, low, high = [], [], []
    for group in base.groups:
        named = dense.group_by_name.get(group.name, group)
        dense_sizes.append(named.size)
        least, most = filter_range(settings, group.name, group.producers)
        if not group.prunable:
            least, most = 1.0, 1.0
        top = _align_down(np.floor(most * named.size + 1e-9), step, np.array(group.size))
        high.append(max(1, int(top)))
        bottom = int(np.ceil(max(1.0, least * named.size) / step - 1e-9)) * step
        low.append(min(bottom, high[-1]))
    choice = [layer.groups == 1 for layer in base.layers]
    ranges = [
        column_range(settings, layer.name) if free else (1.0, 1.0)
        for layer, free in zip(base.layers, choice, strict=True)
    ]
    survivors = [kept.columns.get(layer.name, layer.columns) for layer in base.layers]
    sizes = np.array([layer.columns for layer in base.layers])
    return Bounds(
        model=model,
        dense_sizes=np.array(dense_sizes, dtype=np.int64),
        dense_columns=np.array(
            [dense.by_name.get(one.name, one).columns for one in base.layers], dtype=np.int64
        ),
        keeps_low=np.array(low, dtype=np.int64),
        keeps_high=np.array(high, dtype=np.int64),
        share_low=np.array([one[0] for one in ranges]),
        share_high=np.array([one[1] for one in ranges]),
        survivors=np.where(choice, np.array(survivors) / sizes, 1.0),
        filter_step=step,
        column_step=settings.columns_multiple_of,
    )


def round_counts(bounds: Bounds, logits: Logits, offset: float) -> Counts:
    """Return the counts nearest to the densities of ``logits + offset`` within the bounds."""
    ideal = _expit(logits.filters + offset) * bounds.dense_sizes
    keeps = np.rint(ideal / bounds.filter_step) * bounds.filter_step
    keeps = np.clip(keeps, bounds.keeps_low, bounds.keeps_high).astype(np.int64)
    left, fewest, most = bounds.open_columns(keeps)
    wanted = np.rint(_expit(logits.columns + offset) * left / bounds.column_step)
    columns = np.clip(wanted * bounds.column_step, fewest, most).astype(np.int64)
    return Counts(keeps, columns)


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
    chosen = round_counts(bounds, logits, low)
    _refuse_unreachable(count_cost(bounds, chosen), limits)
    top = round_counts(bounds, logits, high)
    if _fits(bounds, top, limits):
        return top
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        counts = round_counts(bounds, logits, middle)
        if _fits(bounds, counts, limits):
            low, chosen = middle, counts
        else:
            high = middle
    return _fill(bounds, logits, high, chosen, limits)


def make_candidate(bounds: Bounds, logits: Logits, limits: Mapping[str, float]) -> Candidate:
    """Return :func:`make_counts` by name of group and layer."""
    return name_counts(bounds, make_counts(bounds, logits, limits))


def name_counts(bounds: Bounds, counts: Counts) -> Candidate:
    """Return ``counts`` by name, without groups and layers that have no choice."""
    graph = bounds.graph
    keeps = zip(graph.groups, counts.keeps.tolist(), strict=True)
    columns = zip(graph.layers, counts.columns.tolist(), strict=True)
    return Candidate(
        filters={group.name: keep for group, keep in keeps if group.prunable},
        columns={layer.name: count for layer, count in columns if layer.groups == 1},
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
    return Counts(keeps, np.minimum(np.array(wanted), left))


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
    return Logits(
        _logit(counts.keeps, bounds.dense_sizes, bounds.keeps_high),
        _logit(counts.columns, left, most),
    )


def count_cost(bounds: Bounds, counts: Counts) -> Cost:
    """Return what ``counts`` cost."""
    return bounds.model.count(counts.keeps, counts.columns)


def measure_densities(bounds: Bounds, candidate: Candidate) -> dict[str, float]:
    """Return ``filters/GROUP`` and ``columns/LAYER`` relative to the dense model, in (0, 1]."""
    sizes = zip(bounds.graph.groups, bounds.dense_sizes.tolist(), strict=True)
    filters = {f"filters/{one.name}": size for one, size in sizes if one.prunable}
    widths = zip(bounds.graph.layers, bounds.dense_columns.tolist(), strict=True)
    columns = {f"columns/{one.name}": width for one, width in widths if one.groups == 1}
    counts = {f"filters/{name}": count for name, count in candidate.filters.items()}
    counts |= {f"columns/{name}": count for name, count in candidate.columns.items()}
    return {name: counts[name] / full for name, full in (filters | columns).items()}


def feasibility_table(settings: SpaceSettings, graph: LayerGraph) -> dict[str, Cost]:
    """Return what the smallest, the centroid and the full model of a space cost.

    The centroid has the middle of every density range.
    """
    full = Candidate(filters={}, columns={})
    bounds = make_bounds(settings, graph, graph, full)
    flat = Logits(np.zeros(len(graph.groups)), np.zeros(len(graph.layers)))
    low = np.maximum(bounds.keeps_low / bounds.dense_sizes, 1e-9)
    centre = Logits(
        _logit_share((low + bounds.keeps_high / bounds.dense_sizes) / 2),
        _logit_share((bounds.share_low + bounds.share_high) / 2),
    )
    return {
        "smallest": count_cost(bounds, round_counts(bounds, flat, -FAR)),
        "centroid": count_cost(bounds, round_counts(bounds, centre, 0.0)),
        "full": count_cost(bounds, read_counts(bounds, full)),
    }


def _fill(
    bounds: Bounds, logits: Logits, offset: float, counts: Counts, limits: Mapping[str, float]
) -> Counts:
    """Return ``counts`` with single filters and columns added while they fit."""
    share = counts.columns / bounds.model.count_open(counts.keeps)
    keeps, extra = counts.keeps.copy(), np.zeros_like(counts.columns)
    places = _order(bounds, logits, offset, counts)
    for _ in range(FILL_PASSES):
        grown = []
        for is_filter, place in places:
            target = keeps if is_filter else extra
            before = target[place]
            if is_filter:
                target[place] = min(before + bounds.filter_step, bounds.keeps_high[place])
            else:
                target[place] = before + bounds.column_step
            tried = Counts(keeps.copy(), _stretch(bounds, keeps, share, extra))
            if _differ(tried, counts) and _fits(bounds, tried, limits):
                counts = tried
                grown.append((is_filter, place))
            else:
                target[place] = before
        places = grown  # Costs only grow: what does not fit now will not fit later.
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
    cost = count_cost(bounds, counts)
    return all(getattr(cost, name) <= limit for name, limit in limits.items())


def _refuse_unreachable(cost: Cost, limits: Mapping[str, float]) -> None:
    for name, reachable in asdict(cost).items():
        if name in limits and reachable > limits[name]:
            raise BudgetError(name, limits[name], reachable)


def _align_down(count: Floats, step: int, full: Ints) -> Ints:
    """Return the largest allowed count up to ``count``: a multiple of ``step``, or all."""
    aligned = np.where(count >= full, full, np.floor(count / step) * step)
    return np.where(aligned < 1, np.minimum(count, full), aligned).astype(np.int64)


def _expit(logit: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-np.clip(logit, -500.0, 500.0)))


def _logit_share(share: Floats) -> Floats:
    inside = np.clip(share, 1e-9, 1 - 1e-9)
    return np.where(share >= 1, FULL, np.log(inside / (1 - inside)))


def _logit(count: Ints, full: Ints, most: Ints) -> Floats:
    inside = np.clip(count / full, 0.5 / full, 1 - 0.5 / full)
    plain = np.log(inside / (1 - inside))
    return np.where(count >= most, plain + 1.0, plain)
