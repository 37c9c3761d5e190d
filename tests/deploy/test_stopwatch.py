"""Passes as multiples of a reference, on false clocks; and the real tools, without any clock."""

from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import nn

from autocompress.deploy.calibrate import draw_masks
from autocompress.deploy.measure import Timing
from autocompress.deploy.probe import Pass
from autocompress.deploy.stopwatch import TOGETHER, Bench, make_tools, time_passes
from autocompress.graph.trace import trace_graph
from autocompress.shrink.columns import make_column_layer
from autocompress.shrink.compact import compact_model
from tests.nets import draw_input, make_random

NOTHING = torch.zeros(1)


class Busy(nn.Module):
    """Stands for something that takes so long."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class SlowingClock:
    """Times each call by what it says, ever slower, and now and then with a jump."""

    def __init__(self) -> None:
        self.drift, self.chunks = 1.0, list[int]()

    def measure(self, calls: Mapping[str, Pass], turns: int) -> dict[str, Timing]:
        self.chunks.append(len(calls))
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(turns):
            self.drift *= 1.1
            for place, (name, call) in enumerate(calls.items()):
                assert isinstance(call.module, Busy)
                jump = 100.0 if (turn + place) % 5 == 0 else 1.0
                seconds[name].append(call.module.seconds * self.drift * jump)
        return {name: Timing(seconds=tuple(some)) for name, some in seconds.items()}


def test_neither_drift_nor_jumps_change_a_multiple() -> None:
    clock = SlowingClock()
    bench = Bench(Pass(Busy(0.5), NOTHING), 11, clock.measure)
    wanted = {number: 0.1 * (number + 1) for number in range(2 * TOGETHER + 3)}

    times = bench.time((number, Pass(Busy(us), NOTHING)) for number, us in wanted.items())

    assert times == pytest.approx({number: 2 * us for number, us in wanted.items()})
    assert clock.chunks == [TOGETHER + 1, TOGETHER + 1, 4]
    assert bench.unit_us > 0.5e6


def test_the_least_of_a_name_counts_and_no_more_are_held_than_needed() -> None:
    made = []

    def make() -> Iterator[tuple[str, Pass]]:
        for number in range(2 * TOGETHER):
            made.append(number)
            yield f"name {number % 2}", Pass(Busy(1.0 + number), NOTHING)

    def measure(calls: Mapping[str, Pass], turns: int) -> dict[str, Timing]:
        assert len(made) % TOGETHER == 0
        return SlowingClock().measure(calls, turns)

    times = Bench(Pass(Busy(1.0), NOTHING), 11, measure).time(make())

    assert times == pytest.approx({"name 0": 1.0, "name 1": 2.0})


def test_real_tools_measure_and_keep_the_outputs() -> None:
    tools, model = make_tools(), make_random("digits_cnn")
    inputs = draw_input("digits_cnn")
    graph = trace_graph(model, inputs)
    for masks in draw_masks(model, graph, 8, 3, seed=1):
        compact = compact_model(model, graph, masks)
        for format_ in (torch.contiguous_format, torch.channels_last):
            maps = inputs.contiguous(memory_format=format_)
            with torch.inference_mode():
                assert torch.allclose(tools.make_fast(compact, maps)(maps), compact(maps))


def test_real_times_are_one_for_each_turn() -> None:
    calls = {"one": Pass(nn.ReLU(), NOTHING), "other": Pass(nn.Sigmoid(), NOTHING)}
    timings = time_passes(calls, 3)
    assert [len(timings[name].seconds) for name in calls] == [3, 3]
    assert min(timings["one"].seconds + timings["other"].seconds) >= 0


def test_layers_have_forms_and_all_else_has_one() -> None:
    forms, conv = make_tools().forms, nn.Conv2d(3, 8, 3)
    column = make_column_layer(conv, torch.arange(27) % 2 == 0)
    maps = torch.randn(2, 3, 5, 5)
    assert list(forms(nn.ReLU(), maps)) == ["plain"]
    for layer in (conv, column):
        some = forms(layer, maps)
        assert len(some) > 1
        for form in some.values():
            assert torch.allclose(form(maps), layer(maps), atol=1e-5)
