"""What the removal of single weights costs, comparable between layers."""

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from autocompress.graph.layers import LayerGraph
from autocompress.masks.weights import Allocation, WeightMasks, allocate_weights, keep_weights
from autocompress.methods.steps import PruneStep
from autocompress.train.effort import TRAINING, spend
from autocompress.train.objective import BatchLoss

DECAY = 0.999  # As Adam's, whose diagonal it is.

NORMALIZE: dict[str, Literal["none", "std", "lamp"]] = {
    "curvature": "none",
    "lamp": "lamp",
    "std": "std",
    "magnitude": "none",
}


class Curvature:
    """The diagonal of the loss's curvature as Adam takes it: sqrt(E g^2), a mean over steps.

    With it, w^2 sqrt(E g^2) / 2 is what a quadratic model of the loss says the removal of w costs
    (LeCun et al., Optimal Brain Damage, 1990), comparable between layers.

    Attributes:
        squares: Mean squared gradients by layer, in the shape of the weights.
    """

    def __init__(self, model: nn.Module, graph: LayerGraph) -> None:
        """Start from nothing."""
        self._parameters = {
            layer.name: model.get_parameter(f"{layer.name}.weight") for layer in graph.layers
        }
        self.squares = {name: torch.zeros_like(one) for name, one in self._parameters.items()}

    @torch.no_grad()
    def add_gradient(self, decay: float = DECAY) -> None:
        """Take the gradients as they are now into the mean."""
        found = {name: one.grad for name, one in self._parameters.items()}
        gradients = [one for one in found.values() if one is not None]
        squares = [self.squares[name] for name, one in found.items() if one is not None]
        torch._foreach_mul_(squares, decay)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - decay)

    def load(self, squares: Mapping[str, Tensor]) -> None:
        """Set the mean squared gradients; they may come from another device."""
        for name, one in self.squares.items():
            one.copy_(squares[name])

    def scale(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights whose squares are the costs of their removal."""
        return {name: one * self.squares[name].pow(0.25) for name, one in weights.items()}


def measure_curvature(
    model: nn.Module, graph: LayerGraph, batches: Iterator[tuple[Tensor, Tensor]], loss: BatchLoss
) -> Curvature:
    """Return the curvature over ``batches``, which end; ``model`` is not trained."""
    curvature = Curvature(model, graph)
    model.eval()  # Statistics of batch norms stay what they are.
    for count, (inputs, targets) in enumerate(batches, 1):
        model.zero_grad(set_to_none=True)
        loss(model, inputs, targets).backward()
        spend(TRAINING * len(inputs))
        curvature.add_gradient(1 - 1 / count)
    model.zero_grad(set_to_none=True)
    return curvature


def choose_weights(
    step: PruneStep,
    graph: LayerGraph,
    weights: Mapping[str, Tensor],
    *,
    keep: int,
    within: WeightMasks,
    curvature: Curvature | None,
) -> WeightMasks:
    """Return which weights to keep: those of most score under one budget, or layer by layer.

    Args:
        step: Says how weights are scored, and the counts by layer if there are any.
        graph: Of the model.
        weights: By layer.
        keep: Weights of the whole model; with counts by layer, as far as they are on the way.
        within: Nothing else is kept.
        curvature: For the score of that name.
    """
    scaled = dict(weights) if curvature is None else curvature.scale(weights)
    inside = {name: one * within[name] for name, one in scaled.items()}
    if step.layers:
        counts = _share_among(step.layers, keep, within)
        return {
            name: within[name] & keep_weights(inside[name].abs(), count)
            for name, count in counts.items()
        }
    allocation = Allocation(normalize=NORMALIZE[step.score], minimum=step.minimum)
    return allocate_weights(graph, inside, keep, allocation, within=within)


def _share_among(layers: Mapping[str, int], keep: int, within: WeightMasks) -> dict[str, int]:
    """Return counts by layer between those of ``within`` and the wanted ones, ``keep`` in all."""
    there = {name: int(one.sum()) for name, one in within.items()}
    wanted = {name: min(layers.get(name, count), count) for name, count in there.items()}
    excess = sum(there.values()) - sum(wanted.values())
    share = max(0, keep - sum(wanted.values())) / max(1, excess)
    return {name: count + round(share * (there[name] - count)) for name, count in wanted.items()}
