"""What a pruned model costs: from counts before it exists, and from masks afterwards."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property

import numpy as np

from autocompress.graph.layers import OUTSIDE, Layer, LayerGraph
from autocompress.jobs import Candidate
from autocompress.masks.coded import FLOAT_BITS, count_weight_bits, log2_choose
from autocompress.masks.latency import BoundTable, LatencyTable
from autocompress.masks.mask import (
    Masks,
    kept_inputs,
    kept_norm,
    kept_rows,
    open_columns,
    weight_mask,
)

FLOAT_BYTES = 4
INDEX_BYTES = 4
NORM_STATISTICS = 2  # running mean and variance
NORM_AFFINE = 2  # gain and shift
NO_BITS: Mapping[str, int] = {}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one model costs.

    Where single weights are kept, ``weights``, ``params`` and ``coded_bytes`` count those, while
    ``macs`` and ``bytes`` count whole kept columns: so they run and so float32 tensors store
    them, zeros inside included.

    Attributes:
        weights: Kept weights of convolutions and linear layers, without biases.
        params: All parameters: kept weights, biases, gains and shifts of norms.
        macs: Multiply-accumulates of the layers for one sample.
        bytes: float32 parameters and norm statistics, and 4 bytes for each kept column of a
            layer whose columns must be gathered.
        coded_bytes: What an entropy coder needs, see :func:`count_weight_bits`: positions of
            kept columns and weights, weights at their bit widths with one scale per layer;
            biases, parameters and statistics of norms in float32.
        latency: Predicted microseconds of one pass of one batch; None without a latency table.
    """

    weights: int
    params: int
    macs: int
    bytes: int
    coded_bytes: int
    latency: float | None = None

    def list_known(self) -> dict[str, float]:
        """Return what is known of it, by resource."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the cost of a model follows from: layers in the order of the graph, then sums.

    Each resource is worked out when it is asked for, which most are not while a search tries
    counts.

    Attributes:
        rows: Kept filters; shape (layers,).
        columns: Kept columns; shape (layers,).
        left: Columns that the kept inputs leave; shape (layers,).
        gathered: Kept columns that need an index.
        kept: Kept weights; shape (layers,).
        bits: Bit widths; shape (layers,).
        positions: Outputs per sample; shape (layers,).
        biases: Kept biases.
        affine: Channels of norms with gain and shift.
        norms: Channels of norms.
        channels: Kept input channels; shape (layers,); None without ``times``.
        times: Of these layers; None where latency is not asked for.
    """

    rows: np.ndarray
    columns: np.ndarray
    left: np.ndarray
    gathered: int
    kept: np.ndarray
    bits: np.ndarray
    positions: np.ndarray
    biases: int
    affine: int
    norms: int
    channels: np.ndarray | None = None
    times: BoundTable | None = None

    @cached_property
    def block(self) -> np.ndarray:
        """Return the weights in kept filters and columns; shape (layers,)."""
        return self.rows * self.columns

    @property
    def others(self) -> int:
        """Return the parameters that are no weights."""
        return self.biases + NORM_AFFINE * self.affine

    @property
    def weights(self) -> int:
        """Return :attr:`Cost.weights`."""
        return int(self.kept.sum())

    @property
    def params(self) -> int:
        """Return :attr:`Cost.params`."""
        return self.weights + self.others

    @property
    def macs(self) -> int:
        """Return :attr:`Cost.macs`."""
        return int((self.block * self.positions).sum())

    @property
    def bytes(self) -> int:
        """Return :attr:`Cost.bytes`."""
        stored = int(self.block.sum()) + self.others + NORM_STATISTICS * self.norms
        return FLOAT_BYTES * stored + INDEX_BYTES * self.gathered

    @property
    def coded_bytes(self) -> int:
        """Return :attr:`Cost.coded_bytes`."""
        bits = count_weight_bits(self.block, self.kept, self.bits)
        bits = bits + log2_choose(self.left, self.columns)
        floats = self.others + NORM_STATISTICS * self.norms
        return math.ceil(FLOAT_BYTES * floats + float(bits.sum()) / 8)

    @property
    def latency(self) -> float | None:
        """Return :attr:`Cost.latency`."""
        if self.times is None or self.channels is None:
            return None
        return float(self.times.predict(self.channels, self.rows, self.columns))

    def price(self) -> Cost:
        """Return all of them."""
        return Cost(**{one.name: getattr(self, one.name) for one in fields(Cost)})


