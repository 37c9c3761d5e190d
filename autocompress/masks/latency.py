"""How long one forward pass takes on a device, from counts, before the model exists.

A layer runs dense, or it gathers its columns and multiplies; each form has a table of measured
times over two widths. The sum over the layers is brought to whole models by three numbers that
were fitted to measured ones. More of anything never takes less time, so a search may bisect.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import SettingError
from autocompress.graph.layers import LayerGraph
from autocompress.settings import parse_settings, settings_to_json

Floats = NDArray[np.float64]

VERSION = 1
_SLACK = 1e-9  # Counts worked out by a search are as good as integers within this.


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Times at the crossings of two axes; between them they are interpolated linearly.

    Attributes:
        first: Rising widths, 1 or more.
        second: Rising widths, 1 or more.
        micros: Microseconds for each of ``first`` a row over ``second``; above 0, and nowhere
            falling along either axis.
    """

    first: tuple[int, ...]
    second: tuple[int, ...]
    micros: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        for axis in (self.first, self.second):
            if not axis or axis[0] < 1 or any(np.diff(axis) <= 0):
                raise SettingError(f"latency table: want rising widths of 1 or more, got {axis}")
        sizes = {len(row) for row in self.micros}
        if len(self.micros) != len(self.first) or sizes != {len(self.second)}:
            raise SettingError("latency table: want one time for each pair of widths")
        times = self.times
        if not (np.isfinite(times).all() and (times > 0).all()):
            raise SettingError("latency table: want finite times above 0")
        if any((np.diff(times, axis=axis) < 0).any() for axis in (0, 1)):
            raise SettingError("latency table: want times that do not fall with more width")

    @property
    def times(self) -> Floats:
        """Return the times; shape (first, second)."""
        return np.array(self.micros, dtype=np.float64)

    def scaled(self, factor: float) -> "Grid":
        """Return the grid with ``factor`` times its times."""
        rows = (self.times * factor).tolist()
        return Grid(first=self.first, second=self.second, micros=tuple(map(tuple, rows)))

    def spread(self, first: Floats, second: Floats) -> Floats:
        """Return the times at all pairs of two axes, shape (first, second); flat outside."""
        over = np.array([np.interp(second, self.second, row) for row in self.times])
        return np.array([np.interp(first, self.first, some) for some in over.T]).T


@dataclass(frozen=True, kw_only=True)
class LayerTimes:
    """The times of one shape of layer.

    Attributes:
        positions: Outputs of one filter per sample.
        dense: Over input channels and filters, all columns kept.
        column: Over filters and columns kept; None for a layer whose columns are not chosen.
    """

    positions: int
    dense: Grid
    column: Grid | None = None

    def __post_init__(self) -> None:
        if self.positions < 1:
            raise SettingError(f"latency table: want 1 or more positions, got {self.positions}")


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What leads from the layers to the whole model, least squares over measured models.

    Attributes:
        scale: Of the sum of all layers.
        per_element: Microseconds for each output of a layer for the whole batch: norms,
            activations, sums.
        fixed: Microseconds of every pass.
    """

    scale: float = 1.0
    per_element: float = 0.0
    fixed: float = 0.0

    def __post_init__(self) -> None:
        values = (self.scale, self.per_element, self.fixed)
        if not all(isfinite(value) and value >= 0 for value in values):
            raise SettingError(f"latency table: want a fit of 0 or more, got {values}")


@dataclass(frozen=True, kw_only=True)
class FitError:
    """How far predictions lie from models that the fit has not seen, relative to measured.

    Attributes:
        median: Median of abs(predicted - measured) / measured.
        high: The 90 % quantile of it.
        models: Measured models behind these numbers.
    """

    median: float
    high: float
    models: int


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and how the times were measured.

    Attributes:
        device: Such as ``cpu`` or ``cuda``.
        name: Of the processor.
        threads: PyTorch threads inside an operation.
        batch: Samples of one pass.
        dtype: Such as ``float32``.
        layout: Memory format of the inputs, ``contiguous`` or ``channels_last``.
        torch: Its version.
    """

    device: str
    name: str
    threads: int
    batch: int
    dtype: str
    layout: str
    torch: str


