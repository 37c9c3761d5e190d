"""How much each unit and each column of a model matters, for allocations over all layers."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from autocompress.graph.layers import LayerGraph
from autocompress.masks.cost import is_depthwise
from autocompress.masks.mask import Masks, full_masks, weight_mask
from autocompress.masks.project import measure_energies, score_units

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Importance:
    """Squared L2 norms of the weights of a model's units and columns.

    Attributes:
        units: By group, of each unit over all the layers that it belongs to; shape (size,).
        columns: By layer, of each column; shape (columns,). Layers without a choice are missing.
    """

    units: Mapping[str, Floats]
    columns: Mapping[str, Floats]


def measure_importance(
    graph: LayerGraph, model: nn.Module, masks: Masks | None = None
) -> Importance:
    """Return how much units and columns matter; what ``masks`` leave out matters nothing."""
    inside = masks or full_masks(graph)
    energies: dict[str, Tensor] = {
        name: energy * weight_mask(inside, graph.by_name[name])
        for name, energy in measure_energies(graph, model).items()
    }
    scores = score_units(graph, energies, inside).numpy()
    return Importance(
        units={
            group.name: scores[group.start : group.start + group.size] for group in graph.groups
        },
        columns={
            layer.name: energies[layer.name].double().sum(0).numpy()
            for layer in graph.column_layers
            if not is_depthwise(layer)
        },
    )
