"""Layers of any width made for a stopwatch: the shapes of a model, and passes through them."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.graph.layers import LayerGraph
from autocompress.graph.modules import is_depthwise_conv
from autocompress.shrink.columns import make_column_layer

NARROWEST = 1 / 8
SPARSEST = 1 / 64


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward pass, as a call that says what it runs.

    Attributes:
        module: What runs.
        inputs: What it reads.
        layout: What its maps are brought to, as the next layer reads them; None leaves them.
    """

    module: nn.Module
    inputs: Tensor
    layout: torch.memory_format | None = None

    def __call__(self) -> object:
        """Run it."""
        made = self.module(self.inputs)
        if self.layout is None or made.dim() != 4:
            return made
        return made.contiguous(memory_format=self.layout)


@dataclass(frozen=True)
class Probe:
    """A shape of layer within a model, of which layers of other widths can be made.

    Two layers of equal probes take equal time.

    Attributes:
        kind: Conv2d or Linear.
        channels: Input channels of the dense layer.
        filters: Its filters.
        options: Of the convolution, by name; among them ``groups``.
        outer: Samples, and of a linear layer all else in front of the features.
        inner: Height and width of the maps; empty for a linear layer.
        positions: Outputs of one filter per sample.
    """

    kind: type[nn.Module]
    channels: int
    filters: int
    options: tuple[tuple[str, Any], ...]
    outer: tuple[int, ...]
    inner: tuple[int, ...]
    positions: int

    @property
    def groups(self) -> int:
        """Return the groups of the convolution, 1 for a linear layer."""
        return int(dict(self.options).get("groups", 1))

    @property
    def is_depthwise(self) -> bool:
        """Return whether each filter reads one channel of its own."""
        return self.groups > 1 and self.groups == self.channels

    @property
    def _multiplier(self) -> int:
        """Return the filters of each channel of a depthwise convolution."""
        return self.filters // self.channels

    def count_channels(self, channels: int, filters: int) -> int:
        """Return the input channels: ``channels``, but what depthwise filters need."""
        return filters // self._multiplier if self.is_depthwise else channels

    @property
    def area(self) -> int:
        """Return kh * kw."""
        return math.prod(dict(self.options).get("kernel_size", ()))

    @property
    def columns(self) -> int:
        """Return the weights of one filter of the dense layer."""
        return self.channels // self.groups * self.area

    @property
    def macs(self) -> int:
        """Return the multiply-accumulates of the dense layer for one sample."""
        return self.filters * self.columns * self.positions

    def list_widths(self, full: int, align: int, points: int) -> list[int]:
        """Return about ``points`` widths of a geometric ladder, multiples of ``align``.

        Args:
            full: The widest, always there.
            align: What the device likes.
            points: Steps of the ladder from an eighth to all, 2 or more.
        """
        align = math.lcm(align, self._multiplier if self.is_depthwise else self.groups)
        ladder = full * np.geomspace(NARROWEST, 1, points)
        steps = np.maximum(np.rint(ladder / align), 1).astype(int) * align
        return sorted({min(align, full), full, *(int(w) for w in steps if w < full)})

    def list_columns(self, points: int) -> list[int]:
        """Return about ``points`` counts of columns on a geometric ladder."""
        ladder = np.rint(self.columns * np.geomspace(SPARSEST, 1, points)).astype(int)
        return sorted({max(int(count), 1) for count in ladder})

    def make_layer(self, channels: int, filters: int, like: Tensor) -> nn.Module:
        """Return a layer of these widths with any weights, in the type and place of ``like``."""
        options, channels = dict(self.options), self.count_channels(channels, filters)
        if self.is_depthwise:
            options["groups"] = channels
        made = self.kind(channels, filters, **options, device=like.device, dtype=like.dtype)
        return made.requires_grad_(requires_grad=False).eval()

    def make_columns(self, filters: int, kept: int, like: Tensor) -> nn.Module:
        """Return a layer of all channels that keeps so many columns, spread at random."""
        mask = torch.zeros(self.columns, dtype=torch.bool)
        mask[torch.randperm(self.columns)[:kept]] = True
        return make_column_layer(self.make_layer(self.channels, filters, like), mask)

    def make_inputs(self, channels: int, like: Tensor) -> Tensor:
        """Return what such a layer reads: random values in the type and place of ``like``."""
        return torch.randn(*self.outer, channels, *self.inner).to(like)


def find_probes(model: nn.Module, graph: LayerGraph, example: Tensor) -> dict[str, Probe]:
    """Return the shape of each layer of ``graph``, as it is in a pass over ``example``.

    Args:
        model: Traced as ``graph``.
        graph: Its layers.
        example: One batch, shape (samples, ...).
    """
    seen: dict[str, Tensor] = {}
    with _watched(model, graph, seen), torch.inference_mode():
        model(example)
    modules = dict(model.named_modules())
    return {
        layer.name: _make_probe(modules[layer.name], seen[layer.name], layer.positions)
        for layer in graph.layers
    }


@contextmanager
def _watched(model: nn.Module, graph: LayerGraph, seen: dict[str, Tensor]) -> Iterator[None]:
    """Put the inputs of every layer into ``seen`` while ``model`` runs."""
    modules = dict(model.named_modules())

    def watch(name: str) -> Any:
        return modules[name].register_forward_pre_hook(
            lambda _, inputs: seen.update({name: inputs[0]})
        )

    hooks = [watch(layer.name) for layer in graph.layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _make_probe(module: nn.Module, inputs: Tensor, positions: int) -> Probe:
    if isinstance(module, nn.Conv2d):
        names = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        options = tuple((name, getattr(module, name)) for name in names)
        inner = tuple(inputs.shape[2:])
        filters, outer = module.out_channels, tuple(inputs.shape[:1])
        depthwise = is_depthwise_conv(module)
        channels = module.groups if depthwise else module.in_channels
        return Probe(nn.Conv2d, channels, filters, options, outer, inner, positions)
    outer, options = tuple(inputs.shape[:-1]), ()
    if not isinstance(module, nn.Linear):
        raise TypeError(f"want a Conv2d or Linear, got {type(module).__name__}")
    filters, channels = module.out_features, module.in_features
    return Probe(nn.Linear, channels, filters, options, outer, (), positions)
