"""Purification: remove what survived pruning but no longer matters, and what nothing reads.

Source: AutoCompress, arXiv:1907.03141, and P-RM, arXiv:1905.00136, section on unused paths.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autocompress.errors import SettingError
from autocompress.graph.layers import LayerGraph
from autocompress.masks.cost import count_masks, is_depthwise
from autocompress.masks.mask import Masks, close_masks, kept_rows, weight_mask
from autocompress.masks.project import keep_largest, score_units


@dataclass(frozen=True, kw_only=True)
class PurifySettings:
    """How far purification goes.

    Attributes:
        evaluations: Candidates tried by its annealing; 0 only removes dead paths.
        tolerance: How much the validation metric may fall, in its own unit (0.001 of an
            accuracy is 0.1 points), 0 or more.
        resource: What is removed: ``weights``, ``macs``, ``params`` or ``bytes``.
    """

    evaluations: int = 60
    tolerance: float = 0.001
    resource: str = "weights"

    def __post_init__(self) -> None:
        if self.evaluations < 0 or self.tolerance < 0:
            raise SettingError("purify: want evaluations and tolerance of 0 or more")
        if self.resource not in {"weights", "macs", "params", "bytes"}:
            raise SettingError(
                f"purify.resource: want weights, macs, params or bytes, got {self.resource!r}"
            )


def propagate(graph: LayerGraph, masks: Masks) -> Masks:
    """Return ``masks`` without what cannot matter, by rules applied until nothing changes.

    A dead filter kills its columns in every consumer. A unit whose columns are gone in *all*
    its consumers dies in all its producers; so in a residual addition only what no member
    needs goes. At least one unit of each group stays. A column of which no single weight is
    kept goes as well, but for the last of a layer.

    Returns:
        Closed masks that this function leaves as they are.
    """
    masks = drop_empty(graph, close_masks(graph, masks))
    while True:
        read = count_readers(graph, masks) > 0
        units = masks.units.clone()
        for group in graph.groups:
            span = slice(group.start, group.start + group.size)
            if group.prunable and group.consumers and bool((units[span] & read[span]).any()):
                units[span] &= read[span]
        if torch.equal(units, masks.units):
            return masks
        masks = drop_empty(graph, close_masks(graph, Masks(units, masks.columns, masks.weights)))


def drop_empty(graph: LayerGraph, masks: Masks) -> Masks:
    """Return ``masks`` without columns of which no single weight is kept; one always stays."""
    columns = dict(masks.columns)
    for layer in graph.column_layers:
        if layer.name in masks.weights:
            used = weight_mask(masks, layer).any(0)
            columns[layer.name] = used if bool(used.any()) else columns[layer.name]
    return Masks(masks.units, columns, masks.weights)


def count_readers(graph: LayerGraph, masks: Masks) -> Tensor:
    """Return how many kept columns read each unit, over all layers; shape (units,), int64.

    A depthwise filter passes its unit on and counts for nothing; a grouped convolution reads
    its living inputs whole.
    """
    readers = torch.zeros(graph.units + 1, dtype=torch.int64)
    for layer in graph.layers:
        if is_depthwise(layer):
            continue
        if layer.groups == 1:
            counts = masks.columns[layer.name].reshape(-1, layer.area).sum(1)
        else:
            counts = torch.full((layer.channels,), layer.area)
        readers.index_add_(0, torch.tensor(layer.in_units) % len(readers), counts)
    return readers[: graph.units]


def cut_below(
    graph: LayerGraph,
    energies: Mapping[str, Tensor],
    masks: Masks,
    thresholds: Mapping[str, float],
) -> Masks:
    """Return ``masks`` without the units and columns whose norm is below their threshold.

    Args:
        graph: The layers and their coupling groups.
        energies: Squared weights of each layer, shape (filters, columns).
        masks: What survives now.
        thresholds: ``filters/<group>`` and ``columns/<layer>``, as shares of the mean norm of
            the group's or layer's survivors; what is not named is not cut.

    Returns:
        Closed and propagated masks; each group and layer keeps at least one.
    """
    norms = score_units(graph, energies, masks).sqrt()
    units = masks.units.clone()
    for group in graph.groups:
        share = thresholds.get(f"filters/{group.name}", 0.0)
        if share > 0 and group.prunable:
            span = slice(group.start, group.start + group.size)
            units[span] = _cut(norms[span], masks.units[span], share)
    columns = dict(masks.columns)
    for layer in graph.column_layers:
        share = thresholds.get(f"columns/{layer.name}", 0.0)
        if share > 0:
            rows = kept_rows(masks, layer)[:, None]
            norm = (energies[layer.name] * rows).sum(0).sqrt()
            columns[layer.name] = _cut(norm, masks.columns[layer.name], share)
    cut = close_masks(graph, Masks(units, columns, masks.weights))
    return propagate(graph, keep_alive(graph, cut, masks))


def keep_alive(graph: LayerGraph, masks: Masks, before: Masks) -> Masks:
    """Return ``masks``, with the columns of ``before`` given back to a layer that lost all."""
    columns = dict(masks.columns)
    for layer in graph.column_layers:
        if not bool(columns[layer.name].any()):
            columns[layer.name] = before.columns[layer.name]
    return close_masks(graph, Masks(masks.units, columns, masks.weights))


def _cut(norms: Tensor, alive: Tensor, share: float) -> Tensor:
    limit = share * float(norms[alive].mean())
    kept = alive & (norms >= limit)
    if bool(kept.any()):
        return kept
    return keep_largest(norms.where(alive, torch.tensor(-1.0, dtype=norms.dtype)), 1)


def purify(
    graph: LayerGraph,
    energies: Mapping[str, Tensor],
    masks: Masks,
    settings: PurifySettings,
    *,
    measure: Callable[[Masks], float],
    seed: int,
) -> tuple[Masks, dict[str, float]]:
    """Return smaller masks whose metric is at most ``tolerance`` worse, and their thresholds.

    The thresholds start at 0 and are annealed: a move raises or lowers one to three of them; the
    energy is the share of the resource left, plus a penalty per tolerance exceeded.

    Args:
        graph: The layers and their coupling groups.
        energies: Squared weights of each layer.
        masks: What survives pruning.
        settings: Budget and tolerance.
        measure: Validation metric of masks, more is better.
        seed: Of the moves.
    """
    best = propagate(graph, masks)
    full = getattr(count_masks(graph, best), settings.resource)
    wanted = measure(best) - settings.tolerance
    names = [f"filters/{g.name}" for g in graph.groups if g.prunable]
    names += [f"columns/{layer.name}" for layer in graph.column_layers]
    rng = np.random.default_rng(seed)
    thresholds: dict[str, float] = {}
    kept, energy, best_energy = thresholds, 1.0, 1.0
    for step in range(settings.evaluations):
        temperature = 0.02 * 0.05 ** (step / settings.evaluations)
        moved = move_thresholds(thresholds, names, rng)
        found = cut_below(graph, energies, masks, moved)
        share = getattr(count_masks(graph, found), settings.resource) / full
        lost = wanted - measure(found)
        # A metric that is NaN is within no tolerance; max() alone would pass over it.
        excess = math.inf if math.isnan(lost) else max(0.0, lost) / max(settings.tolerance, 1e-4)
        moved_energy = share + 0.1 * excess
        if moved_energy <= energy or rng.random() < math.exp(
            (energy - moved_energy) / temperature
        ):
            thresholds, energy = moved, moved_energy
        if excess == 0 and share < best_energy:
            best, kept, best_energy = found, moved, share
    return best, kept


def move_thresholds(
    thresholds: Mapping[str, float], names: list[str], rng: np.random.Generator
) -> dict[str, float]:
    """Return ``thresholds`` with one to three of ``names`` raised or, less often, lowered."""
    moved = dict(thresholds)
    count = min(len(names), int(rng.integers(1, 4)))
    for name in rng.choice(names, size=count, replace=False):
        step = rng.normal(0.1, 0.15)
        moved[str(name)] = float(np.clip(moved.get(str(name), 0.0) + step, 0.0, 1.5))
    return moved
