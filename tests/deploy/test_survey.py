"""The survey on a false machine, whose times are a known function of the shapes."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.deploy.calibrate import draw_masks, read_widths
from autocompress.deploy.measure import Timing
from autocompress.deploy.probe import Pass
from autocompress.deploy.stopwatch import Tools
from autocompress.deploy.survey import SurveySettings, make_grid, survey_latency
from autocompress.errors import SettingError
from autocompress.graph.layers import LayerGraph
from autocompress.graph.trace import trace_graph
from autocompress.masks.latency import LatencyTable
from autocompress.masks.mask import full_masks
from autocompress.shrink.columns import ColumnConv2d, ColumnLinear
from autocompress.shrink.compact import compact_model

EXAMPLE = torch.zeros(1, 3, 6, 6)
SETTINGS = SurveySettings(batch=2, turns=3, widths=4, columns=4, calibrate=9, hold_out=6)


class Net(nn.Module):
    """Two layers of one shape, a depthwise one and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 32, 3, padding=1)
        self.third = nn.Conv2d(32, 32, 3, padding=1)
        self.depth = nn.Conv2d(32, 32, 3, padding=1, stride=2, groups=32)
        self.last = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.third(self.second(self.first(images).relu()).relu()).relu()
        return self.last(self.depth(maps).relu().mean((2, 3)))


