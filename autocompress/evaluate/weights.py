"""What a compressed model's weights are: how many are kept, how many values they have, their bits.

Rates of compression count kept weights; the bits say what they cost with and without saying
where they are, so that neither figure is mistaken for the other.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.errors import GraphError
from autocompress.graph.layers import LayerGraph
from autocompress.graph.trace import trace_graph
from autocompress.masks.paths import find_live_units, keep_between
from autocompress.quantize.entropy import VALUE_BITS, measure_bits, position_bits
from autocompress.shrink.columns import ColumnConv2d, ColumnLinear
from autocompress.shrink.expand import expand_columns, expand_weight

MOST_LEVELS = 2**8  # Of more values than this a layer's are not listed.

_Live = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class LayerFigures:
    """The weights of one layer.

    Attributes:
        name: Qualified module name.
        dense: Weights of the layer in the dense model; ``weights`` where that is unknown.
        weights: Weights that the layer has, zeros included.
        kept: Those that are not zero.
        biases: Biases of live filters that are not zero.
        dead: Kept weights into or out of dead units; None when it is unknown.
        levels: The distinct values of kept weights, rising; empty when they are too many.
        distinct: Number of distinct values.
        value_bits: Entropy-coded, see ``quantize.entropy``; 32 for each when all differ.
        table_bits: 32 for each distinct value; 0 when values are not coded.
        position_bits: To say which columns, and which weights in them, are kept.
    """

    name: str
    dense: int
    weights: int
    kept: int
    biases: int
    dead: int | None
    levels: tuple[float, ...]
    distinct: int
    value_bits: float
    table_bits: float
    position_bits: float

    @property
    def density(self) -> float:
        """Return the kept share of the dense layer."""
        return self.kept / self.dense if self.dense else 0.0

    @property
    def bits_per_weight(self) -> float:
        """Return the bits of the value of a kept weight, without table and position."""
        return self.value_bits / self.kept if self.kept else 0.0


@dataclass(frozen=True, kw_only=True)
class WeightFigures:
    """The weights of a model.

    Attributes:
        layers: In the order of the model's parameters.
        dense_others: Biases, gains and shifts of the dense model; of this one where unknown.
        norms: Gains and shifts of this one that are not zero.
    """

    layers: tuple[LayerFigures, ...]
    dense_others: int
    norms: int

    @property
    def dense(self) -> int:
        """Return the number of weights of the dense model."""
        return sum(layer.dense for layer in self.layers)

    @property
    def weights(self) -> int:
        """Return the number of weights that this model has, zeros included."""
        return sum(layer.weights for layer in self.layers)

    @property
    def kept(self) -> int:
        """Return the number of weights that are not zero."""
        return sum(layer.kept for layer in self.layers)

    @property
    def kept_with_others(self) -> int:
        """Return the number of kept weights, biases, gains and shifts."""
        return self.kept + self.norms + sum(layer.biases for layer in self.layers)

    @property
    def dead(self) -> int | None:
        """Return the number of kept weights on dead paths, None when it is unknown."""
        found = [layer.dead for layer in self.layers if layer.dead is not None]
        return sum(found) if len(found) == len(self.layers) else None

    @property
    def value_bytes(self) -> float:
        """Return the bytes of entropy-coded values, without tables and positions."""
        return sum(layer.value_bits for layer in self.layers) / 8

    @property
    def table_bytes(self) -> float:
        """Return the bytes of the tables of distinct values."""
        return sum(layer.table_bits for layer in self.layers) / 8

    @property
    def position_bytes(self) -> float:
        """Return the bytes that say which weights are kept."""
        return sum(layer.position_bits for layer in self.layers) / 8

    @property
    def coded_bytes(self) -> float:
        """Return the bytes of the weights' values, tables and positions."""
        return self.value_bytes + self.table_bytes + self.position_bytes

    @property
    def other_bytes(self) -> float:
        """Return the bytes of kept biases, gains and shifts as they are."""
        return (self.kept_with_others - self.kept) * VALUE_BITS / 8

    def to_metrics(self) -> dict[str, float]:
        """Return the totals by name; ``dead_weights`` is missing when it is unknown."""
        metrics = {
            "dense_weights": float(self.dense),
            "kept_weights": float(self.kept),
            "kept_with_biases": float(self.kept_with_others),
            "value_bytes": self.value_bytes,
            "table_bytes": self.table_bytes,
            "position_bytes": self.position_bytes,
            "coded_bytes": self.coded_bytes,
            "bias_bytes": self.other_bytes,
        }
        if self.dead is not None:
            metrics["dead_weights"] = float(self.dead)
        return metrics

    def to_json(self) -> dict[str, Any]:
        """Return all figures, of the layers too, as plain values."""
        layers = [
            {**asdict(layer), "density": layer.density, "bits_per_weight": layer.bits_per_weight}
            for layer in self.layers
        ]
        return {**self.to_metrics(), "layers": layers}


