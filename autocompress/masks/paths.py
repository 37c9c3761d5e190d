"""Which units of a model with single weights removed still carry anything to its outputs.

Source: unused paths in P-RM, arXiv:1905.00136, for weights instead of filters.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from autocompress.graph.layers import Layer, LayerGraph

WeightMasks = dict[str, Tensor]
"""Kept weights by layer name: bool, in the weight's shape, on the weight's device."""


@dataclass(frozen=True)
class Links:
    """Which filter of a layer reads which input.

    Attributes:
        kept: Shape (groups, filters per group, inputs per group), bool: any weight is kept.
        sources: Unit of each input; shape (groups, inputs per group). -1 is ``OUTSIDE``, and
            also the last place of a vector of units with one place more.
        targets: Unit of each filter; shape (groups, filters per group).
    """

    kept: Tensor
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
    links = [make_links(layer, masks.get(layer.name), device) for layer in graph.layers]
    fixed = torch.zeros(graph.units + 1, dtype=torch.bool, device=device)
    fixed[-1] = True
    for group in graph.groups:
        if not group.prunable:
            fixed[group.start : group.start + group.size] = True
    fed, used = fixed, fixed
    while True:  # One sweep in order of execution does it, unless an addition closes a cycle.
        grown = _feed(fed, links)
        if torch.equal(grown, fed):
            break
        fed = grown
    while True:
        grown = _use(used, links)
        if torch.equal(grown, used):
            break
        used = grown
    return (fed & used)[: graph.units]


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
        links = make_links(graph.by_name[name], mask, units.device)
        ends = open_units[links.targets][..., None] & open_units[links.sources][:, None]
        inputs = ends.shape[-1]
        found[name] = mask & ends.reshape(-1, inputs, *[1] * (mask.ndim - 2))
    return found


def make_links(layer: Layer, mask: Tensor | None, device: torch.device) -> Links:
    """Return the links of a layer with ``mask``, or with all weights when it is None."""
    inputs, filters = layer.channels // layer.groups, layer.filters // layer.groups
    shape = (layer.groups, filters, inputs)
    if mask is None:
        kept = torch.ones(shape, dtype=torch.bool, device=device)
    elif layer.area == 1:
        kept = mask.reshape(shape)
    else:
        kept = mask.reshape(*shape, layer.area).any(-1)
    return Links(
        kept=kept,
        sources=torch.tensor(layer.in_units, device=device).reshape(layer.groups, inputs),
        targets=torch.tensor(layer.out_units, device=device).reshape(layer.groups, filters),
    )


def _feed(fed: Tensor, links: list[Links]) -> Tensor:
    fed = fed.clone()
    for link in links:
        rows = (link.kept & fed[link.sources][:, None]).any(2)
        fed[link.targets[rows]] = True
    return fed


def _use(used: Tensor, links: list[Links]) -> Tensor:
    used = used.clone()
    for link in reversed(links):
        inputs = (link.kept & used[link.targets][..., None]).any(1)
        used[link.sources[inputs]] = True
    return used
