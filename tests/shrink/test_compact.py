import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress.errors import GraphError
from autocompress.graph.trace import measure_macs, trace_graph
from autocompress.masks.cost import count_masks
from autocompress.masks.mask import (
    Masks,
    apply_masks_,
    close_masks,
    full_masks,
    parameter_masks,
)
from autocompress.shrink.columns import ColumnConv2d
from autocompress.shrink.compact import compact_model
from tests.nets import SHAPES, draw_input, draw_masks, make_random, randomise_


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("columns", [1.0, 0.6], ids=["filters", "filters and columns"])
def test_the_compact_model_computes_what_the_masked_one_does(name: str, columns: float) -> None:
    model, inputs = make_random(name), draw_input(name)
    graph = trace_graph(model, inputs[:1])
    masks = draw_masks(graph, columns=columns)
    masked = copy.deepcopy(model)
    apply_masks_(masked, parameter_masks(graph, masks, masked))

    compact = compact_model(model, graph, masks)

    with torch.no_grad():
        want, got = masked(inputs), compact(inputs)
    # float64 sums in another order: far below the 1e-5 that is promised for float32.
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    assert count_masks(graph, masks).macs == measure_macs(compact, inputs)
    assert count_masks(graph, masks).params == sum(p.numel() for p in compact.parameters())


def test_float32_agrees_to_1e_5() -> None:
    model = make_random("resnet20").float()
    inputs = draw_input("resnet20").float()
    graph = trace_graph(model, inputs)
    masks = draw_masks(graph)
    masked = copy.deepcopy(model)
    apply_masks_(masked, parameter_masks(graph, masks, masked))

    compact = compact_model(model, graph, masks)

    with torch.no_grad():
        torch.testing.assert_close(compact(inputs), masked(inputs), rtol=1e-5, atol=1e-5)


def test_full_masks_change_nothing() -> None:
    model, inputs = make_random("digits_cnn"), draw_input("digits_cnn")
    graph = trace_graph(model, inputs)

    compact = compact_model(model, graph, full_masks(graph))

    assert [type(m) for m in compact.modules()] == [type(m) for m in model.modules()]
    assert torch.equal(compact(inputs), model(inputs))


def test_the_given_model_is_not_changed() -> None:
    model = make_random("digits_cnn")
    before = copy.deepcopy(model.state_dict())
    graph = trace_graph(model, draw_input("digits_cnn"))

    compact = compact_model(model, graph, draw_masks(graph))
    for parameter in compact.parameters():
        parameter.data.fill_(7)

    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, maps: Tensor) -> Tensor:
        maps = functional.relu(self.first(maps))
        return self.head((maps + self.second(maps)).mean((2, 3)))


def test_dead_channels_of_a_living_producer_are_gathered_around() -> None:
    model = randomise_(Residual())
    inputs = torch.randn(2, 1, 5, 5, dtype=torch.float64)
    graph = trace_graph(model, inputs)
    masks = full_masks(graph)
    masks.columns["second"][9:27] = False

    compact = compact_model(model, graph, masks)

    masked = copy.deepcopy(model)
    apply_masks_(masked, parameter_masks(graph, masks, masked))
    assert isinstance(compact.second, ColumnConv2d)
    assert compact.second.whole_channels
    torch.testing.assert_close(compact(inputs), masked(inputs), rtol=1e-9, atol=1e-9)
    assert measure_macs(compact, inputs) == count_masks(graph, masks).macs


def test_a_module_with_two_names_is_replaced_under_both() -> None:
    model = randomise_(Residual())
    model.alias = model.second
    inputs = torch.randn(2, 1, 5, 5, dtype=torch.float64)
    graph = trace_graph(model, inputs)

    compact = compact_model(model, graph, draw_masks(graph, units=1.0))

    assert compact.alias is compact.second


def test_nothing_is_pruned_to_zero() -> None:
    model = randomise_(Residual())
    graph = trace_graph(model, torch.zeros(1, 1, 5, 5, dtype=torch.float64))
    full = full_masks(graph)
    group = graph.group_by_name["first"]
    units = full.units.clone()
    units[list(group.units)] = False
    columns = {**full.columns, "second": torch.zeros(36, dtype=torch.bool)}

    with pytest.raises(GraphError, match=r"first.*second"):
        compact_model(model, graph, close_masks(graph, Masks(units, full.columns)))
    with pytest.raises(GraphError, match="second: want at least 1 column"):
        compact_model(model, graph, Masks(full.units, columns))


def test_the_outputs_of_the_model_cannot_be_pruned() -> None:
    model = randomise_(Residual())
    graph = trace_graph(model, torch.zeros(1, 1, 5, 5, dtype=torch.float64))
    units = full_masks(graph).units
    units[graph.group_by_name["head"].start] = False

    with pytest.raises(GraphError, match="'head' is not prunable"):
        compact_model(model, graph, Masks(units, full_masks(graph).columns))