class CostModel:
    """Costs of candidates by matrix products over per-group counts; about 10 us each."""

    def __init__(self, graph: LayerGraph, table: LatencyTable | None = None) -> None:
        """Prepare to count.

        Args:
            graph: The model of which units and columns are kept.
            table: Predicts its latency, or that of a larger model with the same layers.

        Raises:
            SettingError: The table has no times of a layer.
        """
        self.graph = graph
        self.table = table
        self.times = None if table is None else table.bind(graph)
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

    def count(
        self,
        keeps: np.ndarray,
        columns: np.ndarray,
        weights: np.ndarray | None = None,
        bits: np.ndarray | None = None,
    ) -> Cost:
        """Return the cost of what :meth:`measure` takes."""
        return self.measure(keeps, columns, weights, bits).price()

    def measure(
        self,
        keeps: np.ndarray,
        columns: np.ndarray,
        weights: np.ndarray | None = None,
        bits: np.ndarray | None = None,
    ) -> Sizes:
        """Return what the cost of so many kept units, columns and weights follows from.

        Args:
            keeps: Shape (groups,).
            columns: Shape (layers,); columns kept, at most ``count_open(keeps)``.
            weights: Shape (layers,); weights kept, at most rows times columns; None keeps all.
            bits: Shape (layers,); bit widths, ``FLOAT_BITS`` for float32; None is that for all.
        """
        kept = np.append(keeps, 1)
        rows = self.count_rows(keeps)
        left = self.count_open(keeps)
        return Sizes(
            rows=rows,
            columns=columns,
            left=left,
            gathered=int(columns[columns < left].sum()),
            kept=rows * columns if weights is None else weights,
            bits=np.full(len(rows), FLOAT_BITS) if bits is None else bits,
            positions=self.positions,
            biases=int(rows[self.has_bias].sum()),
            affine=int(np.rint(self.affine @ kept)),
            norms=int(np.rint(self.norms @ kept)),
            channels=None if self.times is None else self.inputs @ kept,
            times=self.times,
        )

    def time_layers(self, keeps: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the predicted microseconds of each layer by itself; shape (layers,).

        Args:
            keeps: Shape (groups,).
            columns: Shape (layers,).

        Raises:
            ValueError: There is no latency table.
        """
        if self.table is None:
            raise ValueError("want a latency table, got none")
        channels, rows = self.inputs @ np.append(keeps, 1), self.count_rows(keeps)
        alone = [
            self.table.predict([layer.name], channels[[at]], rows[[at]], columns[[at]])
            for at, layer in enumerate(self.graph.layers)
        ]
        return np.array(alone, dtype=np.float64) - self.table.fit.fixed

    def count_rows(self, keeps: np.ndarray) -> np.ndarray:
        """Return the filters of each layer when ``keeps`` units of each group are kept.

        Args:
            keeps: Shape (groups,), in the order of ``graph.groups``.

        Returns:
            Shape (layers,), int64.
        """
        return np.rint(self.rows @ np.append(keeps, 1)).astype(np.int64)

    def count_candidate(self, candidate: Candidate) -> Cost:
        """Return the cost of ``candidate``; groups and layers it does not name are full."""
        keeps = np.array(
            [candidate.filters.get(group.name, group.size) for group in self.graph.groups]
        )
        left = self.count_open(keeps)
        wanted = [candidate.columns.get(layer.name, big) for layer, big in self._layers(left)]
        columns = np.minimum(np.array(wanted), left)
        block = self.count_rows(keeps) * columns
        kept = [candidate.weights.get(layer.name, big) for layer, big in self._layers(block)]
        bits = read_bits(self.graph, candidate.bits)
        return self.count(keeps, columns, np.minimum(np.array(kept), block), bits)

    def _layers(self, left: np.ndarray) -> list[tuple[Layer, int]]:
        return list(zip(self.graph.layers, left.tolist(), strict=True))


def is_depthwise(layer: Layer) -> bool:
    """Return whether every filter of ``layer`` reads one channel of its own."""
    return layer.groups > 1 and layer.groups == layer.channels


def read_bits(graph: LayerGraph, bits: Mapping[str, int]) -> np.ndarray:
    """Return the bit width of each layer, ``FLOAT_BITS`` where none is named; int64."""
    return np.array([bits.get(layer.name, FLOAT_BITS) for layer in graph.layers])


def count_masks(graph: LayerGraph, masks: Masks, bits: Mapping[str, int] = NO_BITS) -> Cost:
    """Return the cost of what ``masks`` keep, once it is physically removed.

    Args:
        graph: The layers and their coupling groups.
        masks: What is kept.
        bits: Bit widths by layer.
    """
    rows, columns, left, weights, gathered = [], [], [], [], 0
    for layer in graph.layers:
        rows.append(int(kept_rows(masks, layer).sum()))
        inputs = kept_inputs(masks, layer)
        if layer.groups == 1:
            opened = open_columns(masks, layer)
            columns.append(int(masks.columns[layer.name].sum()))
            left.append(int(opened.sum()))
            # Dead inputs are sliced away; any other missing column has to be gathered around.
            missing = opened & ~masks.columns[layer.name]
            gathered += columns[-1] if bool(missing.any()) else 0
        else:
            depth = 1 if is_depthwise(layer) else int(inputs.sum()) // layer.groups
            columns.append(depth * layer.area)
            left.append(columns[-1])
        single = layer.name in masks.weights
        weights.append(int(weight_mask(masks, layer).sum()) if single else rows[-1] * columns[-1])
    kept = [(norm.affine, int(kept_norm(masks, norm).sum())) for norm in graph.norms]
    biased = zip(graph.layers, rows, strict=True)
    sizes = Sizes(
        rows=np.array(rows),
        columns=np.array(columns),
        left=np.array(left),
        gathered=gathered,
        kept=np.array(weights),
        bits=read_bits(graph, bits),
        positions=np.array([layer.positions for layer in graph.layers]),
        biases=sum(count for layer, count in biased if layer.has_bias),
        affine=sum(count for affine, count in kept if affine),
        norms=sum(count for _, count in kept),
    )
    return sizes.price()
