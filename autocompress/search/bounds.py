"""What one round may keep of its base model, and points of its search space."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autocompress.graph.layers import LayerGraph
from autocompress.jobs import Candidate
from autocompress.masks.cost import CostModel
from autocompress.masks.latency import LatencyTable
from autocompress.search.space import (
    SpaceSettings,
    check_names,
    column_range,
    filter_range,
    list_bits,
    weight_range,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FULL = 80.0  # A logit that stays at density 1 until the offset has no other way.


def make_none() -> Floats:
    """Return no logits: all weights of kept filters and columns are kept."""
    return np.zeros(0)


def make_widest() -> Ints:
    """Return no places: every layer has the largest of its bit widths."""
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Logits:
    """A point of the search, in the order of the graph.

    Attributes:
        filters: Logits of the groups' densities; shape (groups,).
        columns: Logits of the layers' column densities; shape (layers,).
        weights: Logits of the layers' weight densities; shape (layers,), or none: all are 1.
        places: Place of each layer's bit width among those that it may have; shape (layers,),
            or none: the last of them.
    """

    filters: Floats
    columns: Floats
    weights: Floats = field(default_factory=make_none)
    places: Ints = field(default_factory=make_widest)


@dataclass(frozen=True)
class Counts:
    """Real counts, in the order of the graph.

    Attributes:
        keeps: Units of each group; shape (groups,).
        columns: Columns of each layer; shape (layers,).
        weights: Weights within the kept filters and columns of each layer; shape (layers,).
        bits: Bit width of each layer; shape (layers,).
    """

    keeps: Ints
    columns: Ints
    weights: Ints
    bits: Ints


@dataclass(frozen=True, eq=False)
class Fine:
    """Weights and bit widths of each layer, in the order of the graph.

    Attributes:
        low: Lowest weight density; shape (layers,).
        high: Highest weight density.
        survivors: Share of the weights in the base's filters and columns that its masks keep.
        dense: Weights of each layer in the dense model.
        table: Bit widths by layer and place, the last one repeated; shape (layers, most).
        steps: Last place of each layer; 0 without a choice.
    """

    low: Floats
    high: Floats
    survivors: Floats
    dense: Ints
    table: Ints
    steps: Ints

    @cached_property
    def sparse(self) -> NDArray[np.bool_]:
        """Return for which layers weights are counted; shape (layers,)."""
        return (self.low < 1) | (self.survivors < 1)

    @cached_property  # Asked for at every step of a bisection.
    def any_sparse(self) -> bool:
        """Return whether weights of any layer are counted."""
        return bool(self.sparse.any())

    @property
    def free_weights(self) -> NDArray[np.bool_]:
        """Return which layers have a choice of weights; shape (layers,)."""
        return self.low < np.minimum(self.high, self.survivors)

    @property
    def free_bits(self) -> NDArray[np.bool_]:
        """Return which layers have a choice of bit widths; shape (layers,)."""
        return self.steps > 0

    @property
    def has_choice(self) -> bool:
        """Return whether there is any choice of weights or bit widths."""
        return bool(self.free_weights.any() or self.free_bits.any())

    def find_bits(self, places: Ints) -> Ints:
        """Return the bit width of each layer at its place; no places are the last ones."""
        if not len(places):
            places = self.steps
        bits: Ints = self.table[np.arange(len(self.table)), np.clip(places, 0, self.steps)]
        return bits

    def find_places(self, bits: Ints) -> Ints:
        """Return the place of the width nearest to each layer's; the lower one of two."""
        places: Ints = np.abs(self.table - bits[:, None]).argmin(axis=1)
        return places


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
        fine: What may be kept and chosen within kept filters and columns.
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
    fine: Fine

    @property
    def graph(self) -> LayerGraph:
        """Return the base's graph."""
        return self.model.graph

    def open_columns(self, keeps: Ints) -> tuple[Ints, Ints, Ints]:
        """Return (all, fewest, most) columns of each layer when ``keeps`` units are kept."""
        left = self.model.count_open(keeps)
        most = np.floor(np.minimum(self.survivors, self.share_high) * left + 1e-9)
        most = np.clip(align_down(most, self.column_step, left), 1, left)
        fewest = np.ceil(np.maximum(1.0, self.share_low * left) / self.column_step - 1e-9)
        return left, np.minimum(most, fewest * self.column_step).astype(np.int64), most

    def open_weights(self, keeps: Ints, columns: Ints) -> tuple[Ints, Ints, Ints]:
        """Return (all, fewest, most) weights of each layer in so many units and columns."""
        block: Ints = self.model.count_rows(keeps) * columns
        fine = self.fine
        if not fine.any_sparse:
            return block, block, block
        most = np.floor(np.minimum(fine.survivors, fine.high) * block + 1e-9)
        most = np.where(fine.sparse, np.clip(most, 1, block), block).astype(np.int64)
        fewest = np.ceil(np.maximum(1.0, fine.low * block) - 1e-9).astype(np.int64)
        return block, np.minimum(most, fewest), most


def make_bounds(
    settings: SpaceSettings,
    dense: LayerGraph,
    base: LayerGraph,
    kept: Candidate,
    table: LatencyTable | None = None,
) -> Bounds:
    """Return what a round may keep of its base model.

    Args:
        settings: The search space.
        dense: The dense model.
        base: The model where the round starts, with its dead filters gone.
        kept: Counts of the base: its columns are those its masks keep.
        table: Predicts latency, where that is asked for.

    Raises:
        SettingError: The space names a group or layer that the model does not have.
    """
    check_names(settings, dense)
    model = CostModel(base, table)
    step = settings.filters_multiple_of
    dense_sizes, low, high = [], [], []
    for group in base.groups:
        named = dense.group_by_name.get(group.name, group)
        dense_sizes.append(named.size)
        least, most = filter_range(settings, group.name, group.producers)
        if not group.prunable:
            least, most = 1.0, 1.0
        top = align_down(np.floor(most * named.size + 1e-9), step, np.array(group.size))
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
        fine=_make_fine(settings, dense, base, kept),
    )


def _make_fine(
    settings: SpaceSettings, dense: LayerGraph, base: LayerGraph, kept: Candidate
) -> Fine:
    ranges = [weight_range(settings, layer.name) for layer in base.layers]
    widths = [list_bits(settings, layer.name) for layer in base.layers]
    most = max(len(one) for one in widths) if widths else 1
    table = [list(one) + [one[-1]] * (most - len(one)) for one in widths]
    blocks = [layer.filters * kept.columns.get(layer.name, layer.columns) for layer in base.layers]
    left = [
        kept.weights.get(layer.name, block)
        for layer, block in zip(base.layers, blocks, strict=True)
    ]
    return Fine(
        low=np.array([one[0] for one in ranges]),
        high=np.array([one[1] for one in ranges]),
        survivors=np.array(left) / np.maximum(np.array(blocks), 1),
        dense=np.array([dense.by_name.get(one.name, one).weights for one in base.layers]),
        table=np.array(table, dtype=np.int64),
        steps=np.array([len(one) - 1 for one in widths], dtype=np.int64),
    )


def align_down(count: Floats, step: int, full: Ints) -> Ints:
    """Return the largest allowed count up to ``count``: a multiple of ``step``, or all."""
    aligned = np.where(count >= full, full, np.floor(count / step) * step)
    return np.where(aligned < 1, np.minimum(count, full), aligned).astype(np.int64)
