"""Small models whose layer graphs were written by hand, as a check on those that are traced."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps

import torch
from torch import Tensor, nn

from autocompress.graph.layers import OUTSIDE, Group, Layer, LayerGraph, Norm
from autocompress.masks.mask import Masks, close_masks

IMAGE = (1, 6, 6)


@dataclass(frozen=True)
class HandMade:
    model: nn.Module
    graph: LayerGraph


class Branches(nn.Module):
    """Two convolutions of the image, joined by an add or a concat."""

    def __init__(self, join: str) -> None:
        super().__init__()
        self.join = join
        self.left = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.right = nn.Conv2d(1, 4 if join == "add" else 2, 3, padding=1)
        self.last = nn.Conv2d(4 if join == "add" else 6, 3, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        left = self.norm(self.left(images))
        right = self.right(images)
        joined = left + right if self.join == "add" else torch.cat([left, right], dim=1)
        return self.last(joined.relu())


def conv(name: str, module: nn.Conv2d, outs: list[int], ins: list[int]) -> Layer:
    """Return the layer of ``module``, which keeps the 6x6 positions."""
    return Layer(
        name=name,
        kind="conv",
        filters=module.out_channels,
        channels=module.in_channels,
        kernel=(module.kernel_size[0], module.kernel_size[1]),
        groups=module.groups,
        has_bias=module.bias is not None,
        positions=36,
        out_units=tuple(outs),
        in_units=tuple(ins),
    )


def group(first: int, size: int, producers: str, consumers: str) -> Group:
    """Return a coupling group named after its first producer."""
    names = tuple(producers.split())
    readers = tuple(consumers.split())
    return Group(
        name=names[0],
        start=first,
        size=size,
        prunable=bool(readers),
        producers=names,
        consumers=readers,
    )


def with_fixed_weights(make: Callable[[], HandMade]) -> Callable[[], HandMade]:
    """Let ``make`` give the same weights at every call, whatever ran before."""

    @wraps(make)
    def seeded() -> HandMade:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return make()

    return seeded


@with_fixed_weights
def make_sequential() -> HandMade:
    """Return conv, norm, conv, flatten, linear: the flatten repeats each unit 36 times."""
    first = nn.Conv2d(1, 4, 3, padding=1, bias=False)
    second = nn.Conv2d(4, 3, 3, padding=1)
    model = nn.Sequential(
        first, nn.BatchNorm2d(4), nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(108, 2)
    )
    linear = Layer(
        name="6",
        kind="linear",
        filters=2,
        channels=108,
        kernel=(1, 1),
        groups=1,
        has_bias=True,
        positions=1,
        out_units=(7, 8),
        in_units=tuple(unit for unit in (4, 5, 6) for _ in range(36)),
    )
    layers = (
        conv("0", first, [0, 1, 2, 3], [OUTSIDE]),
        conv("3", second, [4, 5, 6], [0, 1, 2, 3]),
        linear,
    )
    groups = (group(0, 4, "0", "3"), group(4, 3, "3", "6"), group(7, 2, "6", ""))
    return HandMade(model, LayerGraph(layers, (Norm(name="1", units=(0, 1, 2, 3)),), groups))


@with_fixed_weights
def make_residual() -> HandMade:
    """Return two branches that are added, so that their filters are the same units."""
    model = Branches("add")
    layers = (
        conv("left", model.left, [0, 1, 2, 3], [OUTSIDE]),
        conv("right", model.right, [0, 1, 2, 3], [OUTSIDE]),
        conv("last", model.last, [4, 5, 6], [0, 1, 2, 3]),
    )
    groups = (group(0, 4, "left right", "last"), group(4, 3, "last", ""))
    return HandMade(model, LayerGraph(layers, (Norm(name="norm", units=(0, 1, 2, 3)),), groups))


@with_fixed_weights
def make_concat() -> HandMade:
    """Return two branches side by side, whose units are chosen apart."""
    model = Branches("concat")
    layers = (
        conv("left", model.left, [0, 1, 2, 3], [OUTSIDE]),
        conv("right", model.right, [4, 5], [OUTSIDE]),
        conv("last", model.last, [6, 7, 8], [0, 1, 2, 3, 4, 5]),
    )
    groups = (group(0, 4, "left", "last"), group(4, 2, "right", "last"), group(6, 3, "last", ""))
    return HandMade(model, LayerGraph(layers, (Norm(name="norm", units=(0, 1, 2, 3)),), groups))


@with_fixed_weights
def make_depthwise() -> HandMade:
    """Return a pointwise, a depthwise of two filters per channel, and a pointwise convolution."""
    first = nn.Conv2d(1, 4, 1)
    depthwise = nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False)
    last = nn.Conv2d(8, 3, 1)
    doubled = [0, 0, 1, 1, 2, 2, 3, 3]
    layers = (
        conv("0", first, [0, 1, 2, 3], [OUTSIDE]),
        conv("1", depthwise, doubled, [0, 1, 2, 3]),
        conv("3", last, [4, 5, 6], doubled),
    )
    groups = (group(0, 4, "0 1", "1 3"), group(4, 3, "3", ""))
    model = nn.Sequential(first, depthwise, nn.BatchNorm2d(8), last)
    return HandMade(model, LayerGraph(layers, (Norm(name="2", units=tuple(doubled)),), groups))


@with_fixed_weights
def make_grouped() -> HandMade:
    """Return a convolution of two groups: both must lose the same places to stay equal."""
    first = nn.Conv2d(1, 6, 3, padding=1)
    grouped = nn.Conv2d(6, 4, 3, padding=1, groups=2)
    last = nn.Conv2d(4, 3, 3, padding=1)
    layers = (
        conv("0", first, [0, 1, 2, 0, 1, 2], [OUTSIDE]),
        conv("1", grouped, [3, 4, 3, 4], [0, 1, 2, 0, 1, 2]),
        conv("2", last, [5, 6, 7], [3, 4, 3, 4]),
    )
    groups = (group(0, 3, "0", "1"), group(3, 2, "1", "2"), group(5, 3, "2", ""))
    return HandMade(nn.Sequential(first, grouped, last), LayerGraph(layers, (), groups))


MAKERS = {
    "sequential": make_sequential,
    "residual": make_residual,
    "concat": make_concat,
    "depthwise": make_depthwise,
    "grouped": make_grouped,
}


def draw_masks(graph: LayerGraph, seed: int, density: float) -> Masks:
    """Return closed random masks with one unit or more of each prunable group."""
    generator = torch.Generator().manual_seed(seed)
    units = torch.rand(graph.units, generator=generator) < density
    for each in graph.groups:
        if not each.prunable:
            units[list(each.units)] = True
        elif not units[list(each.units)].any():
            units[each.start + seed % each.size] = True
    columns = {
        layer.name: torch.rand(layer.columns, generator=generator) < density
        for layer in graph.column_layers
    }
    return close_masks(graph, Masks(units, columns))
