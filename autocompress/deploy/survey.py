"""Build a latency table by measurement: each shape of layer alone, then whole models."""

import copy
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.deploy.calibrate import (
    MeasuredModel,
    calibrate_table,
    draw_masks,
    read_widths,
)
from autocompress.deploy.measure import name_processor, pin_threads
from autocompress.deploy.probe import Pass, Probe, find_probes
from autocompress.deploy.stopwatch import Bench, Tools, make_tools
from autocompress.errors import SettingError
from autocompress.graph.layers import LayerGraph
from autocompress.masks.latency import Fit, FitError, Grid, LatencyTable, LayerTimes, Machine
from autocompress.masks.mask import full_masks
from autocompress.shrink.compact import compact_model

Layout = Literal["contiguous", "channels_last"]
LAYOUTS: Mapping[Layout, torch.memory_format] = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}
ALIGN_SHAPES = 3  # Costliest shapes that say whether odd widths pay.


@dataclass(frozen=True, kw_only=True)
class SurveySettings:
    """How a latency table is measured.

    Attributes:
        batch: Samples of one pass.
        threads: PyTorch threads inside an operation; 0 leaves them as they are.
        align: Widths are measured in multiples of this; they are executed so as well if widths
            between them turn out to take as long as the next multiple, see :func:`_find_align`.
        widths: Points of the ladder of widths, 2 or more.
        columns: Points of the ladder of kept columns, 2 or more.
        turns: Calls of each, 1 or more; the median counts.
        calibrate: Models in random shapes that the table is fitted to, 0 for none.
        hold_out: Further ones that only its error is stated from.
        seed: Of the random shapes.
    """

    batch: int = 1
    threads: int = 1
    align: int = 8
    widths: int = 5
    columns: int = 6
    turns: int = 9
    calibrate: int = 12
    hold_out: int = 9
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"batch": 1, "threads": 0, "align": 1, "widths": 2, "columns": 2, "turns": 1}
        least |= {"calibrate": 0, "hold_out": 0, "seed": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                got = getattr(self, name)
                raise SettingError(f"survey.{name}: want {value} or more, got {got}")


def survey_latency(
    model: nn.Module,
    graph: LayerGraph,
    example: Tensor,
    settings: SurveySettings,
    tools: Tools | None = None,
) -> LatencyTable:
    """Return how long ``model`` takes on this device in any width, by measurement.

    Args:
        model: Dense; not changed, measured in evaluation mode.
        graph: Its layers and coupling groups.
        example: Any samples on the device and in the type to measure in, shape (samples, ...).
        settings: What to measure.
        tools: What to measure with; those of :func:`make_tools` when None.
    """
    table, models = survey_models(model, graph, example, settings, tools)
    names = [layer.name for layer in graph.layers]
    return calibrate_table(table, names, models, 1 + settings.calibrate)


def survey_models(
    model: nn.Module,
    graph: LayerGraph,
    example: Tensor,
    settings: SurveySettings,
    tools: Tools | None = None,
) -> tuple[LatencyTable, list[MeasuredModel]]:
    """Return a table that is not fitted yet, and the models to do that with, the dense one first.

    Args:
        model: See :func:`survey_latency`, also for all else.
        graph: Its layers.
        example: Any samples.
        settings: What to measure.
        tools: What to measure with.
    """
    tools = tools or make_tools()
    model = copy.deepcopy(model).eval()
    with pin_threads(settings.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        inputs = torch.randn(settings.batch, *example.shape[1:]).to(example)
        layout = _choose_layout(model, inputs, settings, tools)
        inputs = _arrange(inputs, layout)
        model.to(memory_format=LAYOUTS[layout])
        probes = find_probes(model, graph, inputs)
        kinds = sorted(dict.fromkeys(probes.values()), key=lambda probe: probe.macs)
        bench = Bench(_make_reference(kinds, inputs, layout), settings.turns, tools.measure)
        surveyor = _Surveyor(inputs, layout, settings, tools, bench)
        grids = [surveyor.time_shape(probe) for probe in kinds]
        align = _find_align(kinds, grids, surveyor)
        models = _time_models(model, graph, surveyor, align)
        unit = bench.unit_us
        table = LatencyTable(
            machine=describe_machine(inputs, layout),
            align=align,
            shapes=tuple(_scale(one, unit) for one in grids),
            layers={name: kinds.index(probe) for name, probe in probes.items()},
            fit=Fit(),
            error=FitError(median=0.0, high=0.0, models=0),
            dense_us=unit * models[0].micros,
        )
    return table, [replace(one, micros=unit * one.micros) for one in models]


@dataclass(frozen=True)
class _Surveyor:
    """Measures one shape of layer, or makes whole models to measure."""

    inputs: Tensor
    layout: Layout
    settings: SurveySettings
    tools: Tools
    bench: Bench

    def time_shape(self, probe: Probe) -> LayerTimes:
        """Return the times of all widths, in passes of the reference."""
        align, points = self.settings.align, self.settings.widths
        rows = probe.list_widths(probe.filters, align, points)
        across = probe.list_widths(probe.channels, align, points)
        if probe.is_depthwise:  # As many channels as filters: the filters say it all.
            across = [probe.channels]
        dense = self.bench.time(self._list_dense(probe, across, rows))
        column = None
        if probe.groups == 1 and probe.columns > 1:
            kept = probe.list_columns(self.settings.columns)
            column = make_grid(rows, kept, self.bench.time(self._list_columns(probe, rows, kept)))
        times = make_grid(across, rows, dense)
        return LayerTimes(positions=probe.positions, dense=times, column=column)

    def time_dense(self, layers: Sequence[tuple[Probe, int]]) -> dict[int, float]:
        """Return the times of dense layers of one width, in passes of the reference."""

        def make() -> Iterator[tuple[Hashable, Pass]]:
            for place, (probe, width) in enumerate(layers):
                layer = probe.make_layer(width, width, self.inputs)
                yield from self._list_forms(place, layer, probe, width)

        return self.bench.time(make())

    def _list_dense(
        self, probe: Probe, across: Sequence[int], rows: Sequence[int]
    ) -> Iterator[tuple[Hashable, Pass]]:
        for channels in across:
            for filters in rows:
                width = probe.count_channels(channels, filters)
                layer = probe.make_layer(width, filters, self.inputs)
                yield from self._list_forms((channels, filters), layer, probe, width)

    def _list_columns(
        self, probe: Probe, rows: Sequence[int], kept: Sequence[int]
    ) -> Iterator[tuple[Hashable, Pass]]:
        for filters in rows:
            for count in kept:
                layer = probe.make_columns(filters, count, self.inputs)
                yield from self._list_forms((filters, count), layer, probe, probe.channels)

    def _list_forms(
        self, name: Hashable, layer: nn.Module, probe: Probe, channels: int
    ) -> Iterator[tuple[Hashable, Pass]]:
        maps = _arrange(probe.make_inputs(channels, self.inputs), self.layout)
        layer = layer.to(memory_format=LAYOUTS[self.layout])
        with torch.inference_mode():
            forms = self.tools.forms(layer, maps)
        for form in forms.values():
            yield name, Pass(form, maps, LAYOUTS[self.layout])


def make_grid(
    first: Sequence[int], second: Sequence[int], shares: Mapping[tuple[int, int], float]
) -> Grid:
    """Return measured times as a grid that does not fall with more width.

    Where they fall, it lies halfway between the closest grids above and below: noise then cancels.
    """
    times = np.array([[shares[one, other] for other in second] for one in first])
    above = np.maximum.accumulate(np.maximum.accumulate(times, axis=0), axis=1)
    turned = times[::-1, ::-1]
    below = np.minimum.accumulate(np.minimum.accumulate(turned, axis=0), axis=1)[::-1, ::-1]
    micros = tuple(tuple(row) for row in ((above + below) / 2).tolist())
    return Grid(first=tuple(first), second=tuple(second), micros=micros)


def _find_align(kinds: Sequence[Probe], grids: Sequence[LayerTimes], surveyor: _Surveyor) -> int:
    """Return the multiple that widths are executed in: 1 where odd widths run in proportion.

    The costliest shapes are timed at a width between two multiples, for which the table has the
    time of the next multiple and what lies between: it is the nearer one for most of them.
    """
    align = surveyor.settings.align
    wide = [
        (probe, times)
        for probe, times in zip(kinds, grids, strict=True)
        if probe.groups == 1 and min(probe.channels, probe.filters) >= 2 * align
    ][-ALIGN_SHAPES:]
    if align == 1 or not wide:
        return align
    widths = [min(probe.channels, probe.filters) // (2 * align) * align for probe, _ in wide]
    odd = [width + align // 2 - 1 for width in widths]
    found = surveyor.time_dense([(probe, one) for (probe, _), one in zip(wide, odd, strict=True)])
    votes = []
    for place, (_, times) in enumerate(wide):
        between, above = (
            float(times.dense.spread(np.array([float(one)]), np.array([float(one)]))[0, 0])
            for one in (odd[place], widths[place] + align)
        )
        votes.append(found[place] < (between + above) / 2)
    return 1 if 2 * sum(votes) > len(votes) else align


def _time_models(
    model: nn.Module, graph: LayerGraph, surveyor: _Surveyor, align: int
) -> list[MeasuredModel]:
    """Return the dense model and some in random shapes, timed in passes of the reference."""
    settings, tools, inputs = surveyor.settings, surveyor.tools, surveyor.inputs
    parts = settings.calibrate, settings.hold_out
    masks = list(draw_masks(model, graph, align, sum(parts), settings.seed))
    dense = Pass(tools.make_fast(model, inputs), inputs)
    dense_units = surveyor.bench.time([("dense", dense)])["dense"]

    def make() -> Iterator[tuple[Hashable, Pass]]:
        for number in _mix(*parts):
            compact = compact_model(model, graph, masks[number])
            yield number, Pass(tools.make_fast(compact, inputs), inputs)

    # What slows a model down, a full cache above all, slows the dense one: they are compared.
    times = Bench(dense, settings.turns, tools.measure).time(make())
    first = MeasuredModel(*read_widths(graph, full_masks(graph)), dense_units)
    return [
        first,
        *(
            MeasuredModel(*read_widths(graph, one), dense_units * times[number])
            for number, one in enumerate(masks)
        ),
    ]


def _mix(fitted: int, held_out: int) -> list[int]:
    """Return the numbers of models, those to fit and those held out spread over the time."""
    places = [(one + 0.5) / fitted for one in range(fitted)]
    places += [(one + 0.5) / held_out for one in range(held_out)]
    return sorted(range(len(places)), key=lambda number: places[number])


def _choose_layout(
    model: nn.Module, inputs: Tensor, settings: SurveySettings, tools: Tools
) -> Layout:
    """Return the memory layout in which the dense model is faster."""
    if inputs.dim() != 4:
        return "contiguous"
    calls: dict[str, Pass] = {
        name: Pass(copy.deepcopy(model).to(memory_format=form), _arrange(inputs, name))
        for name, form in LAYOUTS.items()
    }
    timings = tools.measure(calls, settings.turns)
    return min(LAYOUTS, key=lambda name: timings[name].median_s)


def _make_reference(kinds: Sequence[Probe], inputs: Tensor, layout: Layout) -> Pass:
    """Return the shape in the middle, dense: neither too short to time nor too long to repeat."""
    probe = kinds[len(kinds) // 2]
    layer = probe.make_layer(probe.channels, probe.filters, inputs)
    maps = _arrange(probe.make_inputs(probe.channels, inputs), layout)
    return Pass(layer.to(memory_format=LAYOUTS[layout]), maps)


def _arrange(inputs: Tensor, layout: Layout) -> Tensor:
    return inputs.contiguous(memory_format=LAYOUTS[layout]) if inputs.dim() == 4 else inputs


def _scale(times: LayerTimes, unit: float) -> LayerTimes:
    column = None if times.column is None else times.column.scaled(unit)
    return replace(times, dense=times.dense.scaled(unit), column=column)


def describe_machine(inputs: Tensor, layout: str) -> Machine:
    """Return where and how a pass of ``inputs`` would be measured now.

    Args:
        inputs: One batch.
        layout: Memory format of the maps.
    """
    device = inputs.device
    is_cuda = device.type == "cuda"
    return Machine(
        device=device.type,
        name=torch.cuda.get_device_name(device) if is_cuda else name_processor(),
        threads=torch.get_num_threads(),
        batch=len(inputs),
        dtype=str(inputs.dtype).removeprefix("torch."),
        layout=layout,
        torch=torch.__version__,
    )
