import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress.errors import GraphError
from autocompress.graph.layers import OUTSIDE, LayerGraph
from autocompress.graph.trace import measure_macs, trace_graph
from autocompress.jobs import Candidate
from autocompress.masks.cost import CostModel
from tests.nets import SHAPES, draw_input, make_random


class Net(nn.Module):
    """Layers by name and a function that runs them."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, maps: Tensor) -> Tensor:
        return self.run(self, maps)


def groups_of(graph: LayerGraph) -> dict[str, tuple[int, bool]]:
    return {group.name: (group.size, group.prunable) for group in graph.groups}


@pytest.mark.parametrize("name", SHAPES)
def test_counted_equals_measured(name: str) -> None:
    model, example = make_random(name), draw_input(name)[:1]

    graph = trace_graph(model, example)

    cost = CostModel(graph).count_candidate(Candidate(filters={}, columns={}))
    assert cost.macs == measure_macs(model, example)
    assert cost.params == sum(parameter.numel() for parameter in model.parameters())
    assert [group.prunable for group in graph.groups[:-1]] == [True] * (len(graph.groups) - 1)
    assert not graph.groups[-1].prunable


@pytest.mark.parametrize("name", ["lenet5", "torchvision:densenet121"])
def test_units_are_numbered_without_gaps_in_order_of_execution(name: str) -> None:
    graph = trace_graph(make_random(name), draw_input(name)[:1])

    units = [unit for group in graph.groups for unit in group.units]
    order = [layer.name for layer in graph.layers]
    assert units == list(range(graph.units))
    firsts = [order.index(group.producers[0]) for group in graph.groups]
    assert firsts == sorted(firsts)
    assert len({group.name for group in graph.groups}) == len(graph.groups)


def test_a_flatten_repeats_each_unit() -> None:
    graph = trace_graph(make_random("lenet5"), draw_input("lenet5")[:1])

    inputs = graph.by_name["fc1"].in_units
    outputs = graph.by_name["conv2"].out_units
    assert inputs == tuple(unit for unit in outputs for _ in range(16))
    assert graph.by_name["conv1"].in_units == (OUTSIDE,)


def test_the_model_is_not_changed() -> None:
    model = make_random("digits_cnn").train()
    model.get_submodule("conv1").eval()
    calls: list[nn.Module] = []
    hook = model.register_forward_hook(lambda module, args, out: calls.append(module))
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]

    trace_graph(model, draw_input("digits_cnn"))
    measure_macs(model, draw_input("digits_cnn"))

    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [len(module._forward_hooks) for module in model.modules()] == [
        int(module is model) for module in model.modules()
    ]
    assert all(parameter.grad is None for parameter in model.parameters())
    hook.remove()


def test_two_graphs_do_not_influence_each_other() -> None:
    first, second = make_random("digits_cnn"), make_random("resnet20")
    alone = trace_graph(copy.deepcopy(first), draw_input("digits_cnn"))

    trace_graph(second, draw_input("resnet20"))
    again = trace_graph(first, draw_input("digits_cnn"))

    assert again == alone


def test_tracing_works_without_gradients() -> None:
    model = make_random("digits_cnn")
    want = trace_graph(model, draw_input("digits_cnn"))
    for parameter in model.parameters():
        parameter.requires_grad = False

    with torch.no_grad():
        assert trace_graph(model, draw_input("digits_cnn")) == want


def test_layers_left_alone_keep_their_filters() -> None:
    model = make_random("resnet20")

    graph = trace_graph(model, draw_input("resnet20"), leave_alone=["stages.0.1.conv2"])

    # The end of a residual block shares its filters with the stem.
    assert not graph.group_by_name["conv1"].prunable
    assert graph.group_by_name["stages.0.1.conv1"].prunable
    with pytest.raises(GraphError, match=r"no such .* layer: stages\.9"):
        trace_graph(model, draw_input("resnet20"), leave_alone=["stages.9"])


def test_a_layer_that_runs_twice_is_refused_by_name() -> None:
    net = Net(lambda n, x: n.b(n.b(n.a(x))), a=nn.Conv2d(1, 2, 1), b=nn.Conv2d(2, 2, 1))

    with pytest.raises(GraphError, match=r"^b: want layers that run once"):
        trace_graph(net, torch.zeros(1, 1, 4, 4))


def test_a_shared_weight_is_refused_by_name() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    net = Net(lambda n, x: n.b(n.a(x)), a=first, b=second)

    with pytest.raises(GraphError, match="a and b share"):
        trace_graph(net, torch.zeros(1, 3))


def test_a_layer_that_never_runs_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    net = Net(lambda n, x: n.a(x), a=nn.Linear(3, 3), idle=nn.Linear(3, 3))

    with caplog.at_level(logging.WARNING):
        graph = trace_graph(net, torch.zeros(1, 3))

    assert [layer.name for layer in graph.layers] == ["a"]
    assert "idle" in caplog.text


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(GraphError, match="at least one Conv2d or Linear"):
        trace_graph(nn.ReLU(), torch.zeros(1, 3))


def conv(inputs: int, outputs: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups)


WRONG: dict[str, tuple[Net, Tensor]] = {
    "a sigmoid makes a dead filter 0.5": (
        Net(lambda n, x: n.b(n.a(x).sigmoid()).mean((2, 3)), a=conv(1, 4), b=conv(4, 2)),
        torch.zeros(1, 1, 6, 6),
    ),
    "a reshape of fixed size": (
        Net(lambda n, x: n.b(n.a(x).reshape(-1, 64)), a=conv(1, 4), b=nn.Linear(64, 2)),
        torch.zeros(1, 1, 4, 4),
    ),
    "a mean over channels": (
        Net(
            lambda n, x: n.b((lambda y: y - y.mean(1, keepdim=True))(n.a(x))).mean((2, 3)),
            a=conv(1, 4),
            b=conv(4, 2),
        ),
        torch.zeros(1, 1, 4, 4),
    ),
    "an addition of the image": (
        Net(lambda n, x: n.b(x + n.a(x)).mean((2, 3)), a=conv(4, 4), b=conv(4, 2)),
        torch.zeros(1, 4, 4, 4),
    ),
    "a channel shuffle": (
        Net(
            lambda n, x: n.b(n.a(x).unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)).mean(
                (2, 3)
            ),
            a=conv(1, 6),
            b=conv(6, 2),
        ),
        torch.zeros(1, 1, 4, 4),
    ),
    "groups of one filter that read two channels": (
        Net(
            lambda n, x: n.c(n.b(n.a(x))).mean((2, 3)),
            a=conv(1, 8),
            b=conv(8, 4, groups=4),
            c=conv(4, 2),
        ),
        torch.zeros(1, 1, 4, 4),
    ),
    "a norm without gain and shift": (
        Net(
            lambda n, x: n.b(n.norm(n.a(x))).mean((2, 3)),
            a=conv(1, 4),
            norm=nn.BatchNorm2d(4, affine=False),
            b=conv(4, 2),
        ),
        torch.zeros(1, 1, 4, 4),
    ),
    "a layer norm": (
        Net(
            lambda n, x: n.b(n.norm(n.a(x))),
            a=nn.Linear(3, 4),
            norm=nn.LayerNorm(4),
            b=nn.Linear(4, 2),
        ),
        torch.zeros(1, 3),
    ),
    "a transposed convolution": (
        Net(lambda n, x: n.b(n.a(x)), a=conv(1, 4), b=nn.ConvTranspose2d(4, 2, 2)),
        torch.zeros(1, 1, 4, 4),
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_sliced_is_not_prunable(case: str) -> None:
    net, example = WRONG[case]

    graph = trace_graph(net, example)

    assert not graph.group_by_name["a"].prunable


def test_a_raw_parameter_is_not_sliced() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(1, 4), conv(4, 2)
            self.scale = nn.Parameter(torch.ones(4, 1, 1))

        def forward(self, maps: Tensor) -> Tensor:
            out: Tensor = self.b(functional.relu(self.a(maps)) * self.scale)
            return out

    graph = trace_graph(Scaled(), torch.zeros(1, 1, 4, 4))

    assert groups_of(graph) == {"a": (4, False), "b": (2, False)}
