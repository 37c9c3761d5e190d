"""Which units and columns of a model are kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from autocompress.graph.layers import OUTSIDE, Layer, LayerGraph, Norm
from autocompress.jobs import Candidate


@dataclass(frozen=True)
class Masks:
    """What is kept, on the CPU.

    Attributes:
        units: Shape (graph.units,), bool.
        columns: For each layer of ``graph.column_layers``, shape (layer.columns,), bool: the
            columns in the order of ``weight.flatten(1)``; False where the input unit is gone.
        weights: For layers that keep single weights, by name, shape (filters, columns), bool:
            what is kept within the units and columns. A layer not named keeps all of those.
    """

    units: Tensor
    columns: Mapping[str, Tensor]
    weights: Mapping[str, Tensor] = field(default_factory=dict)


def full_masks(graph: LayerGraph) -> Masks:
    """Return masks that keep everything."""
    units = torch.ones(graph.units, dtype=torch.bool)
    columns = {
        layer.name: torch.ones(layer.columns, dtype=torch.bool) for layer in graph.column_layers
    }
    return Masks(units, columns)


def kept_rows(masks: Masks, layer: Layer) -> Tensor:
    """Return which filters of ``layer`` are kept; shape (filters,), bool."""
    return masks.units[torch.tensor(layer.out_units)]


def kept_inputs(masks: Masks, layer: Layer) -> Tensor:
    """Return which input channels of ``layer`` have a living unit; shape (channels,), bool."""
    units = torch.tensor(layer.in_units)
    return masks.units[units.clamp(min=0)] | (units == OUTSIDE)


def open_columns(masks: Masks, layer: Layer) -> Tensor:
    """Return which columns of ``layer`` have a living input; shape (columns,), bool."""
    return kept_inputs(masks, layer)[: layer.channels // layer.groups].repeat_interleave(
        layer.area
    )


def close_masks(graph: LayerGraph, masks: Masks) -> Masks:
    """Return ``masks`` with every column of a dead input cleared."""
    columns = {
        layer.name: masks.columns[layer.name] & open_columns(masks, layer)
        for layer in graph.column_layers
    }
    return Masks(masks.units, columns, masks.weights)


def weight_mask(masks: Masks, layer: Layer) -> Tensor:
    """Return the kept weights; shape (filters, columns), bool."""
    block = block_mask(masks, layer)
    single = masks.weights.get(layer.name)
    return block if single is None else block & single


def block_mask(masks: Masks, layer: Layer) -> Tensor:
    """Return what kept filters and columns have in common; shape (filters, columns), bool."""
    rows = kept_rows(masks, layer)
    if layer.groups == 1:
        return rows[:, None] & masks.columns[layer.name][None, :]
    if layer.groups == layer.channels:  # Depthwise: a filter lives and dies with its one input.
        return rows[:, None].expand(layer.filters, layer.columns).clone()
    return rows[:, None] & open_columns(masks, layer)[None, :]


def parameter_masks(graph: LayerGraph, masks: Masks, model: nn.Module) -> dict[str, Tensor]:
    """Return a mask in the shape of every parameter that ``masks`` touches, by name.

    A dead unit loses its filter, bias and its norm's gain and shift: a zero filter before a norm
    would still emit the constant ``beta - gamma * mean / sqrt(var + eps)``.

    Returns:
        Masks of the parameters' dtype and device, 1 where kept.
    """
    found: dict[str, Tensor] = {}
    parameters = dict(model.named_parameters())
    for layer in graph.layers:
        weight = parameters[f"{layer.name}.weight"]
        found[f"{layer.name}.weight"] = weight_mask(masks, layer).reshape(weight.shape).to(weight)
        if layer.has_bias:
            bias = parameters[f"{layer.name}.bias"]
            found[f"{layer.name}.bias"] = kept_rows(masks, layer).to(bias)
    for norm in graph.norms:
        kept = kept_norm(masks, norm)
        for part in ("weight", "bias"):
            parameter = parameters.get(f"{norm.name}.{part}")
            if parameter is not None:
                found[f"{norm.name}.{part}"] = kept.to(parameter)
    return found


def kept_norm(masks: Masks, norm: Norm) -> Tensor:
    """Return which channels of ``norm`` are kept; shape (channels,), bool."""
    units = torch.tensor(norm.units)
    return masks.units[units.clamp(min=0)] | (units == OUTSIDE)


@torch.no_grad()
def apply_masks_(model: nn.Module, parameter_masks: Mapping[str, Tensor]) -> None:
    """Zero the parameters of ``model`` where their masks are 0."""
    for name, parameter in model.named_parameters():
        if name in parameter_masks:
            # Plus zero: a negative value times 0 is -0.0, which would be stored as a value.
            parameter.mul_(parameter_masks[name]).add_(0.0)


def count_kept(graph: LayerGraph, masks: Masks) -> Candidate:
    """Return how much ``masks`` keep; the inverse of a projection's request."""
    filters = {
        group.name: int(masks.units[group.start : group.start + group.size].sum())
        for group in graph.groups
        if group.prunable
    }
    columns = {name: int(mask.sum()) for name, mask in masks.columns.items()}
    weights = {name: int(weight_mask(masks, graph.by_name[name]).sum()) for name in masks.weights}
    return Candidate(filters=filters, columns=columns, weights=weights)