@dataclass(frozen=True)
class FalseMachine:
    """A machine that takes straight lines in each width, and drifts from turn to turn.

    Attributes:
        drift: By how much each turn is slower than the one before it.
        scale: Of the layers within a model.
        per_element: Microseconds for each output within a model.
        fixed: Microseconds of a model.
        channels_last: By how much that layout is slower.
        align: Convolutions take as long as in the next multiple of this, both ways.
    """

    drift: float = 1.0
    scale: float = 1.3
    per_element: float = 0.002
    fixed: float = 40.0
    channels_last: float = 1.5
    align: int = 8

    def measure(self, calls: Mapping[str, Pass], turns: int) -> dict[str, Timing]:
        times = {name: self.time(call.module, call.inputs) for name, call in calls.items()}
        return {
            name: Timing(seconds=tuple(1e-6 * us * self.drift**turn for turn in range(turns)))
            for name, us in times.items()
        }

    def time(self, module: nn.Module, inputs: Tensor) -> float:
        """Return the microseconds of a layer, or of a model."""
        seen: list[tuple[float, int]] = []

        def see(one: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
            forms = [self.time_form(one, args[0], out)]
            if one is not module and isinstance(one, ColumnConv2d | ColumnLinear):
                # Within a model it is executed dense where that is faster.
                channels = args[0].shape[1]
                forms.append(self.time_dense(channels * self.area(one), *self.outputs(one, out)))
            seen.append((min(forms), out.numel()))

        kinds = (nn.Conv2d, nn.Linear, ColumnConv2d, ColumnLinear)
        layers = [one for one in module.modules() if isinstance(one, kinds)]
        hooks = [one.register_forward_hook(see) for one in layers]
        module(inputs)
        for hook in hooks:
            hook.remove()
        slower = 1.0
        if inputs.dim() == 4 and not inputs.is_contiguous():
            slower = self.channels_last
        if module in layers:
            return slower * seen[0][0]
        layers_us, elements = (sum(part) for part in zip(*seen, strict=True))
        return slower * (self.scale * layers_us + self.per_element * elements + self.fixed)

    def time_form(self, layer: nn.Module, inputs: Tensor, out: Tensor) -> float:
        rows, positions = self.outputs(layer, out)
        columns = layer.get_parameter("weight")[0].numel()
        if isinstance(layer, nn.Conv2d | nn.Linear):
            channels = layer.get_parameter("weight").shape[1]
            if channels > self.align:
                columns = columns // channels * (channels + -channels % self.align)
            if rows > self.align and isinstance(layer, nn.Conv2d):
                rows += -rows % self.align
            return self.time_dense(columns, rows, positions)
        return 3 + 0.1 * columns + rows * positions * (0.02 + 0.003 * columns)

    def time_dense(self, columns: int, rows: int, positions: int) -> float:
        return 2 + rows * positions * (0.01 + 0.001 * columns)

    @staticmethod
    def outputs(layer: nn.Module, out: Tensor) -> tuple[int, int]:
        rows = len(layer.get_parameter("weight"))
        return rows, out[0].numel() // rows

    @staticmethod
    def area(layer: nn.Module) -> int:
        return layer.kernel[0] * layer.kernel[1] if isinstance(layer, ColumnConv2d) else 1


def make_fakes(machine: FalseMachine) -> Tools:
    return Tools(
        measure=machine.measure,
        forms=lambda layer, inputs: {"plain": layer},
        make_fast=lambda model, example: model,
    )


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net()


@pytest.fixture(scope="module")
def graph(net: nn.Module) -> LayerGraph:
    return trace_graph(net, EXAMPLE)


@pytest.fixture(scope="module")
def table(net: nn.Module, graph: LayerGraph) -> LatencyTable:
    return survey_latency(net, graph, EXAMPLE, SETTINGS, make_fakes(FalseMachine()))


def test_the_fit_finds_what_the_machine_does(table: LatencyTable) -> None:
    machine = FalseMachine()
    assert table.fit.scale == pytest.approx(machine.scale, rel=1e-6)
    assert table.fit.per_element == pytest.approx(machine.per_element, rel=1e-6)
    assert table.fit.fixed == pytest.approx(machine.fixed, rel=1e-6)
    assert (table.error.median, table.error.high) == pytest.approx((0, 0), abs=1e-9)
    assert table.error.models == SETTINGS.hold_out


def test_other_models_take_what_is_predicted(
    net: nn.Module, graph: LayerGraph, table: LatencyTable
) -> None:
    machine, inputs = FalseMachine(), torch.zeros(2, 3, 6, 6)
    bound = table.bind(graph)
    for masks in [full_masks(graph), *draw_masks(net, graph, SETTINGS.align, 9, seed=77)]:
        counts = read_widths(graph, masks)
        measured = machine.time(compact_model(net, graph, masks), inputs)
        assert float(bound.predict(*counts)) == pytest.approx(measured, rel=1e-9)
    assert table.dense_us == pytest.approx(machine.time(net, inputs))


@pytest.mark.parametrize("align", [1, 8])
def test_odd_widths_are_priced_as_the_machine_runs_them(
    net: nn.Module, graph: LayerGraph, align: int
) -> None:
    machine = FalseMachine(align=align)
    table = survey_latency(net, graph, EXAMPLE, SETTINGS, make_fakes(machine))

    assert table.align == align
    widths = np.array([[19.0], [24.0]])
    odd, above = table.predict(["second"], widths, widths, 9 * widths).tolist()
    assert (odd == above) == (align == 8)


def test_equal_layers_share_a_grid(table: LatencyTable) -> None:
    assert table.layers["second"] == table.layers["third"]
    assert len(table.shapes) == 4
    assert table.shapes[table.layers["depth"]].column is None
    assert table.shapes[table.layers["second"]].column is not None


def test_the_table_says_where_it_holds(table: LatencyTable) -> None:
    assert table.machine.device == "cpu"
    assert table.machine.name
    assert (table.machine.batch, table.machine.threads) == (2, 1)
    assert (table.machine.dtype, table.machine.torch) == ("float32", torch.__version__)
    assert table.machine.layout == "contiguous"
    back = LatencyTable.from_json(json.loads(json.dumps(table.to_json())))
    assert back.to_json() == table.to_json()


def test_drift_is_only_a_factor(net: nn.Module, graph: LayerGraph, table: LatencyTable) -> None:
    drifting = make_fakes(FalseMachine(drift=1.2))

    slower = survey_latency(net, graph, EXAMPLE, SETTINGS, drifting)

    counts = [read_widths(graph, one) for one in draw_masks(net, graph, 8, 6, seed=5)]
    ratios = [
        float(slower.bind(graph).predict(*one) / table.bind(graph).predict(*one)) for one in counts
    ]
    assert ratios == pytest.approx([1.2] * 6)  # the median of three turns


def test_the_faster_layout_is_measured(net: nn.Module, graph: LayerGraph) -> None:
    few = replace(SETTINGS, calibrate=0, hold_out=0)
    tools = make_fakes(FalseMachine(channels_last=0.5))

    made = survey_latency(net, graph, EXAMPLE, few, tools)

    assert made.machine.layout == "channels_last"
    assert made.error.models == 0
    assert float(made.bind(graph).predict(*read_widths(graph, full_masks(graph)))) == (
        pytest.approx(made.dense_us)
    )


def test_the_fastest_form_counts(net: nn.Module, graph: LayerGraph, table: LatencyTable) -> None:
    class Half(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

    class HalfMachine(FalseMachine):
        def time(self, module: nn.Module, inputs: Tensor) -> float:
            if isinstance(module, Half):
                return super().time(module.layer, inputs) / 2
            return super().time(module, inputs)

    tools = replace(
        make_fakes(HalfMachine()), forms=lambda layer, _: {"plain": layer, "half": Half(layer)}
    )

    made = survey_latency(net, graph, EXAMPLE, SETTINGS, tools)

    for one, other in zip(made.shapes, table.shapes, strict=True):
        assert np.allclose(2 * one.dense.times, other.dense.times)


def test_the_model_and_the_generator_stay(net: nn.Module, graph: LayerGraph) -> None:
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    few = replace(SETTINGS, calibrate=1, hold_out=0)

    survey_latency(net, graph, EXAMPLE, few, make_fakes(FalseMachine()))

    assert net.training
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.stride() == before[name].stride()


@given(st.integers(0, 10_000))
def test_a_grid_lies_within_the_measured_and_never_falls(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (tuple(range(1, int(rng.integers(2, 6)))) for _ in range(2))
    times = {(one, other): 0.1 + rng.random() for one in first for other in second}

    grid = make_grid(first, second, times).times  # a Grid refuses times that fall

    for (one, other), measured in times.items():
        here = grid[one - 1, other - 1]
        below = [us for (a, b), us in times.items() if a <= one and b <= other]
        above = [us for (a, b), us in times.items() if a >= one and b >= other]
        assert here == pytest.approx((max(below) + min(above)) / 2)
        if max(below) == measured == min(above):
            assert here == measured


@pytest.mark.parametrize(
    "field", ["batch", "threads", "align", "widths", "columns", "turns", "calibrate", "hold_out"]
)
def test_wrong_settings_are_refused(field: str) -> None:
    with pytest.raises(SettingError, match=f"survey.{field}"):
        SurveySettings(**{field: -1})