@torch.no_grad()
def describe_weights(
    model: nn.Module, graph: LayerGraph | None, *, dense: Mapping[str, int] | None = None
) -> WeightFigures:
    """Return the figures of a model, dense or smaller, also of one with column layers.

    Args:
        model: Zero weights are those that are not kept.
        graph: Of the model, of a column layer with all the columns that it chooses from; None
            leaves out what is dead, unless nothing can be.
        dense: Values of each parameter of the dense model by name, see
            ``store.artifacts.measure_dense``; None when ``model`` itself is to be compared with.
    """
    own = dict(model.named_parameters())
    sizes = dense or {name: parameter.numel() for name, parameter in own.items()}
    live = _find_live(model, graph) if graph is not None else None if _has_gaps(model) else {}
    weights = [name for name, parameter in own.items() if parameter.ndim > 1]
    biases = {_name_bias(name) for name in weights}
    layers = tuple(_describe_layer(model, name, sizes, live) for name in weights)
    return WeightFigures(
        layers=layers,
        dense_others=sum(sizes.values()) - sum(layer.dense for layer in layers),
        norms=sum(
            int((parameter != 0).sum())
            for name, parameter in own.items()
            if parameter.ndim < 2 and name not in biases
        ),
    )


def trace_stored(model: nn.Module, example: Tensor) -> LayerGraph | None:
    """Return the graph of a finished model for :func:`describe_weights`, None if it has none.

    None also where no layer has an empty row or column, so that nothing can be dead: tracing a
    large model takes a minute.

    Args:
        model: May have column layers.
        example: A batch on the model's device.
    """
    if not _has_gaps(model):
        return None
    try:
        return trace_graph(expand_columns(model), example)
    except GraphError:
        return None


def _has_gaps(model: nn.Module) -> bool:
    """Return whether a filter or input of any layer has no kept weight."""
    for module in model.modules():
        if isinstance(module, ColumnConv2d | ColumnLinear):
            return True
        for weight in module.parameters(recurse=False):
            if weight.ndim > 1:
                groups = module.groups if isinstance(module, nn.Conv2d) else 1
                filters, inputs, *kernel = weight.shape
                kept = (weight != 0).reshape(groups, filters // groups, inputs, prod(kernel))
                pairs = kept.any(3)
                if not (pairs.any(2).all() and pairs.any(1).all()):
                    return True
    return False


def _describe_layer(
    model: nn.Module, name: str, sizes: Mapping[str, int], live: _Live | None
) -> LayerFigures:
    """Return the figures of the layer whose weight is the parameter called ``name``."""
    weight = model.get_parameter(name).detach()
    owner, _, last = name.rpartition(".")
    bits = measure_bits(weight)
    paths, filters = (live or {}).get(owner, (weight != 0, torch.ones(()).bool()))
    bias = dict(model.named_parameters()).get(_name_bias(name))
    alive = 0 if bias is None else int(((bias != 0) & filters.to(bias.device)).sum())
    return LayerFigures(
        name=owner if owner and last == "weight" else name,
        dense=sizes.get(name, weight.numel()),
        weights=weight.numel(),
        kept=bits.kept,
        biases=alive,
        dead=None if live is None else bits.kept - int(paths.sum()),
        levels=_list_levels(weight, bits.distinct),
        distinct=bits.distinct,
        value_bits=bits.values,
        table_bits=bits.table,
        position_bits=bits.places + _count_column_bits(model.get_submodule(owner)),
    )


def _name_bias(weight: str) -> str:
    """Return the name of the bias that belongs to the parameter called ``weight``."""
    return weight.removesuffix("weight") + "bias"


def _find_live(model: nn.Module, graph: LayerGraph) -> _Live:
    """Return kept weights on living paths, and living filters, of each layer of ``graph``."""
    masks = {layer.name: _read_weight(model, layer.name) != 0 for layer in graph.layers}
    units = find_live_units(graph, masks)
    kept = keep_between(graph, units, masks)
    return {
        layer.name: (kept[layer.name], units[torch.tensor(layer.out_units, device=units.device)])
        for layer in graph.layers
    }


def _read_weight(model: nn.Module, name: str) -> Tensor:
    module = model.get_submodule(name)
    if isinstance(module, ColumnConv2d | ColumnLinear):
        return expand_weight(module)
    return model.get_parameter(f"{name}.weight")


def _list_levels(weight: Tensor, distinct: int) -> tuple[float, ...]:
    if distinct > MOST_LEVELS:
        return ()
    return tuple(torch.unique(weight[weight != 0]).tolist())


def _count_column_bits(module: nn.Module) -> float:
    """Return the bits that say which columns a column layer reads; 0 for any other."""
    if isinstance(module, ColumnConv2d):
        return position_bits(
            module.channels * module.kernel[0] * module.kernel[1], len(module.columns)
        )
    if isinstance(module, ColumnLinear):
        return position_bits(module.features, len(module.columns))
    return 0.0
