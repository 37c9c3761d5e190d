"""Which single weights of a model are kept."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from autocompress.errors import SettingError
from autocompress.graph.layers import LayerGraph
from autocompress.masks.live import keep_paths
from autocompress.masks.paths import WeightMasks
from autocompress.masks.rank import Normalize, choose_best, keep_weights, rank_layer

__all__ = ["Allocation", "WeightMasks", "allocate_weights", "keep_weights", "project_weights"]


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """How one budget of weights is shared among the layers; also its TOML table.

    Attributes:
        normalize: What makes the weights of different layers comparable: ``none`` compares
            abs(w), ``std`` abs(w) / std of the layer about 0, ``lamp`` w^2 / sum of those w'^2 of
            the layer that are not smaller (arXiv:2010.07611).
        minimum: Least weights of each layer, 0 or more.
        live_paths: Whether weights on dead paths are removed and their budget spent again.
    """

    normalize: Normalize = "lamp"
    minimum: int = 1
    live_paths: bool = True

    def __post_init__(self) -> None:
        if self.minimum < 0:
            raise SettingError(f"allocation.minimum: want 0 or more, got {self.minimum}")


def project_weights(weight: Tensor, keep: int) -> Tensor:
    """Return the nearest tensor to ``weight`` with at most ``keep`` non-zero entries.

    Keeping the largest magnitudes is the exact projection (arXiv:1804.03294).

    Args:
        weight: Any shape, floating point, finite.
        keep: Weights to keep, 0..entries.

    Returns:
        A new tensor with the shape, dtype and device of ``weight``.
    """
    return torch.where(keep_weights(weight.abs(), keep), weight, torch.zeros_like(weight))


def allocate_weights(
    graph: LayerGraph,
    weights: Mapping[str, Tensor],
    keep: int,
    allocation: Allocation,
    *,
    within: WeightMasks | None = None,
) -> WeightMasks:
    """Return masks that keep the ``keep`` weights of highest score in the whole model.

    With live paths, a budget spent on weights of dead units is spent again until ``keep`` live
    weights are found, or no more can live. With ``normalize = "none"``, no minimum and no live
    paths this is the exact projection on "at most ``keep`` weights".

    Args:
        graph: The layers and their coupling groups.
        weights: Weights of every layer by name, in their own shapes, finite, on one device.
        keep: Weights to keep, 0 or more and at least ``minimum`` per layer.
        allocation: Scores, minimum and live paths.
        within: Keep nothing outside these masks; everything is allowed when None.

    Returns:
        Masks of all layers; the same arguments give the same masks.

    Raises:
        SettingError: ``keep`` is less than the minimum of all layers.
    """
    inside = {layer.name: None if within is None else within[layer.name] for layer in graph.layers}
    sizes = {
        name: weights[name].numel() if mask is None else int(mask.sum())
        for name, mask in inside.items()
    }
    least = sum(min(size, allocation.minimum) for size in sizes.values())
    if keep < least:
        raise SettingError(f"keep must be {least} or more for {len(sizes)} layers, got {keep}")
    ranks = {
        name: rank_layer(
            weights[name], mask, normalize=allocation.normalize, minimum=allocation.minimum
        )
        for name, mask in inside.items()
    }
    total = sum(sizes.values())
    keep = min(keep, total)
    if not allocation.live_paths:
        return choose_best(ranks, keep)
    return keep_paths(graph, ranks, keep, total)
