"""The best way to bring a dead part of a model to life.

A path from the input to an output is as wide as its weight of least score (the bottleneck
path); living weights cost nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from autocompress.graph.layers import LayerGraph
from autocompress.masks.paths import Links, find_ends, make_links
from autocompress.masks.rank import keep_weights

Place = tuple[str, int]
"""A weight: the name of its layer and its number there."""


@dataclass(frozen=True)
class _Layer:
    """The best weights of each link of a layer; shape (groups, filters per group, inputs there).

    Attributes:
        name: Of the layer.
        links: Units at both ends.
        widths: Score of the best weight, infinity where one lives.
        places: Number of the best weight.
        new_widths: Score of the best weight that does not live yet.
        new_places: Its number.
    """

    name: str
    links: Links
    widths: Tensor
    places: Tensor
    new_widths: Tensor
    new_places: Tensor


@dataclass(frozen=True)
class _Reach:
    """The widest paths from one side of the model to every unit.

    Attributes:
        width: Shape (units + 1,); the last is ``OUTSIDE``.
        steps: For each unit, the weight that its path comes through and the unit before it.
    """

    width: Tensor
    steps: dict[int, tuple[Place, int]]

    def trace(self, unit: int) -> list[Place]:
        """Return the weights on the path to ``unit``, of which none lives yet."""
        found = []
        while self.width[unit] < torch.inf:
            place, unit = self.steps[unit]
            found.append(place)
        return found


def find_paths(
    graph: LayerGraph,
    scores: Mapping[str, Tensor],
    *,
    through: str | None = None,
    count: int = 1,
) -> list[list[Place]]:
    """Return the new weights of the widest paths, each of which needs at least one.

    Args:
        graph: The layers and their coupling groups.
        scores: Of every weight by layer: infinity where it lives, -infinity where it may not.
        through: Layer where a weight must be added; any when None.
        count: Paths at most, 1 or more; no two add the same weight between the same units.

    Returns:
        The widest first; in a path at least one place, no two equal.
    """
    layers = [_make_layer(graph, name, values) for name, values in scores.items()]
    fed = _reach_units(graph, layers, forward=True)
    used = _reach_units(graph, layers, forward=False)
    offers: list[tuple[float, _Layer, int]] = []
    for layer in layers:
        if through not in (None, layer.name):
            continue
        ends = torch.minimum(
            fed.width[layer.links.sources][:, None], used.width[layer.links.targets][..., None]
        )
        widths = layer.new_widths.minimum(ends).flatten()
        best = keep_weights(widths, min(count, len(widths))).nonzero().squeeze(1)
        for width, link in zip(widths[best].tolist(), best.tolist(), strict=True):
            if width > -math.inf:
                offers.append((width, layer, link))
    offers.sort(key=lambda offer: -offer[0])  # Of equals the first layer, the first link.
    found = []
    for _, layer, link in offers[:count]:
        place = layer.new_places.flatten()[link]
        source, target = find_ends(graph.by_name[layer.name], place)
        here = (layer.name, int(place))
        path = [*fed.trace(int(source)), here, *used.trace(int(target))]
        found.append(list(dict.fromkeys(path)))
    return found


def _make_layer(graph: LayerGraph, name: str, scores: Tensor) -> _Layer:
    layer = graph.by_name[name]
    links = make_links(layer, scores.device)
    cells = scores.reshape(*links.targets.shape, links.sources.shape[1], layer.area)
    first = torch.arange(0, layer.weights, layer.area, device=scores.device)
    first = first.reshape(cells.shape[:-1])
    widths, inner = cells.max(-1)
    new_widths, new_inner = cells.where(cells < torch.inf, -torch.inf).max(-1)
    return _Layer(name, links, widths, first + inner, new_widths, first + new_inner)


def _reach_units(graph: LayerGraph, layers: list[_Layer], *, forward: bool) -> _Reach:
    """Return the widest paths from the input, or to the outputs."""
    device = layers[0].widths.device
    width = torch.full((graph.units + 1,), -torch.inf, dtype=torch.float64, device=device)
    if forward:
        width[-1] = torch.inf
    for group in graph.groups:
        if not group.prunable:
            width[group.start : group.start + group.size] = torch.inf
    reach = _Reach(width, {})
    changed = True
    while changed:
        changed = False
        for layer in layers if forward else reversed(layers):
            changed |= _widen_(reach, layer, forward=forward)
    return reach


def _widen_(reach: _Reach, layer: _Layer, *, forward: bool) -> bool:
    """Take the paths through ``layer`` that are wider; return whether there are any.

    Only strictly wider ones, so that the steps back from a unit never run in a circle.
    """
    links, width = layer.links, reach.width
    if forward:
        here, best = links.targets, layer.widths.minimum(width[links.sources][:, None]).max(2)
    else:
        here, best = links.sources, layer.widths.minimum(width[links.targets][..., None]).max(1)
    wider = best.values > width[here]
    for group, place in wider.nonzero().tolist():
        unit, other = int(here[group, place]), int(best.indices[group, place])
        if float(best.values[group, place]) > float(width[unit]):
            row, column = (place, other) if forward else (other, place)
            weight = int(layer.places[group, row, column])
            before = links.sources[group, column] if forward else links.targets[group, row]
            width[unit] = best.values[group, place]
            reach.steps[unit] = ((layer.name, weight), int(before))
    return bool(wider.any())
