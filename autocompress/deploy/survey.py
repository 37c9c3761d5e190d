"""Build a latency table by measurement: each shape of layer alone, then whole models.

Every call is timed in turns with one reference call, and counts as a multiple of it: a machine
that others use too drifts, but it drifts for both.
"""

import copy
import platform
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.deploy.calibrate import (
    MeasuredModel,
    calibrate_table,
    draw_masks,
    read_widths,
)
from autocompress.deploy.choose import FormCache, choose_forms
from autocompress.deploy.fold import fold_norms
from autocompress.deploy.forms import LAYER_TYPES, list_forms
from autocompress.deploy.measure import (
    Clock,
    Timing,
    measure_models,
    measure_together,
    pin_threads,
)
from autocompress.deploy.probe import Pass, Probe, find_probes
from autocompress.errors import SettingError
from autocompress.graph.layers import LayerGraph
from autocompress.masks.latency import (
    Fit,
    FitError,
    Grid,
    LatencyTable,
    LayerTimes,
    Machine,
)
from autocompress.masks.mask import full_masks
from autocompress.shrink.columns import ColumnConv2d, ColumnLinear
from autocompress.shrink.compact import compact_model
from autocompress.shrink.expand import expand_columns

Measure = Callable[[Mapping[str, Pass], int], Mapping[str, Timing]]
Forms = Callable[[nn.Module, Tensor], Mapping[str, nn.Module]]
MakeFast = Callable[[nn.Module, Tensor], nn.Module]

TOGETHER = 12  # Calls between two of the reference: drift within so few is small.
FORM_TURNS = 7  # Calls of each form when a whole model is made fast.
_REFERENCE = "reference"
Layout = Literal["contiguous", "channels_last"]
LAYOUTS: Mapping[Layout, torch.memory_format] = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}


@dataclass(frozen=True, kw_only=True)
class SurveySettings:
    """How a latency table is measured.

    Attributes:
        batch: Samples of one pass.
        threads: PyTorch threads inside an operation; 0 leaves them as they are.
        align: Widths are measured, and executed, in multiples of this.
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


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What a survey works with; tests bring their own.

    Attributes:
        measure: Times calls side by side, so many turns.
        forms: Modules that compute what a layer does on such inputs; the fastest counts.
        make_fast: Brings a whole model to the form in which it is executed.
    """

    measure: Measure
    forms: Forms
    make_fast: MakeFast


def time_passes(calls: Mapping[str, Pass], turns: int) -> Mapping[str, Timing]:
    """Return the times of ``calls``, see :func:`measure_together`."""
    device = next(iter(calls.values())).inputs.device
    with torch.inference_mode():
        return measure_together(calls, turns=turns, device=device, clock=_choose_clock(device))


def make_tools() -> Tools:
    """Return real ones: each layer in its fastest form, or all dense where that is faster."""
    cache = FormCache()

    def measure(
        models: Mapping[str, nn.Module], inputs: Tensor, *, turns: int
    ) -> dict[str, Timing]:
        clock = _choose_clock(inputs.device)
        return measure_models(models, inputs, turns=min(turns, FORM_TURNS), clock=clock)

    def make_fast(model: nn.Module, example: Tensor) -> nn.Module:
        folded = fold_norms(model, example).to(memory_format=_find_format(example))
        made = choose_forms(folded, example, cache=cache, measure=measure)[0]
        ways = {"forms": made}
        if any(isinstance(one, ColumnConv2d | ColumnLinear) for one in folded.modules()):
            ways["dense"] = expand_columns(folded).to(memory_format=_find_format(example))
        timings = measure(ways, example, turns=FORM_TURNS)
        return ways[min(ways, key=lambda name: timings[name].median_s)]

    return Tools(measure=time_passes, forms=_list_forms, make_fast=make_fast)


def _list_forms(layer: nn.Module, inputs: Tensor) -> Mapping[str, nn.Module]:
    return list_forms(layer, inputs) if isinstance(layer, LAYER_TYPES) else {"plain": layer}


def _choose_clock(device: torch.device) -> Clock:
    """Return the clock for ``device``: what one thread ran itself, as others may take its core."""
    is_alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if is_alone else time.perf_counter


class Bench:
    """Times passes as multiples of one reference pass, which is timed among them every turn."""

    def __init__(self, reference: Pass, turns: int, measure: Measure) -> None:
        self._reference, self._turns, self._measure = reference, turns, measure
        self._seconds: list[float] = []

    @property
    def unit_us(self) -> float:
        """Return the microseconds of the reference, the median of all its passes."""
        return 1e6 * median(self._seconds)

    def time(self, passes: Iterable[tuple[Hashable, Pass]]) -> dict[Any, float]:
        """Return the least time of each name, in passes of the reference.

        Args:
            passes: By name, made one after the other; a name may come more than once.
        """
        best: dict[Any, float] = {}
        rest = iter(passes)
        while some := list(islice(rest, TOGETHER)):
            calls = {str(number): one for number, (_, one) in enumerate(some)}
            timings = self._measure({_REFERENCE: self._reference, **calls}, self._turns)
            seconds = timings[_REFERENCE].seconds
            self._seconds += seconds
            for number, (name, _) in enumerate(some):
                pairs = zip(timings[str(number)].seconds, seconds, strict=True)
                share = median(one / max(other, 1e-12) for one, other in pairs)
                best[name] = min(share, best.get(name, share))
        return best


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
        models = _time_models(model, graph, surveyor)
        unit = bench.unit_us
        table = LatencyTable(
            machine=_describe(inputs, layout),
            align=settings.align,
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


def _time_models(model: nn.Module, graph: LayerGraph, surveyor: _Surveyor) -> list[MeasuredModel]:
    """Return the dense model and some in random shapes, timed in passes of the reference."""
    settings, tools, inputs = surveyor.settings, surveyor.tools, surveyor.inputs
    count = settings.calibrate + settings.hold_out
    masks = [full_masks(graph), *draw_masks(model, graph, settings.align, count, settings.seed)]

    def make() -> Iterator[tuple[Hashable, Pass]]:
        for number, one in enumerate(masks):
            yield number, Pass(tools.make_fast(compact_model(model, graph, one), inputs), inputs)

    times = surveyor.bench.time(make())
    return [
        MeasuredModel(*read_widths(graph, one), times[number]) for number, one in enumerate(masks)
    ]


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


def _find_format(maps: Tensor) -> torch.memory_format:
    is_last = maps.dim() == 4 and maps.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last and not maps.is_contiguous() else torch.contiguous_format


def _arrange(inputs: Tensor, layout: Layout) -> Tensor:
    return inputs.contiguous(memory_format=LAYOUTS[layout]) if inputs.dim() == 4 else inputs


def _scale(times: LayerTimes, unit: float) -> LayerTimes:
    column = None if times.column is None else times.column.scaled(unit)
    return replace(times, dense=times.dense.scaled(unit), column=column)


def _describe(inputs: Tensor, layout: Layout) -> Machine:
    device = inputs.device
    is_cuda = device.type == "cuda"
    return Machine(
        device=device.type,
        name=torch.cuda.get_device_name(device) if is_cuda else _name_processor(),
        threads=torch.get_num_threads(),
        batch=len(inputs),
        dtype=str(inputs.dtype).removeprefix("torch."),
        layout=layout,
        torch=torch.__version__,
    )


def _name_processor() -> str:
    """Return the processor as Linux calls it, or its family elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.processor() or platform.machine()
