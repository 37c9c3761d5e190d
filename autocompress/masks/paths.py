"""Which units of a model with single weights removed still carry anything to its outputs.

Source: unused paths in P-RM, arXiv:1905.00136, for weights instead of filters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autocompress.graph.layers import Layer, LayerGraph

WeightMasks = dict[str, Tensor]
"""Kept weights by layer name: bool, in the weight's shape, on the weight's device."""


Ends = tuple[Tensor, Tensor]
"""Units that weights of one layer read and those that they make; both shape (weights,)."""


@dataclass(frozen=True)
class Links:
    """Which units a layer joins; -1 is ``OUTSIDE``, also as the last place of units + 1.

    Attributes:
        sources: Unit of each input; shape (groups, inputs per group).
        targets: Unit of each filter; shape (groups, filters per group).
    """

    sources: Tensor
    targets: Tensor


def find_live_units(graph: LayerGraph, masks: Mapping[str, Tensor]) -> Tensor:
    """Return which units lie on a path of kept weights from the input to an output.

    A unit is fed when at least one kept weight into it (over all its producers) comes from the
    outside or from a fed unit, and used when one out of it goes to a used unit. The model's
    outputs, and units that reach a layer we cannot slice, count as both. So in a net of ReLUs
    without biases, dead units carry zero or are read by nothing that matters; with biases or
    norms a unit that is not fed is a constant, which is lost with its bias.

    It never calls dead what matters, but it looks at units only: a depthwise filter without
    weights leaves its unit alive, because the unit may also be read past the filter.

    Args:
        graph: The layers and their coupling groups.
        masks: Kept weights by layer, on one device; a layer that is not named keeps all.

    Returns:
        Shape (graph.units,), bool, on the masks' device.
    """
    device = next((mask.device for mask in masks.values()), torch.device("cpu"))
    ends = []
    for layer in graph.layers:
        if layer.name in masks:
            read = (
                masks[layer.name].reshape(-1, layer.area).any(1)
            )  # One weight of a kernel is all.
            places = read.nonzero().squeeze(1) * layer.area
        else:
            places = torch.arange(0, layer.weights, layer.area, device=device)
        ends.append(find_ends(layer, places))
    return reach_units(graph, ends)


def reach_units(graph: LayerGraph, ends: Sequence[Ends]) -> Tensor:
    """Return the units of :func:`find_live_units` from the two ends of every kept weight.

    Args:
        graph: The layers and their coupling groups.
        ends: For each layer, in order of execution; at least one.
    """
    fixed = torch.zeros(graph.units + 1, dtype=torch.bool, device=ends[0][0].device)
    fixed[-1] = True
    for group in graph.groups:
        if not group.prunable:
            fixed[group.start : group.start + group.size] = True
    fed = _spread(fixed, ends)
    used = _spread(fixed, [(targets, sources) for sources, targets in reversed(ends)])
    return (fed & used)[: graph.units]


def find_ends(layer: Layer, places: Tensor) -> Ends:
    """Return the units at both ends of some weights of ``layer``.

    Args:
        layer: The layer.
        places: Numbers of weights in its flattened tensor; shape (weights,), int64.
    """
    links = make_links(layer, places.device)
    rows = places // layer.columns
    inputs = places % layer.columns // layer.area
    return links.sources[rows // links.targets.shape[1], inputs], links.targets.flatten()[rows]


def keep_live(graph: LayerGraph, masks: Mapping[str, Tensor]) -> WeightMasks:
    """Return ``masks`` without the weights into or out of dead units; new tensors."""
    return keep_between(graph, find_live_units(graph, masks), masks)


def keep_between(graph: LayerGraph, units: Tensor, masks: Mapping[str, Tensor]) -> WeightMasks:
    """Return ``masks`` without the weights into or out of units other than ``units``.

    Args:
        graph: The layers and their coupling groups.
        units: Shape (graph.units,), bool.
        masks: Kept weights by layer.
    """
    open_units = torch.cat([units, units.new_ones(1)])
    found = {}
    for name, mask in masks.items():
        links = make_links(graph.by_name[name], units.device)
        ends = open_units[links.targets][..., None] & open_units[links.sources][:, None]
        inputs = ends.shape[-1]
        found[name] = mask & ends.reshape(-1, inputs, *[1] * (mask.ndim - 2))
    return found


def make_links(layer: Layer, device: torch.device) -> Links:
    """Return the units that ``layer`` joins."""
    sources = torch.tensor(layer.in_units, device=device).reshape(layer.groups, -1)
    targets = torch.tensor(layer.out_units, device=device).reshape(layer.groups, -1)
    return Links(sources, targets)


def _spread(start: Tensor, ends: Sequence[Ends]) -> Tensor:
    """Return ``start`` and what is reached from there along the weights, layer by layer."""
    reached = start.clone()
    while True:  # One sweep and one look do it, unless an addition closes a cycle.
        before = reached.clone()
        for sources, targets in ends:
            reached[targets[reached[sources]]] = True
        if torch.equal(reached, before):
            return reached
