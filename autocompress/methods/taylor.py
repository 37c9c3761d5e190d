"""One-shot pruning: keep what the loss would miss most, to first order."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor, nn

from autocompress.errors import EvaluationError, SettingError
from autocompress.graph.layers import LayerGraph
from autocompress.masks.cost import is_depthwise
from autocompress.masks.project import Scores, column_units, rank_masks
from autocompress.methods.base import Found, Request
from autocompress.train.batches import Epochs
from autocompress.train.effort import TRAINING, spend
from autocompress.train.loop import autocast, fork_seed


@dataclass(frozen=True, kw_only=True)
class TaylorSettings:
    """How much data the scores see.

    Attributes:
        batches: Training batches over which scores are averaged, 1 or more.
    """

    batches: int = 10

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise SettingError(f"method.taylor.batches: want 1 or more, got {self.batches}")


@dataclass(frozen=True, kw_only=True)
class Taylor:
    """Keep the filters and columns whose removal would change the loss most, to first order.

    The first term of the loss's Taylor series in the weights of a group is sum w dL/dw (Molchanov
    et al., arXiv:1611.06440; over weights, arXiv:1906.10771). For a unit the sum runs over its
    filters in one layer, or over the columns of one layer that read it; then comes the absolute
    value, then the sum over those layers, then the mean over batches: in a residual net terms of
    different layers do not cancel. For a column the sum runs over its filters, and a single
    weight stands for itself. Nothing is trained, and batch norms keep their statistics.

    Attributes:
        settings: How many batches.
    """

    settings: TaylorSettings = field(default_factory=TaylorSettings)

    def find_masks(self, request: Request) -> Found:
        """Return what scores most; ``request.model`` is left as it was, in evaluation mode."""
        scores = self.measure_scores(request)
        masks = rank_masks(request.graph, scores, request.candidate, within=request.within)
        return Found(masks=masks, figures={})

    def measure_scores(self, request: Request) -> Scores:
        """Return the scores of all units and columns, and of weights where they are counted.

        Raises:
            EvaluationError: A gradient is infinite or NaN.
        """
        graph, model, train = request.graph, request.model, request.train
        taken = _Sums(graph, tuple(request.candidate.weights))
        parameters = {one.name: model.get_parameter(f"{one.name}.weight") for one in graph.layers}
        model.eval()
        with fork_seed(request.seed):
            epochs = Epochs(request.source, train.batch_size, request.seed)
            for inputs, targets in islice(epochs, self.settings.batches):
                model.zero_grad(set_to_none=True)
                with autocast(inputs, on=train.autocast):
                    value = request.loss(model, inputs, targets)
                value.backward()
                spend(TRAINING * len(inputs))
                taken.add(parameters)
        model.zero_grad(set_to_none=True)
        scores = taken.give(self.settings.batches)
        if not bool(scores.units.isfinite().all()):
            raise EvaluationError("want finite gradients of the training loss, got others")
        return scores

    def count_samples(self, steps: int, batch_size: int) -> int:
        """Return three passes for each sample of the batches, whatever the steps."""
        return TRAINING * self.settings.batches * batch_size


class _Sums:
    """Scores, summed over batches."""

    def __init__(self, graph: LayerGraph, fine: tuple[str, ...]) -> None:
        self._graph, self._fine = graph, fine
        self._units = torch.zeros(graph.units, dtype=torch.float64)
        self._columns: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Take the weights and gradients as they are now."""
        terms = {}
        for name, one in parameters.items():
            gradient = torch.zeros_like(one) if one.grad is None else one.grad
            terms[name] = (one.detach() * gradient).flatten(1)
        self._units += sum_units(self._graph, terms)
        for layer in self._graph.column_layers:
            _add_to_(self._columns, layer.name, terms[layer.name].sum(0).abs().cpu())
        for name in self._fine:
            _add_to_(self._weights, name, terms[name].abs().cpu())

    def give(self, batches: int) -> Scores:
        """Return the means."""
        return Scores(
            self._units / batches,
            {name: one / batches for name, one in self._columns.items()},
            {name: one / batches for name, one in self._weights.items()},
        )


def _add_to_(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    sums[name] = sums[name] + value if name in sums else value


def sum_units(graph: LayerGraph, terms: Mapping[str, Tensor]) -> Tensor:
    """Return for each unit the sum over layers of abs(the sum of its terms in that layer).

    Args:
        graph: The layers and their coupling groups.
        terms: For each layer, shape (filters, columns), of any sign. A layer counts once by the
            unit's filters and once by the columns that read it, those of depthwise layers not.

    Returns:
        Shape (graph.units,), float64, on the CPU.
    """
    total = torch.zeros(graph.units + 1, dtype=torch.float64)  # The last one is OUTSIDE.
    for layer in graph.layers:
        term = terms[layer.name]
        parts = [(torch.tensor(layer.out_units), term.sum(1))]
        if not is_depthwise(layer):
            parts.append((column_units(layer), term.sum(0)))
        for units, values in parts:
            sums = torch.zeros_like(total)
            sums.index_add_(0, units % len(total), values.double().cpu())
            total += sums.abs()
    return total[: graph.units]
