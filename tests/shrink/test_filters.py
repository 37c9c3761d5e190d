import copy

import pytest
import torch

from autocompress.graph.trace import trace_graph
from autocompress.masks.cost import count_masks
from autocompress.masks.mask import Masks, apply_masks_, full_masks, parameter_masks
from autocompress.shrink.compact import compact_model
from autocompress.shrink.filters import shrink_filters, slice_graph
from tests.nets import draw_input, draw_masks, make_random

NAMES = ["lenet5", "resnet20", "torchvision:mobilenet_v2"]


@pytest.mark.parametrize("name", NAMES)
def test_the_sliced_graph_is_the_graph_of_the_sliced_model(name: str) -> None:
    model, inputs = make_random(name), draw_input(name)
    graph = trace_graph(model, inputs)
    masks = draw_masks(graph, columns=1.0)

    smaller, left = slice_graph(graph, masks)

    assert smaller == trace_graph(shrink_filters(model, graph, masks), inputs)
    assert left.units.all()
    assert all(mask.all() for mask in left.columns.values())


@pytest.mark.parametrize("name", NAMES)
def test_masks_cost_the_same_in_the_new_coordinates(name: str) -> None:
    graph = trace_graph(make_random(name), draw_input(name))
    masks = draw_masks(graph)

    smaller, left = slice_graph(graph, masks)

    assert count_masks(smaller, left) == count_masks(graph, masks)


@pytest.mark.parametrize("name", NAMES)
def test_slicing_in_two_steps_is_slicing_at_once(name: str) -> None:
    model, inputs = make_random(name), draw_input(name)
    graph = trace_graph(model, inputs)
    masks = draw_masks(graph)

    halfway = shrink_filters(model, graph, masks)
    final = compact_model(halfway, *slice_graph(graph, masks))

    at_once = compact_model(model, graph, masks)
    state = at_once.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in final.state_dict().items())


def test_dead_columns_are_zero_and_still_there() -> None:
    model, inputs = make_random("digits_cnn"), draw_input("digits_cnn")
    graph = trace_graph(model, inputs)
    masks = draw_masks(graph, units=1.0)
    masked = copy.deepcopy(model)
    apply_masks_(masked, parameter_masks(graph, masks, masked))

    shrunk = shrink_filters(model, graph, masks)

    state = masked.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in shrunk.state_dict().items())


def test_memory_format_and_gradient_flags_stay() -> None:
    model = make_random("digits_cnn").to(memory_format=torch.channels_last)
    model.get_parameter("conv1.weight").requires_grad = False
    graph = trace_graph(model, draw_input("digits_cnn"))

    shrunk = shrink_filters(model, graph, draw_masks(graph))

    assert shrunk.get_parameter("conv2.weight").is_contiguous(memory_format=torch.channels_last)
    assert not shrunk.get_parameter("conv1.weight").requires_grad
    assert shrunk.get_parameter("conv2.weight").requires_grad


def test_full_masks_give_the_same_graph() -> None:
    graph = trace_graph(make_random("resnet20"), draw_input("resnet20"))

    smaller, left = slice_graph(graph, full_masks(graph))

    assert smaller == graph
    assert isinstance(left, Masks)
