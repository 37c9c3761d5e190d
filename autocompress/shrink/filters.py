"""Physically smaller layers along coupled groups."""

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from autocompress.errors import GraphError
from autocompress.graph.check import find_kept, slice_units_
from autocompress.graph.layers import OUTSIDE, Group, Layer, LayerGraph
from autocompress.masks.cost import is_depthwise
from autocompress.masks.mask import (
    Masks,
    apply_masks_,
    kept_inputs,
    kept_rows,
    open_columns,
    parameter_masks,
)


def slice_graph(graph: LayerGraph, masks: Masks) -> tuple[LayerGraph, Masks]:
    """Return the graph of the model without its dead units, and the masks that are left.

    Names stay; units are numbered anew, in the same order. Each unit of the result is kept.

    Raises:
        GraphError: A group would lose all its units, or loses one but is not prunable.
    """
    check_units(graph, masks.units)
    number = (masks.units.cumsum(0) - 1).tolist()

    def renumber(units: tuple[int, ...]) -> tuple[int, ...]:
        kept = find_kept(masks.units, units).tolist()
        return tuple(
            OUTSIDE if unit == OUTSIDE else number[unit]
            for unit, alive in zip(units, kept, strict=True)
            if alive
        )

    layers = tuple(_slice_layer(layer, renumber) for layer in graph.layers)
    norms = tuple(replace(norm, units=renumber(norm.units)) for norm in graph.norms)
    groups: list[Group] = []
    for group in graph.groups:
        start = groups[-1].start + groups[-1].size if groups else 0
        size = int(masks.units[group.start : group.start + group.size].sum())
        groups.append(replace(group, start=start, size=size))
    smaller = LayerGraph(layers=layers, norms=norms, groups=tuple(groups))
    return smaller, _slice_masks(graph, smaller, masks)


def shrink_filters(model: nn.Module, graph: LayerGraph, masks: Masks) -> nn.Module:
    """Return a smaller copy of ``model`` without the filters and channels of dead units.

    Weights of columns that are dead on their own are zero in the copy, and still there.

    Raises:
        GraphError: A group would lose all its units, or loses one but is not prunable.
    """
    check_units(graph, masks.units)
    smaller = copy.deepcopy(model)
    apply_masks_(smaller, parameter_masks(graph, masks, smaller))
    slice_units_(smaller, graph, masks.units)
    return smaller


def check_units(graph: LayerGraph, units: Tensor) -> None:
    """Raise GraphError unless every group can be sliced as ``units`` says."""
    if units.shape != (graph.units,):
        raise GraphError(f"masks: want {graph.units} units, got {tuple(units.shape)}")
    for group in graph.groups:
        kept = int(units[group.start : group.start + group.size].sum())
        if kept == 0:
            raise GraphError(
                f"group {group.name!r}: want at least 1 unit kept, got 0; it is made by "
                f"{', '.join(group.producers)}"
            )
        if kept < group.size and not group.prunable:
            raise GraphError(
                f"group {group.name!r} is not prunable, but {group.size - kept} of its units are "
                f"masked; it is made by {', '.join(group.producers)}"
            )


def _slice_layer(layer: Layer, renumber: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Layer:
    out_units, in_units = renumber(layer.out_units), renumber(layer.in_units)
    return replace(
        layer,
        filters=len(out_units),
        channels=len(in_units),
        groups=len(in_units) if is_depthwise(layer) else layer.groups,
        out_units=out_units,
        in_units=in_units,
    )


def _slice_masks(graph: LayerGraph, smaller: LayerGraph, masks: Masks) -> Masks:
    columns: dict[str, Tensor] = {}
    for layer in smaller.column_layers:
        old = graph.by_name[layer.name]
        if old.groups == 1:
            by_channel = masks.columns[layer.name].reshape(-1, layer.area)
            columns[layer.name] = by_channel[kept_inputs(masks, old)].flatten()
        else:  # A depthwise convolution of which one channel is left.
            columns[layer.name] = torch.ones(layer.columns, dtype=torch.bool)
    weights = {name: _slice_weights(graph, masks, name) for name in masks.weights}
    return Masks(torch.ones(smaller.units, dtype=torch.bool), columns, weights)


def _slice_weights(graph: LayerGraph, masks: Masks, name: str) -> Tensor:
    """Return the kept single weights of a layer without its dead filters and inputs."""
    layer = graph.by_name[name]
    single = masks.weights[name][kept_rows(masks, layer)]
    return single if is_depthwise(layer) else single[:, open_columns(masks, layer)]
