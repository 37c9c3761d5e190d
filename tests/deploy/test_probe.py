"""Layers made for a stopwatch stand for those of the model."""

from collections.abc import Callable

import pytest
import torch

from autocompress.deploy.probe import Pass, find_probes
from autocompress.graph.trace import trace_graph
from tests.hand_made import (
    IMAGE,
    HandMade,
    make_depthwise,
    make_grouped,
    make_residual,
    make_sequential,
)
from tests.nets import draw_input, make_random

ALL = pytest.mark.parametrize(
    "make", [make_sequential, make_residual, make_depthwise, make_grouped]
)
EXAMPLE = torch.zeros(3, *IMAGE)


@ALL
def test_a_dense_probe_is_the_layer_again(make: Callable[[], HandMade]) -> None:
    made = make()

    probes = find_probes(made.model, made.graph, EXAMPLE)

    for layer in made.graph.layers:
        probe, module = probes[layer.name], made.model.get_submodule(layer.name)
        again = probe.make_layer(probe.channels, probe.filters, EXAMPLE)
        inputs = probe.make_inputs(probe.channels, EXAMPLE)
        # Probes have a bias, as all layers have whose norms are folded.
        again.load_state_dict({"bias": torch.zeros(layer.filters), **module.state_dict()})
        assert torch.equal(again(inputs), module(inputs))
        assert inputs.shape[0] == len(EXAMPLE)
        assert again(inputs)[0].numel() == layer.filters * layer.positions
        assert probe.macs == layer.weights * layer.positions


@ALL
def test_layers_of_any_listed_width_run(make: Callable[[], HandMade]) -> None:
    made = make()
    for probe in find_probes(made.model, made.graph, EXAMPLE).values():
        rows = probe.list_widths(probe.filters, 2, 4)
        across = probe.list_widths(probe.channels, 2, 4)
        assert (rows[-1], across[-1]) == (probe.filters, probe.channels)
        assert all(width % 2 == 0 for width in rows[:-1] + across[:-1])
        channels = probe.count_channels(across[0], rows[0])
        inputs = probe.make_inputs(channels, EXAMPLE)
        outputs = probe.make_layer(channels, rows[0], EXAMPLE)(inputs)
        assert outputs[0].numel() == rows[0] * probe.positions
        if probe.groups == 1:
            kept = probe.list_columns(4)
            assert kept[-1] == probe.columns
            column = probe.make_columns(rows[0], kept[0], EXAMPLE)
            assert column.get_parameter("weight").shape == (rows[0], kept[0])
            inputs = probe.make_inputs(probe.channels, EXAMPLE)
            assert column(inputs)[0].numel() == outputs[0].numel()


def test_equal_shapes_are_one_probe() -> None:
    model, example = make_random("resnet20"), draw_input("resnet20")
    probes = find_probes(model, trace_graph(model, example), example)
    assert probes["stages.0.0.conv1"] == probes["stages.0.2.conv2"]
    assert len(set(probes.values())) == 9  # the stem, 3 stages, 2 steps with shortcuts, fc


def test_ladders_reach_from_little_to_all() -> None:
    model, example = make_random("resnet20"), draw_input("resnet20")
    probe = find_probes(model, trace_graph(model, example), example)["stages.2.2.conv2"]
    assert probe.list_widths(64, 8, 5) == [8, 16, 24, 40, 64]
    assert probe.list_widths(20, 8, 5) == [8, 16, 20]
    assert probe.list_widths(3, 8, 5) == [3]
    assert probe.list_columns(7) == [9, 18, 36, 72, 144, 288, 576]


def test_maps_are_brought_to_the_layout() -> None:
    maps = torch.zeros(1, 3, 4, 4)
    last = torch.channels_last
    brought = Pass(torch.nn.Identity(), maps, last)()
    assert isinstance(brought, torch.Tensor)
    assert brought.is_contiguous(memory_format=last)
    assert Pass(torch.nn.Identity(), maps)() is maps
