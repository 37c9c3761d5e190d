import copy
import json
import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from autocompress.evaluate.weights import WeightFigures, describe_weights, trace_stored
from autocompress.graph.layers import LayerGraph
from autocompress.graph.trace import trace_graph
from autocompress.masks.mask import Masks, apply_masks_, close_masks, full_masks, parameter_masks
from autocompress.masks.paths import find_live_units, keep_live
from autocompress.shrink.compact import compact_model
from tests.nets import draw_input, draw_masks, make_random

NAMES = ["digits_cnn", "lenet5", "resnet20"]


def trace(name: str) -> tuple[nn.Module, LayerGraph]:
    model = make_random(name)
    return model, trace_graph(model, draw_input(name))


def prune_(model: nn.Module, graph: LayerGraph, density: float) -> dict[str, Tensor]:
    """Zero random weights of ``model``, and return the masks by layer."""
    generator = torch.Generator().manual_seed(0)
    masks = {}
    for layer in graph.layers:
        weight = model.get_parameter(f"{layer.name}.weight")
        masks[layer.name] = torch.rand(weight.shape, generator=generator) < density
    zero_(model, masks)
    return masks


@torch.no_grad()
def zero_(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        model.get_parameter(f"{name}.weight").mul_(mask)


def by_name(figures: WeightFigures, key: str) -> dict[str, object]:
    return {layer.name: getattr(layer, key) for layer in figures.layers}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("density", [1.0, 0.3, 0.01])
def test_figures_count_the_masks(name: str, density: float) -> None:
    model, graph = trace(name)
    masks = prune_(model, graph, density)

    figures = describe_weights(model, graph)

    live = keep_live(graph, masks)
    assert by_name(figures, "kept") == {key: int(mask.sum()) for key, mask in masks.items()}
    assert by_name(figures, "dead") == {
        key: int(mask.sum()) - int(live[key].sum()) for key, mask in masks.items()
    }
    assert by_name(figures, "weights") == {key: mask.numel() for key, mask in masks.items()}
    assert figures.kept == sum(int(mask.sum()) for mask in masks.values())
    assert figures.dense == figures.weights == sum(mask.numel() for mask in masks.values())
    assert figures.dense + figures.dense_others == sum(p.numel() for p in model.parameters())
    assert figures.dead == figures.kept - sum(int(mask.sum()) for mask in live.values())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_dense_keeps_everything(name: str) -> None:
    model, graph = trace(name)

    figures = describe_weights(model, graph)

    assert figures.kept_with_others == sum(p.numel() for p in model.parameters())
    assert figures.dead == 0
    assert figures.position_bytes == 0
    assert all(layer.density == 1 for layer in figures.layers)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_without_its_dead_units_has_the_same_figures_and_no_dead_paths(name: str) -> None:
    model, graph = trace(name)
    masks = keep_live(graph, prune_(model, graph, 0.02))
    zero_(model, masks)
    units = find_live_units(graph, masks)
    for group in graph.groups:
        units[group.start] = True  # A group that lost everything cannot be made smaller.
    whole = close_masks(graph, Masks(units, full_masks(graph).columns))
    small = compact_model(model, graph, whole)
    dense = {key: parameter.numel() for key, parameter in model.named_parameters()}

    masked = describe_weights(model, graph)
    figures = describe_weights(small, trace_stored(small, draw_input(name)), dense=dense)

    assert figures.weights < masked.weights
    for key in ("dense", "kept", "biases", "dead", "levels", "value_bits", "density"):
        assert by_name(figures, key) == by_name(masked, key)
    assert figures.dead == 0
    assert figures.dense_others == masked.dense_others
    assert figures.position_bytes < masked.position_bytes


@pytest.mark.parametrize("name", NAMES)
def test_left_out_columns_count_as_zeros(name: str) -> None:
    model, graph = trace(name)
    masks = draw_masks(graph)
    compact = compact_model(model, graph, masks)
    apply_masks_(model, parameter_masks(graph, masks, model))

    figures = describe_weights(compact, trace_stored(compact, draw_input(name)))
    masked = describe_weights(model, graph)

    for key in ("kept", "dead", "distinct", "value_bits"):
        assert by_name(figures, key) == by_name(masked, key)
    # Whole columns are cheaper to name than as many single weights.
    assert 0 < figures.position_bytes < masked.position_bytes


def make_levels(values: list[float], shape: tuple[int, ...]) -> nn.Module:
    first = nn.Linear(shape[1], shape[0])
    with torch.no_grad():
        flat = torch.tensor(values)[torch.arange(math.prod(shape)) % len(values)]
        first.weight.copy_(flat.reshape(shape))
        first.bias.zero_()
    return nn.Sequential(first, nn.ReLU(), nn.Linear(shape[0], 2))


def test_levels_and_their_bits_are_those_of_the_layer() -> None:
    model = make_levels([-0.5, 0.0, 0.25, 0.25], (16, 20))

    layer = describe_weights(model, None).layers[0]

    assert layer.levels == (-0.5, 0.25)
    assert (layer.kept, layer.distinct, layer.biases) == (240, 2, 0)
    entropy = -(math.log2(1 / 3) + 2 * math.log2(2 / 3)) / 3
    assert layer.bits_per_weight == pytest.approx(entropy)
    assert layer.table_bits == 64
    assert layer.position_bits == pytest.approx(math.log2(math.comb(320, 240)))


def test_binary_weights_cost_a_bit_and_no_position() -> None:
    model = make_levels([-0.5, 0.5], (16, 20))

    layer = describe_weights(model, None).layers[0]

    assert (layer.value_bits, layer.position_bits, layer.table_bits) == (320, 0, 64)


def test_a_bias_counts_with_a_living_filter_only() -> None:
    first, last = nn.Linear(3, 4), nn.Linear(4, 2)
    model = nn.Sequential(first, nn.ReLU(), last).eval()
    with torch.no_grad():
        first.weight[0] = 0.0  # Not fed.
        last.weight[:, 1] = 0.0  # Not read.
        first.bias[2] = 0.0

    figures = describe_weights(model, trace_graph(model, torch.zeros(1, 3)))

    assert by_name(figures, "biases") == {"0": 1, "2": 2}
    assert by_name(figures, "dead") == {"0": 3, "2": 2}
    assert figures.kept_with_others == 9 + 6 + 3


class Twice(nn.Module):
    """Runs a layer twice, and has a weight of its own: nothing that a graph knows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.table = nn.Parameter(torch.ones(3, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(self.layer(inputs)) + self.table.sum()


def test_without_a_graph_all_but_the_dead_paths_is_known() -> None:
    model = Twice()
    with torch.no_grad():
        model.layer.weight[2] = 0

    graph = trace_stored(model, torch.zeros(1, 4))
    figures = describe_weights(model, graph)

    assert graph is None
    assert figures.dead is None
    assert by_name(figures, "kept") == {"table": 12, "layer": 12}
    assert by_name(figures, "distinct")["table"] == 1
    assert figures.kept_with_others == 12 + 12 + 4
    assert "dead_weights" not in figures.to_metrics()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("density", [0.9, 0.5, 0.2])
def test_a_model_is_not_traced_where_nothing_can_be_dead(name: str, density: float) -> None:
    model, graph = trace(name)
    prune_(model, graph, density)

    found = trace_stored(model, draw_input(name))

    if found is None:
        assert describe_weights(model, None) == describe_weights(model, graph)
        assert describe_weights(model, None).dead == 0
    assert (found is None) >= (density == 0.9)


def test_an_input_that_one_group_of_a_convolution_ignores_is_a_gap() -> None:
    conv = nn.Conv2d(4, 6, 3, groups=2)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), conv, nn.Flatten(), nn.Linear(6 * 16, 2)).eval()
    example = torch.zeros(1, 1, 8, 8)
    whole = trace_stored(model, example)
    with torch.no_grad():
        conv.weight[3:, 1] = 0

    graph = trace_stored(model, example)

    assert whole is None
    assert graph is not None


def test_all_figures_are_plain_values() -> None:
    model, graph = trace("digits_cnn")

    figures = describe_weights(model, graph)
    record = json.loads(json.dumps(figures.to_json(), allow_nan=False))

    assert record["kept_weights"] == figures.kept
    assert record["coded_bytes"] == pytest.approx(
        record["value_bytes"] + record["table_bytes"] + record["position_bytes"]
    )
    assert [layer["name"] for layer in record["layers"]] == [one.name for one in figures.layers]
    assert all(isinstance(value, float) for value in figures.to_metrics().values())


def test_describing_leaves_the_model_as_it_is() -> None:
    model = make_random("digits_cnn")
    before = copy.deepcopy(model.state_dict())

    describe_weights(model, trace_stored(model, draw_input("digits_cnn")))

    assert all(torch.equal(before[name], one) for name, one in model.state_dict().items())


def test_a_layer_without_entries_is_described() -> None:
    with pytest.warns(UserWarning, match="zero-element"):
        model = nn.Sequential(nn.Linear(0, 3))

    figures = describe_weights(model, None)

    assert (figures.kept, figures.weights, figures.dead) == (0, 0, None)
    assert figures.layers[0].density == figures.layers[0].bits_per_weight == 0
