"""What a pruned model costs: from counts before it exists, and from masks afterwards."""

from dataclasses import dataclass

import numpy as np

from autocompress.graph.layers import OUTSIDE, Layer, LayerGraph
from autocompress.jobs import Candidate
from autocompress.masks.mask import Masks, kept_inputs, kept_norm, kept_rows, open_columns

FLOAT_BYTES = 4
INDEX_BYTES = 4
NORM_STATISTICS = 2  # running mean and variance
NORM_AFFINE = 2  # gain and shift
RESOURCES = ("macs", "params", "bytes")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one model costs.

    Attributes:
        weights: Weights of convolutions and linear layers, without biases.
        params: All parameters: weights, biases, gains and shifts of norms.
        macs: Multiply-accumulates of the layers for one sample.
        bytes: float32 parameters and norm statistics, and 4 bytes for each kept column of a
            layer whose columns must be gathered.
    """

    weights: int
    params: int
    macs: int
    bytes: int


class CostModel:
    """Costs of candidates by matrix products over per-group counts; about 10 us each."""

    def __init__(self, graph: LayerGraph) -> None:
        self.graph = graph
        group_of = np.empty(graph.units + 1, dtype=np.int64)
        group_of[OUTSIDE] = len(graph.groups)
        for number, group in enumerate(graph.groups):
            group_of[list(group.units)] = number
        sizes = np.array([group.size for group in graph.groups] + [1], dtype=np.float64)

        def spread(units: tuple[int, ...]) -> np.ndarray:
            counts = np.bincount(group_of[list(units)], minlength=len(sizes))
            return counts / sizes

        self.sizes = sizes[:-1].astype(np.int64)
        self.rows = np.array([spread(layer.out_units) for layer in graph.layers])
        self.inputs = np.array([spread(layer.in_units) for layer in graph.layers])
        self.area = np.array([layer.area for layer in graph.layers])
        self.positions = np.array([layer.positions for layer in graph.layers])
        self.has_bias = np.array([layer.has_bias for layer in graph.layers])
        self.conv_groups = np.array([layer.groups for layer in graph.layers])
        self.depthwise = np.array([is_depthwise(layer) for layer in graph.layers])
        none = np.zeros(len(sizes))
        self.norms = sum((spread(norm.units) for norm in graph.norms), none)
        self.affine = sum((spread(norm.units) for norm in graph.norms if norm.affine), none)
        self.column_index = np.array(
            [i for i, layer in enumerate(graph.layers) if layer.groups == 1], dtype=np.int64
        )

    def count_open(self, keeps: np.ndarray) -> np.ndarray:
        """Return the columns left in each layer when ``keeps`` units of each group are kept.

        Args:
            keeps: Shape (groups,), in the order of ``graph.groups``.

        Returns:
            Shape (layers,), int64.
        """
        inputs = self.inputs @ np.append(keeps, 1)
        per_filter = np.where(self.depthwise, 1, inputs / self.conv_groups)
        return np.rint(per_filter * self.area).astype(np.int64)

    def count(self, keeps: np.ndarray, columns: np.ndarray) -> Cost:
        """Return the cost of ``keeps`` units per group and ``columns`` per layer.

        Args:
            keeps: Shape (groups,).
            columns: Shape (layers,); columns kept, at most ``count_open(keeps)``.
        """
        kept = np.append(keeps, 1)
        rows = np.rint(self.rows @ kept).astype(np.int64)
        weights = rows * columns
        biases = int(rows[self.has_bias].sum())
        statistics = NORM_STATISTICS * int(np.rint(self.norms @ kept))
        indices = int(columns[columns < self.count_open(keeps)].sum())
        params = int(weights.sum()) + biases + NORM_AFFINE * int(np.rint(self.affine @ kept))
        return Cost(
            weights=int(weights.sum()),
            params=params,
            macs=int((weights * self.positions).sum()),
            bytes=FLOAT_BYTES * (params + statistics) + INDEX_BYTES * indices,
        )

    def count_candidate(self, candidate: Candidate) -> Cost:
        """Return the cost of ``candidate``; groups and layers it does not name are full."""
        keeps = np.array(
            [candidate.filters.get(group.name, group.size) for group in self.graph.groups]
        )
        left = self.count_open(keeps)
        wanted = [candidate.columns.get(layer.name, big) for layer, big in self._layers(left)]
        return self.count(keeps, np.minimum(np.array(wanted), left))

    def _layers(self, left: np.ndarray) -> list[tuple[Layer, int]]:
        return list(zip(self.graph.layers, left.tolist(), strict=True))


def is_depthwise(layer: Layer) -> bool:
    """Return whether every filter of ``layer`` reads one channel of its own."""
    return layer.groups > 1 and layer.groups == layer.channels


def count_masks(graph: LayerGraph, masks: Masks) -> Cost:
    """Return the cost of what ``masks`` keep, once it is physically removed."""
    weights = biases = macs = indices = 0
    for layer in graph.layers:
        rows = int(kept_rows(masks, layer).sum())
        inputs = kept_inputs(masks, layer)
        if layer.groups == 1:
            columns = int(masks.columns[layer.name].sum())
            # Dead inputs are sliced away; any other missing column has to be gathered around.
            missing = open_columns(masks, layer) & ~masks.columns[layer.name]
            indices += columns if bool(missing.any()) else 0
        else:
            depth = 1 if is_depthwise(layer) else int(inputs.sum()) // layer.groups
            columns = depth * layer.area
        weights += rows * columns
        biases += rows * layer.has_bias
        macs += rows * columns * layer.positions
    kept = [(norm.affine, int(kept_norm(masks, norm).sum())) for norm in graph.norms]
    statistics = NORM_STATISTICS * sum(count for _, count in kept)
    params = weights + biases + NORM_AFFINE * sum(count for affine, count in kept if affine)
    return Cost(
        weights=weights,
        params=params,
        macs=macs,
        bytes=FLOAT_BYTES * (params + statistics) + INDEX_BYTES * indices,
    )
