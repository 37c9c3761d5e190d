"""Which weights a pipeline has removed, and which it holds at their levels."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from autocompress.graph.layers import LayerGraph
from autocompress.masks.weights import WeightMasks


@dataclass(frozen=True)
class Held:
    """What training may not change.

    Attributes:
        masks: Kept weights by layer.
        frozen: Weights held at their values by layer, all of them kept; a layer without any
            may be missing.
        scales: Distance of the levels by layer, for layers with frozen weights.
    """

    masks: WeightMasks
    frozen: WeightMasks = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)

    def count(self) -> int:
        """Return the number of kept weights."""
        return sum(int(mask.sum()) for mask in self.masks.values())


def hold_all(model: nn.Module, graph: LayerGraph) -> Held:
    """Return what keeps every weight of ``model``."""
    weights = read_weights(model, graph)
    return Held({name: torch.ones_like(one, dtype=torch.bool) for name, one in weights.items()})


def name_parameters(model: nn.Module, graph: LayerGraph) -> dict[str, nn.Parameter]:
    """Return the parameters that are the weights of the layers, by layer."""
    return {layer.name: model.get_parameter(f"{layer.name}.weight") for layer in graph.layers}


def read_weights(model: nn.Module, graph: LayerGraph) -> dict[str, Tensor]:
    """Return the weights by layer as they are now, without copying them."""
    return {name: one.detach() for name, one in name_parameters(model, graph).items()}


class Grip:
    """Puts back, after every optimiser step, what is held; made for one model and one ``Held``."""

    def __init__(self, model: nn.Module, graph: LayerGraph, held: Held) -> None:
        """Take the values of frozen weights as they are now."""
        # Parameters, not their tensors: a model that changes its memory format replaces those.
        weights = name_parameters(model, graph)
        self._weights: list[Tensor] = list(weights.values())
        self._free: list[Tensor] = []
        self._values: list[tuple[nn.Parameter, Tensor]] = []
        for name, weight in weights.items():
            mask, frozen = held.masks[name], held.frozen.get(name)
            self._free.append((mask if frozen is None else mask & ~frozen).to(weight))
            if frozen is not None:
                # Not a product with the mask: an infinite weight would become NaN.
                self._values.append((weight, weight.detach().where(frozen, 0.0)))

    @torch.no_grad()
    def apply_(self) -> None:
        """Zero what is removed and put frozen weights back."""
        torch._foreach_mul_(self._weights, self._free)
        for weight, value in self._values:
            weight.add_(value)
