"""Small random networks, one for each way in which channels live and die together."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.nets import randomise_


class Net(nn.Module):
    """Layers by name and a function that runs them."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)
        randomise_(self)

    def forward(self, maps: Tensor) -> Any:
        return self.run(self, maps)


def conv(inputs: int, outputs: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


IMAGE = draw(2, 3, 4, 4)


def make_chain(one: int, two: int) -> Net:
    return Net(
        lambda n, x: n.head(torch.relu(n.norm(n.b(torch.relu(n.a(x))))).mean((2, 3))),
        a=conv(3, one),
        b=conv(one, two, bias=False),
        norm=nn.BatchNorm2d(two),
        head=nn.Linear(two, 5),
    )


def make_residual(one: int, two: int) -> Net:
    def run(net: Any, maps: Tensor) -> Tensor:
        maps = torch.relu(net.norm(net.stem(maps)))
        maps = maps + net.second(torch.relu(net.first(maps)))
        return net.head(maps.mean((2, 3)))

    return Net(
        run,
        stem=conv(3, one),
        norm=nn.BatchNorm2d(one),
        first=conv(one, two),
        second=conv(two, one),
        head=nn.Linear(one, 5),
    )


def make_concat(one: int, two: int) -> Net:
    def run(net: Any, maps: Tensor) -> Tensor:
        first, second = net.a(maps), net.b(maps)
        maps = net.norm(torch.cat([maps, first, second, first], 1))
        return net.head(torch.relu(net.c(torch.relu(maps))).mean((2, 3)))

    total = 3 + 2 * one + two
    return Net(
        run,
        a=conv(3, one),
        b=conv(3, two),
        norm=nn.BatchNorm2d(total),
        c=conv(total, 4),
        head=nn.Linear(4, 5),
    )


def make_flat(one: int, two: int) -> Net:
    def run(net: Any, maps: Tensor) -> Tensor:
        both = torch.cat([net.a(maps), net.b(maps)], 1)
        return net.head(torch.relu(net.norm(net.inner(torch.relu(both).flatten(1)))))

    return Net(
        run,
        a=conv(3, one),
        b=conv(3, two),
        inner=nn.Linear(16 * (one + two), one),
        norm=nn.BatchNorm1d(one),
        head=nn.Linear(one, 5),
    )


def make_depthwise(one: int, two: int) -> Net:
    def run(net: Any, maps: Tensor) -> Tensor:
        maps = torch.relu(net.norm(net.deep(torch.relu(net.a(maps)))))
        return net.head(torch.relu(net.wide(torch.relu(net.b(maps)))).flatten(1))

    return Net(
        run,
        a=conv(3, one),
        deep=conv(one, one, groups=one),
        norm=nn.BatchNorm2d(one),
        b=conv(one, two),
        wide=conv(two, 2 * two, groups=two, bias=False),
        head=nn.Linear(32 * two, 5),
    )


def make_grouped(one: int, two: int) -> Net:
    def run(net: Any, maps: Tensor) -> Tensor:
        maps = torch.relu(net.b(torch.relu(net.a(maps))))
        return net.head(maps.mean((2, 3)))

    return Net(
        run,
        a=conv(3, 2 * one),
        b=conv(2 * one, 2 * two, groups=2),
        head=nn.Linear(2 * two, 5),
    )


def make_split(one: int, two: int) -> Net:
    def run(net: Any, maps: Tensor) -> Tensor:
        left, right = net.a(maps).chunk(2, 1)
        return net.head(torch.relu(net.b(left * right.sigmoid())).mean((2, 3)))

    return Net(run, a=conv(3, 2 * one), b=conv(one, two), head=nn.Linear(two, 5))


NETS: dict[str, tuple[Callable[[int, int], Net], tuple[str, str]]] = {
    "chain": (make_chain, ("a", "b")),
    "residual": (make_residual, ("stem", "first")),
    "concat": (make_concat, ("a", "b")),
    "flatten": (make_flat, ("a", "b")),
    "depthwise": (make_depthwise, ("a", "b")),
    "grouped": (make_grouped, ("a", "b")),
    "split": (make_split, ("a", "b")),
}