@dataclass(frozen=True, kw_only=True, eq=False)
class LatencyTable:
    """Predicts the microseconds of one forward pass of one batch.

    A layer takes the time of its faster form at the next widths that the device likes: a model
    with other widths is executed padded with zero filters, so filters within one aligned width
    are free.

    Attributes:
        machine: Where it holds.
        align: Filters and channels are executed in multiples of this, or all of them.
        shapes: Times of each different shape of layer.
        layers: Place in ``shapes`` of each layer, by name.
        fit: From layers to whole models.
        error: What is known of its error.
        dense_us: Microseconds of the dense model as measured; for shares of it use what
            ``predict`` says of the dense counts.
        version: Of this record.
    """

    machine: Machine
    align: int
    shapes: tuple[LayerTimes, ...]
    layers: Mapping[str, int]
    fit: Fit
    error: FitError
    dense_us: float
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise SettingError(f"latency table: want version {VERSION}, got {self.version}")
        if self.align < 1:
            raise SettingError(f"latency table: want align of 1 or more, got {self.align}")
        if not all(0 <= place < len(self.shapes) for place in self.layers.values()):
            raise SettingError("latency table: a layer has a shape that is not there")

    def to_json(self) -> dict[str, Any]:
        """Return the table as plain values, for :meth:`from_json`."""
        return settings_to_json(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "LatencyTable":
        """Return the table of a record.

        Raises:
            SettingError: It is damaged, or of another version.
        """
        return parse_settings(cls, record)

    @cached_property
    def _bound(self) -> dict[tuple[str, ...], "BoundTable"]:
        return {}

    def bind(self, graph: LayerGraph) -> "BoundTable":
        """Return the table for the layers of ``graph``, in its order.

        Args:
            graph: The model that was measured, or a smaller one with the same names.

        Raises:
            SettingError: A layer has no times.
        """
        return self.bind_names([layer.name for layer in graph.layers])

    def bind_names(self, names: Sequence[str]) -> "BoundTable":
        """Return the table for some layers; made once for each choice.

        Raises:
            SettingError: A layer has no times.
        """
        key = tuple(names)
        if key not in self._bound:
            unknown = [name for name in key if name not in self.layers]
            if unknown:
                raise SettingError(f"latency table: no times of layer {unknown[0]!r}")
            some = [self.shapes[self.layers[name]] for name in key]
            self._bound[key] = BoundTable(some, self)
        return self._bound[key]

    def predict(
        self, names: Sequence[str], channels: Floats, rows: Floats, taken: Floats
    ) -> Floats:
        """Return the predicted microseconds, see :meth:`BoundTable.predict`.

        Args:
            names: The layers, in the order of the last axis.
            channels: Input channels kept; shape (..., layers).
            rows: Filters kept; shape (..., layers).
            taken: Columns kept; shape (..., layers).

        Raises:
            SettingError: A layer has no times.
        """
        return self.bind_names(names).predict(channels, rows, taken)


class BoundTable:
    """A latency table for certain layers in a certain order, ready for many predictions."""

    def __init__(self, shapes: Sequence[LayerTimes], table: LatencyTable) -> None:
        align, fit = table.align, table.fit
        self._step, self._fixed = 1.0 / align, fit.fixed
        dense: list[Floats] = []
        ends: list[tuple[Floats, Floats, Floats]] = []
        sizes: list[tuple[int, ...]] = []
        for shape in shapes:
            widths = [
                _align_widths(axis[-1], align) for axis in (shape.dense.first, shape.dense.second)
            ]
            # What norms and activations take rises with the filters, in either form alike.
            extra = fit.per_element * table.machine.batch * shape.positions * widths[1]
            times = fit.scale * shape.dense.spread(*widths) + extra
            dense.append(times.ravel())
            ends.append(_cut_lines(shape.column, widths[1], fit.scale, extra))
            sizes.append((*times.shape, times.size, *(len(part) for part in ends[-1])))
        count = np.array(sizes, dtype=np.float64).reshape(len(shapes), 6)
        self._channel_ends, self._row_ends = count[:, 0] - 1, count[:, 1] - 1
        self._widths = count[:, 1]
        self._lines = count[:, 4] / np.maximum(count[:, 1], 1)
        self._column_ends = count[:, 3] - 1
        self._dense_at, self._line_at, self._cell_at = (
            np.cumsum(count[:, place]) - count[:, place] for place in (2, 4, 3)
        )
        self._dense = np.concatenate([np.empty(0), *dense])
        self._cells = np.concatenate([np.empty(0), *(cells for cells, _, _ in ends)])
        self._starts = np.concatenate([np.empty(0), *(starts for _, starts, _ in ends)])
        self._slopes = np.concatenate([np.empty(0), *(slopes for _, _, slopes in ends)])

    def predict(self, channels: Floats, rows: Floats, taken: Floats) -> Floats:
        """Return the predicted microseconds of one pass; more of anything never takes less.

        Args:
            channels: Input channels kept, real numbers; shape (..., layers).
            rows: Filters kept, real numbers; shape (..., layers).
            taken: Columns kept, real numbers, all of the kept channels for a dense layer;
                shape (..., layers).

        Returns:
            Shape (...).
        """
        across = self._place(channels, self._channel_ends)
        down = self._place(rows, self._row_ends)
        dense = self._dense.take((across * self._widths + down + self._dense_at).astype(np.int64))
        columns = np.minimum(taken, self._column_ends)
        cells = self._cells.take((columns + self._cell_at).astype(np.int64))
        lines = (down * self._lines + cells + self._line_at).astype(np.int64)
        gathered = self._starts.take(lines) + self._slopes.take(lines) * columns
        times: Floats = np.add.reduce(np.minimum(dense, gathered), axis=-1) + self._fixed
        return times

    def _place(self, widths: Floats, ends: Floats) -> Floats:
        """Return which aligned width each of ``widths`` is executed at."""
        wanted = np.ceil(widths * self._step - (1 + _SLACK))
        return np.minimum(np.maximum(wanted, 0.0), ends)


def _align_widths(full: int, align: int) -> Floats:
    """Return the widths that are executed: the multiples of ``align`` below it and ``full``."""
    return np.append(np.arange(align, full, align), full).astype(np.float64)


def _cut_lines(
    column: Grid | None, rows: Floats, scale: float, extra: Floats
) -> tuple[Floats, Floats, Floats]:
    """Return the interpolation over columns as straight lines.

    Returns:
        For each whole number of columns its line, shape (columns + 1,); then where the lines
        start and how they rise, shape (rows * lines,), rows first.
    """
    if column is None:
        return np.zeros(1), np.full(len(rows), np.inf), np.zeros(len(rows))
    knots = np.array(column.second, dtype=np.float64)
    times = scale * column.spread(rows, knots) + extra[:, None]
    # Below the first knot the time is flat.
    slopes = np.diff(times, axis=1, prepend=times[:, :1]) / np.diff(knots, prepend=0.0)
    starts = times - slopes * knots
    cells = np.searchsorted(knots, np.arange(knots[-1] + 1), side="right")
    return np.minimum(cells, len(knots) - 1).astype(np.float64), starts.ravel(), slopes.ravel()
