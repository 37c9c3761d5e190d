import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from autocompress.graph.layers import LayerGraph
from autocompress.graph.trace import trace_graph
from autocompress.masks.cost import count_masks
from autocompress.masks.mask import apply_masks_, parameter_masks
from autocompress.shrink.compact import compact_model
from tests.nets import draw_masks, randomise_


class Net(nn.Module):
    """Layers by name and a function that runs them."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, maps: Tensor) -> Tensor:
        return self.run(self, maps).mean((2, 3))


def conv(inputs: int, outputs: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups)


def split_in_order(n: Any, maps: Any) -> Any:
    first, second = n.a(maps).chunk(2, 1)
    return n.b(first) + n.c(second)


def split_crossed(n: Any, maps: Any) -> Any:
    first, second = n.a(maps).chunk(2, 1)
    late = n.c(second)
    return late + n.b(first)


def split_unequal(n: Any, maps: Any) -> Any:
    first, _, last = n.a(maps).split([3, 2, 3], 1)
    return n.b(first * last)


def split_twice_read(n: Any, maps: Any) -> Any:
    first, second = n.a(maps).chunk(2, 1)
    return n.b(torch.cat([second.tanh(), first.relu(), second.relu()], 1))


def split_concat(n: Any, maps: Any) -> Any:
    first, second = torch.cat([n.a(maps), n.b(maps)], 1).chunk(2, 1)
    return n.c(first) + n.d(second)


def slice_channels(n: Any, maps: Any) -> Any:
    maps = n.a(maps)
    return n.b(maps[:, 2:6]) + n.c(maps[:, :4])


def gate(n: Any, maps: Any) -> Any:
    maps = n.a(maps).relu()
    return n.b(maps * n.c(maps.mean((2, 3), keepdim=True)).sigmoid())


NETS: dict[str, tuple[nn.Module, dict[str, int]]] = {
    "add": (
        Net(lambda n, x: n.c(n.a(x) + n.b(x)), a=conv(3, 6), b=conv(3, 6), c=conv(6, 2)),
        {"a": 6, "c": 2},
    ),
    "concat": (
        Net(
            lambda n, x: n.d(n.c(torch.cat([n.a(x), x, n.b(x)], 1))),
            a=conv(3, 4),
            b=conv(3, 5),
            c=conv(12, 4),
            d=conv(4, 2),
        ),
        {"a": 4, "b": 5, "c": 4, "d": 2},
    ),
    "concat then add": (
        Net(
            lambda n, x: n.d(torch.cat([n.a(x), n.b(x)], 1) + n.c(x)),
            a=conv(3, 3),
            b=conv(3, 5),
            c=conv(3, 8),
            d=conv(8, 2),
        ),
        {"a": 3, "b": 5, "d": 2},
    ),
    "concat with itself": (
        Net(
            lambda n, x: n.c(torch.cat([n.a(x)] * 2, 1) + n.b(x)),
            a=conv(3, 4),
            b=conv(3, 8),
            c=conv(8, 2),
        ),
        {"a": 4, "c": 2},
    ),
    "depthwise": (
        Net(lambda n, x: n.c(n.b(n.a(x))), a=conv(3, 6), b=conv(6, 6, 6), c=conv(6, 2)),
        {"a": 6, "c": 2},
    ),
    "depthwise with two filters per channel": (
        Net(lambda n, x: n.c(n.b(n.a(x))), a=conv(3, 6), b=conv(6, 12, 6), c=conv(12, 2)),
        {"a": 6, "c": 2},
    ),
    "grouped": (
        Net(lambda n, x: n.c(n.b(n.a(x))), a=conv(3, 8), b=conv(8, 12, 2), c=conv(12, 2)),
        {"a": 4, "b": 6, "c": 2},
    ),
    "grouped after concat": (
        Net(
            lambda n, x: n.d(n.c(torch.cat([n.a(x), n.b(x)], 1))),
            a=conv(3, 4),
            b=conv(3, 4),
            c=conv(8, 8, 2),
            d=conv(8, 2),
        ),
        {"a": 4, "c": 4, "d": 2},
    ),
    "squeeze and excite": (
        Net(gate, a=conv(3, 6), b=conv(6, 2), c=nn.Conv2d(6, 6, 1)),
        {"a": 6, "b": 2},
    ),
    "split": (
        Net(split_in_order, a=conv(3, 8), b=conv(4, 2), c=conv(4, 2)),
        {"a": 4, "b": 2},
    ),
    "split, read in another order": (
        Net(split_crossed, a=conv(3, 8), b=conv(4, 2), c=conv(4, 2)),
        {"a": 4, "c": 2},
    ),
    "split in three, one dropped": (
        Net(split_unequal, a=conv(3, 8), b=conv(3, 2)),
        {"a": 3, "a#2": 2, "b": 2},
    ),
    "split, read twice": (
        Net(split_twice_read, a=conv(3, 6), b=conv(9, 2)),
        {"a": 3, "b": 2},
    ),
    "split after concat": (
        Net(split_concat, a=conv(3, 2), b=conv(3, 6), c=conv(4, 2), d=conv(4, 2)),
        {"a": 2, "b": 2, "c": 2},
    ),
    "split, joined at once": (
        Net(lambda n, x: n.b(torch.cat(n.a(x).chunk(2, -3)[::-1], 1)), a=conv(3, 6), b=conv(6, 2)),
        {"a": 3, "b": 2},
    ),
    "split by rows": (
        Net(lambda n, x: n.b(torch.cat(n.a(x).split(1, -1), -1)), a=conv(3, 6), b=conv(6, 2)),
        {"a": 6, "b": 2},
    ),
    "slices that overlap": (
        Net(slice_channels, a=conv(3, 8), b=conv(4, 2), c=conv(4, 2)),
        {"a": 2, "a#2": 2, "a#3": 2, "a#4": 2, "b": 2},
    ),
}


@pytest.mark.parametrize("case", NETS)
def test_units_follow_the_channels(case: str) -> None:
    net, sizes = NETS[case]
    net = randomise_(copy.deepcopy(net))
    inputs = torch.randn(
        2, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )

    graph = trace_graph(net, inputs)

    assert {group.name: group.size for group in graph.groups} == sizes
    check_shrinks(net, graph, inputs)


def check_shrinks(net: nn.Module, graph: LayerGraph, inputs: Tensor) -> None:
    """Check that random masks can be made physical without a change of the outputs."""
    for seed in range(5):
        masks = draw_masks(graph, seed)
        masked = copy.deepcopy(net)
        apply_masks_(masked, parameter_masks(graph, masks, masked))
        compact = compact_model(net, graph, masks)
        # float64 sums in another order.
        torch.testing.assert_close(compact(inputs), masked(inputs), rtol=1e-9, atol=1e-9)
        counted = count_masks(graph, masks).params
        assert counted == sum(parameter.numel() for parameter in compact.parameters())


@pytest.mark.parametrize(
    "case",
    [
        "add",
        "concat",
        "depthwise",
        "grouped",
        "squeeze and excite",
        "split",
        "split, read twice",
        "split after concat",
        "split, joined at once",
        "split by rows",
    ],
)
def test_operations_leave_all_but_the_output_prunable(case: str) -> None:
    net, _ = NETS[case]

    graph = trace_graph(randomise_(copy.deepcopy(net)), torch.zeros(1, 3, 5, 5).double())

    assert [group.prunable for group in graph.groups] == [True] * (len(graph.groups) - 1) + [False]


def test_columns_are_left_when_channels_cannot_be_followed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = torchvision.models.shufflenet_v2_x0_5(weights=None, num_classes=4)
    inputs = torch.randn(1, 3, 32, 32, dtype=torch.float64)

    graph = trace_graph(randomise_(model), inputs)

    assert "no filter is prunable" in caplog.text
    assert not any(group.prunable for group in graph.groups)
    check_shrinks(model, graph, inputs)
