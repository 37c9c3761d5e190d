"""A padded model is wider and computes the same; without its zeros it is the one it was."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from autocompress.deploy.fold import fold_norms
from autocompress.deploy.pad import Width, list_widths, pad_widths
from autocompress.errors import GraphError
from autocompress.graph.layers import LayerGraph
from autocompress.graph.trace import trace_graph
from autocompress.masks.mask import Masks, close_masks, full_masks
from autocompress.shrink.columns import ColumnConv2d, ColumnLinear, make_column_layer
from autocompress.shrink.compact import compact_model
from autocompress.shrink.expand import expand_columns
from tests.couplings import (
    IMAGE,
    NETS,
    Net,
    conv,
    draw,
    make_chain,
    make_flat,
    make_residual,
    make_split,
)
from tests.nets import draw_input, draw_masks, make_random


def check(
    model: nn.Module, inputs: Tensor, widths: int | Mapping[str, int], tolerance: float = 1e-10
) -> nn.Module:
    """Pad ``model`` and see that it computes the same on inputs that it was not padded with."""
    before = copy.deepcopy(model.state_dict())

    padded = pad_widths(model, inputs, widths)

    other = draw(*inputs.shape, seed=1).to(inputs)
    with torch.no_grad():
        torch.testing.assert_close(padded(other), model(other), rtol=tolerance, atol=tolerance)
    after = model.state_dict()
    assert all(torch.equal(after[name], one) for name, one in before.items())
    return padded


def cut_back(padded: nn.Module, inputs: Tensor, known: Mapping[str, Width]) -> nn.Module:
    """Mask the last units of each group, as many as were added, and compact."""
    graph = trace_graph(padded, inputs)
    masks = full_masks(graph)
    for name, width in known.items():
        group = graph.group_by_name[name]
        masks.units[group.start + width.size : group.start + group.size] = False
    return compact_model(padded, graph, close_masks(graph, Masks(masks.units, masks.columns)))


def assert_same_state(one: nn.Module, other: nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert [*first] == [*second]
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert str(one) == str(other)


@pytest.mark.parametrize("name", NETS)
@given(
    sizes=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    more=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    folded=st.booleans(),
)
@settings(max_examples=5, deadline=None)
def test_any_widths_compute_the_same_and_come_back(
    name: str, sizes: tuple[int, int], more: tuple[int, int], folded: bool
) -> None:
    make, groups = NETS[name]
    model: nn.Module = make(*sizes)
    model = fold_norms(model, IMAGE) if folded else model
    known = list_widths(model, IMAGE)
    assert {group: known[group].size for group in groups} == dict(zip(groups, sizes, strict=True))
    widths = {group: known[group].size + n for group, n in zip(groups, more, strict=True)}

    padded = check(model, IMAGE, widths)

    assert {one: list_widths(padded, IMAGE)[one].size for one in widths} == widths
    assert_same_state(cut_back(padded, IMAGE, known), model)


@pytest.mark.parametrize("name", NETS)
def test_multiples_widen_every_group(name: str) -> None:
    model = NETS[name][0](3, 5)

    padded = check(model, IMAGE, 4)

    known, wide = list_widths(model, IMAGE), list_widths(padded, IMAGE)
    assert {one.name: -(-one.size // 4) * 4 for one in known.values()} == {
        one.name: one.size for one in wide.values()
    }
    assert_same_state(cut_back(padded, IMAGE, known), model)
    assert_same_state(pad_widths(padded, IMAGE, 4), padded)
    assert_same_state(pad_widths(model, IMAGE, 1), model)


def test_what_is_added_is_zero_on_both_sides_and_norms_pass_it_on() -> None:
    model = make_chain(3, 2)

    padded = pad_widths(model, IMAGE, {"a": 5, "b": 4})

    state = padded.state_dict()
    assert not state["a.weight"][3:].any()
    assert not state["a.bias"][3:].any()
    assert not state["b.weight"][2:].any()
    assert not state["b.weight"][:, 3:].any()
    assert not state["head.weight"][:, 2:].any()
    assert not state["norm.bias"][2:].any()
    assert not state["norm.running_mean"][2:].any()
    assert (state["norm.weight"][2:] == 1).all()
    assert (state["norm.running_var"][2:] == 1).all()
    assert state["a.weight"].shape == (5, 3, 3, 3)
    assert padded.get_submodule("norm").num_features == 4


def test_the_widths_of_a_model_say_who_makes_and_reads_them() -> None:
    known = list_widths(make_residual(3, 4), IMAGE)

    assert known == {
        "stem": Width(
            name="stem", size=3, producers=("stem", "second"), consumers=("first", "head")
        ),
        "first": Width(name="first", size=4, producers=("first",), consumers=("second",)),
    }


@pytest.mark.parametrize("columns", [1.0, 0.6], ids=["filters", "filters and columns"])
@pytest.mark.parametrize(
    ("name", "folded"), [("digits_cnn", False), ("lenet5", False), ("resnet20", True)]
)
def test_small_models_of_the_zoo(name: str, folded: bool, columns: float) -> None:
    inputs = draw_input(name)
    model = make_random(name)
    graph = trace_graph(model, inputs)
    small = compact_model(model, graph, draw_masks(graph, columns=columns))
    small = fold_norms(small, inputs) if folded else small

    padded = check(small, inputs, 8)

    known = list_widths(padded, inputs)
    assert len(known) == sum(group.prunable for group in graph.groups)
    assert all(width.size % 8 == 0 for width in known.values())
    assert_same_columns(small, padded)


def assert_same_columns(small: nn.Module, padded: nn.Module) -> None:
    """Check that the modules are of the same kinds and column layers read no more than before."""
    for (name, one), (other_name, other) in zip(
        small.named_modules(), padded.named_modules(), strict=True
    ):
        assert (name, type(one)) == (other_name, type(other))
        if isinstance(one, ColumnConv2d | ColumnLinear):
            assert isinstance(other, ColumnConv2d | ColumnLinear)
            assert other.weight.shape[1] == one.weight.shape[1]


@pytest.mark.slow
@pytest.mark.parametrize("folded", [False, True], ids=["norms", "folded"])
@pytest.mark.parametrize(
    "name", ["vgg16", "resnet18", "torchvision:mobilenet_v2", "torchvision:densenet121"]
)
def test_large_models(name: str, folded: bool) -> None:
    inputs = draw_input(name)
    model = make_random(name)
    graph = trace_graph(model, inputs[:1])
    small = compact_model(model, graph, draw_masks(graph))
    small = fold_norms(small, inputs) if folded else small

    padded = check(small, inputs, 8)

    assert_same_columns(small, padded)
    assert len(list_widths(padded, inputs)) == sum(group.prunable for group in graph.groups)


@pytest.mark.parametrize("whole", [False, True], ids=["columns", "whole channels"])
def test_column_layers_stay_what_they_are(whole: bool) -> None:
    model = make_chain(3, 4)
    kept = torch.arange(27) % 3 != 0
    kept = torch.arange(27) >= 9 if whole else kept
    model.b = make_column_layer(model.get_submodule("b"), kept)
    model.head = make_column_layer(model.get_submodule("head"), torch.arange(4) != 1)

    padded = check(model, IMAGE, {"a": 8, "b": 6})

    layer, head = padded.get_submodule("b"), padded.get_submodule("head")
    assert isinstance(layer, ColumnConv2d)
    assert isinstance(head, ColumnLinear)
    assert layer.weight.shape == (6, 18)
    assert (layer.channels, layer.whole_channels) == (8, whole)
    assert (head.weight.shape, head.features) == ((5, 3), 6)
    want = expand_columns(padded).get_parameter("b.weight")
    assert torch.equal(want[:4, :3], expand_columns(model).get_parameter("b.weight"))
    assert want.count_nonzero() == layer.weight.count_nonzero()


def test_float32_agrees_to_1e_5_and_low_precision_keeps_its_type() -> None:
    model = make_random("resnet20")
    graph = trace_graph(model, draw_input("resnet20"))
    small = compact_model(model, graph, draw_masks(graph))

    check(small.float(), draw_input("resnet20").float(), 8, tolerance=1e-5)
    padded = pad_widths(small.bfloat16(), draw_input("resnet20").bfloat16(), 8)

    assert {one.dtype for one in padded.parameters()} == {torch.bfloat16}


def test_layout_mode_and_training_of_weights_stay() -> None:
    model = make_chain(3, 4).train().to(memory_format=torch.channels_last)
    model.get_parameter("a.weight").requires_grad = False

    padded = pad_widths(model, IMAGE, 8)

    weight = padded.get_parameter("b.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not padded.get_parameter("a.weight").requires_grad
    assert padded.get_parameter("b.weight").requires_grad
    assert all(module.training for module in padded.modules())


def test_a_group_of_one_unit_is_widened_where_its_place_is_clear() -> None:
    flat, split = make_flat(1, 2), make_split(1, 2)

    padded = check(flat, IMAGE, {"a": 3, "b": 4})

    assert padded.get_parameter("inner.weight").shape == (1, 16 * 7)
    assert "a" not in list_widths(split, IMAGE)  # Its two pieces look like a repeated unit.
    check(split, IMAGE, 4)


REFUSED: dict[str, Net] = {
    "a channel shuffle": Net(
        lambda n, x: n.b(n.a(x).unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)).mean((2, 3)),
        a=conv(3, 6),
        b=conv(6, 2),
    ),
    "a reshape of fixed size": Net(
        lambda n, x: n.b(n.a(x).reshape(-1, 16)), a=conv(3, 1), b=nn.Linear(16, 2)
    ),
    "a mean over channels": Net(
        lambda n, x: n.b(functional.relu(n.a(x)) - n.a.bias.mean() - 1).mean(1),
        a=conv(3, 1),
        b=conv(1, 2),
    ),
    "a maximum over channels": Net(
        lambda n, x: n.b((n.a(x) + 9).amax(1, keepdim=True)).mean((2, 3)),
        a=conv(3, 4),
        b=conv(1, 2),
    ),
    "a division by zero": Net(
        lambda n, x: n.b(1 / n.a(x)).mean((2, 3)), a=conv(3, 1), b=conv(1, 2)
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_change_outputs_is_refused(case: str) -> None:
    net = REFUSED[case]

    assert "a" not in list_widths(net, IMAGE)
    with pytest.raises(GraphError, match="'a' cannot be widened"):
        pad_widths(net, IMAGE, {"a": 8})
    assert_same_state(pad_widths(net, IMAGE, 8), net)


def test_wrong_widths_are_refused_by_name() -> None:
    model = make_chain(3, 4)

    for widths, message in (
        ({"c": 8}, "no group is named 'c'"),
        ({"head": 8}, "'head' cannot be widened"),
        ({"a": 2}, "'a': want 3 or more units, got 2"),
        (0, "multiple of 1 or more, got 0"),
    ):
        with pytest.raises(GraphError, match=message):
            pad_widths(model, IMAGE, widths)


def test_units_that_do_not_lie_side_by_side_are_not_widened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_chain(3, 4)

    def trace_mixed(*args: Any) -> LayerGraph:
        graph = trace_graph(*args)
        layers = [dataclasses.replace(one, in_units=one.in_units[::-1]) for one in graph.layers]
        return dataclasses.replace(graph, layers=tuple(layers))

    monkeypatch.setattr("autocompress.deploy.pad.trace_graph", trace_mixed)

    assert list_widths(model, IMAGE) == {}
