"""Choose what to keep: projections onto sets of models with given counts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn

from autocompress.errors import SettingError
from autocompress.graph.layers import Layer, LayerGraph
from autocompress.jobs import Candidate
from autocompress.masks.cost import is_depthwise
from autocompress.masks.mask import (
    Masks,
    block_mask,
    close_masks,
    full_masks,
    kept_rows,
    open_columns,
    weight_mask,
)
from autocompress.masks.weights import keep_weights


def keep_largest(scores: Tensor, keep: int) -> Tensor:
    """Return which ``keep`` entries of ``scores`` are largest; ties keep the lower index.

    Args:
        scores: Shape (n,), no NaN.
        keep: 0..n.

    Returns:
        Shape (n,), bool, on the CPU.

    Raises:
        SettingError: ``keep`` is out of range.
    """
    if not 0 <= keep <= len(scores):
        raise SettingError(f"keep must be 0..{len(scores)}, got {keep}")
    kept = torch.zeros(len(scores), dtype=torch.bool)
    kept[scores.cpu().argsort(descending=True, stable=True)[:keep]] = True
    return kept


def project_filters(weight: Tensor, keep: int) -> Tensor:
    """Return the nearest tensor to ``weight`` with at most ``keep`` non-zero filters.

    Keeping the filters of largest L2 norm is the exact projection (StructADMM,
    arXiv:1807.11091).

    Args:
        weight: Shape (filters, ...), floating point, finite.
        keep: Filters to keep, 0..filters.

    Returns:
        A new tensor with the shape, dtype and device of ``weight``.
    """
    kept = keep_largest(weight.flatten(1).square().sum(1), keep).to(weight.device)
    return weight * kept.reshape(-1, *[1] * (weight.ndim - 1))


def project_columns(weight: Tensor, keep: int) -> Tensor:
    """Return the nearest tensor to ``weight`` with at most ``keep`` non-zero columns.

    Args:
        weight: Shape (filters, ...), floating point, finite.
        keep: Columns to keep, 0..columns, of ``weight.flatten(1)``.

    Returns:
        A new tensor with the shape, dtype and device of ``weight``.
    """
    matrix = weight.flatten(1)
    kept = keep_largest(matrix.square().sum(0), keep).to(weight.device)
    return (matrix * kept).reshape(weight.shape)


def project_masks(
    graph: LayerGraph,
    energies: Mapping[str, Tensor],
    candidate: Candidate,
    *,
    within: Masks | None = None,
    sweeps: int = 3,
) -> Masks:
    """Return masks that keep the counts of ``candidate`` and as much energy as can be found.

    Single weights are chosen last: the largest within the chosen filters and columns.

    With squared weights as energies this is the projection onto models with so many filters
    and columns. Filters and columns together have no closed form: filters are chosen for given
    columns, then columns for given filters, a few times, from two starts; the best is kept. A
    unit's energy is that of its filters and of the columns that read it, over all its layers.

    Args:
        graph: The layers and their coupling groups.
        energies: For each layer, shape (filters, columns), 0 or more.
        candidate: Counts; more columns or weights than there are left means all of them.
        within: Keep nothing outside these masks; everything is allowed when None.
        sweeps: Alternations, 1 or more.

    Returns:
        Closed masks.
    """
    bounds = close_masks(graph, within or full_masks(graph))
    inside = {
        layer.name: energies[layer.name].float().cpu() * weight_mask(bounds, layer)
        for layer in graph.layers
    }
    starts = [bounds, _choose_columns(graph, inside, candidate, bounds, bounds)]
    best, best_energy = bounds, -1.0
    for start in starts:
        masks = start
        for _ in range(sweeps):
            masks = _choose_units(graph, inside, candidate, bounds, masks)
            masks = _choose_columns(graph, inside, candidate, bounds, masks)
            energy = measure_energy(graph, inside, masks)
            if energy > best_energy:
                best, best_energy = masks, energy
    return _choose_weights(graph, inside, candidate, bounds, best)


@dataclass(frozen=True)
class Scores:
    """What each part of a model is worth by itself; any finite numbers, on the CPU.

    Attributes:
        units: Shape (graph.units,).
        columns: Of each layer of ``graph.column_layers``, shape (layer.columns,).
        weights: Of layers whose single weights are counted, shape (filters, columns).
    """

    units: Tensor
    columns: Mapping[str, Tensor]
    weights: Mapping[str, Tensor] = field(default_factory=dict)


def rank_masks(
    graph: LayerGraph, scores: Scores, candidate: Candidate, *, within: Masks | None = None
) -> Masks:
    """Return masks that keep the counts of ``candidate``, each time what scores most.

    First units, then columns that those leave open, then weights inside of both: the counts are
    those of :func:`project_masks`, but what a part is worth does not follow the others.

    Args:
        graph: The layers and their coupling groups.
        scores: Of all parts that ``candidate`` counts.
        candidate: Counts; more columns or weights than there are left means all of them.
        within: Keep nothing outside these masks; everything is allowed when None.

    Returns:
        Closed masks.
    """
    bounds = close_masks(graph, within or full_masks(graph))
    masks = _keep_units(graph, scores.units, candidate, bounds)
    columns = {}
    for layer in graph.column_layers:
        kept = scores.columns.get(layer.name, torch.zeros(layer.columns))
        columns[layer.name] = _keep_columns(layer, kept, candidate, bounds, masks)
    masks = Masks(masks.units, columns, masks.weights)
    return _choose_weights(graph, scores.weights, candidate, bounds, masks)


def measure_energy(graph: LayerGraph, energies: Mapping[str, Tensor], masks: Masks) -> float:
    """Return the share of the energy that ``masks`` keep, times its total."""
    return sum(
        float(energies[layer.name][weight_mask(masks, layer)].double().sum())
        for layer in graph.layers
    )


def score_units(graph: LayerGraph, energies: Mapping[str, Tensor], masks: Masks) -> Tensor:
    """Return the energy of each unit under ``masks``: its filters and the columns that read it.

    Returns:
        Shape (graph.units,), float64.
    """
    scores = torch.zeros(graph.units + 1, dtype=torch.float64)  # The last one is OUTSIDE.
    for layer in graph.layers:
        energy = energies[layer.name].double()
        columns = masks.columns.get(layer.name)
        by_row = (energy if columns is None else energy * columns).sum(1)
        scores.index_add_(0, _index(layer.out_units) % len(scores), by_row)
        if is_depthwise(layer):
            continue
        by_column = (energy * kept_rows(masks, layer)[:, None]).sum(0)
        if columns is not None:
            by_column = by_column * columns
        scores.index_add_(0, column_units(layer) % len(scores), by_column)
    return scores[: graph.units]


def _choose_units(
    graph: LayerGraph,
    inside: Mapping[str, Tensor],
    candidate: Candidate,
    bounds: Masks,
    masks: Masks,
) -> Masks:
    """Return the units of most energy for the columns of ``masks``, with all columns open."""
    scores = score_units(graph, inside, Masks(bounds.units, masks.columns))
    return _keep_units(graph, scores, candidate, bounds)


def _keep_units(graph: LayerGraph, scores: Tensor, candidate: Candidate, bounds: Masks) -> Masks:
    """Return the units of most score in each group, with all columns open."""
    scores = scores.where(bounds.units, -torch.inf)
    units = bounds.units.clone()
    for group in graph.groups:
        if group.prunable and group.name in candidate.filters:
            span = slice(group.start, group.start + group.size)
            keep = min(candidate.filters[group.name], int(bounds.units[span].sum()))
            units[span] = keep_largest(scores[span], keep)
    return close_masks(graph, Masks(units, bounds.columns, bounds.weights))


def _choose_columns(
    graph: LayerGraph,
    inside: Mapping[str, Tensor],
    candidate: Candidate,
    bounds: Masks,
    masks: Masks,
) -> Masks:
    """Return the columns of most energy for the units of ``masks``."""
    columns = {}
    for layer in graph.column_layers:
        energy = (inside[layer.name] * kept_rows(masks, layer)[:, None]).sum(0)
        columns[layer.name] = _keep_columns(layer, energy, candidate, bounds, masks)
    return Masks(masks.units, columns, masks.weights)


def _keep_columns(
    layer: Layer, scores: Tensor, candidate: Candidate, bounds: Masks, masks: Masks
) -> Tensor:
    """Return the columns of most score that the units of ``masks`` leave open."""
    allowed = bounds.columns[layer.name] & open_columns(masks, layer)
    keep = min(candidate.columns.get(layer.name, layer.columns), int(allowed.sum()))
    return keep_largest(scores.where(allowed, -torch.inf), keep)


def _choose_weights(
    graph: LayerGraph,
    inside: Mapping[str, Tensor],
    candidate: Candidate,
    bounds: Masks,
    masks: Masks,
) -> Masks:
    """Return the weights of most energy within the units and columns of ``masks``."""
    weights = dict(masks.weights)
    for name, count in candidate.weights.items():
        layer = graph.by_name[name]
        allowed = block_mask(masks, layer)
        if name in bounds.weights:
            allowed &= bounds.weights[name]
        energy = inside[name].where(allowed, -torch.inf)
        weights[name] = keep_weights(energy, min(count, int(allowed.sum())))
    return Masks(masks.units, masks.columns, weights)


@lru_cache(maxsize=4096)
def _index(units: tuple[int, ...]) -> Tensor:
    return torch.tensor(units)


def column_units(layer: Layer) -> Tensor:
    """Return the unit that each column reads; ``OUTSIDE`` counts from the end."""
    return _index(layer.in_units)[: layer.channels // layer.groups].repeat_interleave(layer.area)


def measure_energies(
    graph: LayerGraph, model: nn.Module, *, norm: Literal[1, 2] = 2
) -> dict[str, Tensor]:
    """Return abs(w) to the power of ``norm`` for each layer, shape (filters, columns), on the CPU.

    Sums of them rank groups of weights by their L1 or L2 norm.
    """
    weights = {
        layer.name: model.get_parameter(f"{layer.name}.weight").detach().flatten(1)
        for layer in graph.layers
    }
    return {
        name: (one.square() if norm == 2 else one.abs()).cpu() for name, one in weights.items()
    }
