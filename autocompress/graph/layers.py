"""A model as counts: its layers and which of their channels live and die together.

Every prunable channel of the model is a *unit*: one number shared by all the filters and input
channels that must be kept or removed together. A residual add joins units, a concat lines
them up, a flatten repeats each one, a depthwise convolution passes them on. Units that touch the
same layers in the same way form a *coupling group*, so that the counts kept per group give
the exact cost of a model before any weight is chosen.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

OUTSIDE = -1  # The unit of channels that no layer of the model produces, such as the image.


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution or linear layer as the matrix ``filters x columns``.

    Attributes:
        name: Qualified module name, such as ``layer1.0.conv1``.
        kind: What the module is.
        filters: Output channels, or features out.
        channels: Input channels, or features in.
        kernel: ``(kh, kw)``; ``(1, 1)`` for a linear layer.
        groups: Groups of the convolution; 1 for a linear layer.
        has_bias: Whether each filter has a bias.
        positions: Output positions per sample, each costing ``filters * columns`` MACs.
        out_units: Unit of each filter; length ``filters``.
        in_units: Unit of each input channel, or ``OUTSIDE``; length ``channels``.
    """

    name: str
    kind: Literal["conv", "linear"]
    filters: int
    channels: int
    kernel: tuple[int, int]
    groups: int
    has_bias: bool
    positions: int
    out_units: tuple[int, ...]
    in_units: tuple[int, ...]

    @property
    def area(self) -> int:
        """Return kh * kw."""
        return self.kernel[0] * self.kernel[1]

    @property
    def columns(self) -> int:
        """Return the weights of one filter."""
        return self.channels // self.groups * self.area

    @property
    def weights(self) -> int:
        """Return the number of weights without biases."""
        return self.filters * self.columns


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A batch normalisation.

    Attributes:
        name: Qualified module name.
        units: Unit of each channel.
        affine: Whether it has a gain and a shift.
    """

    name: str
    units: tuple[int, ...]
    affine: bool = True


@dataclass(frozen=True, kw_only=True)
class Group:
    """A coupling group: the units ``start .. start + size - 1``, chosen by one count.

    Attributes:
        name: Name of its first producer, with ``#2`` and so on when that one has several groups.
        start: First unit.
        size: Number of units.
        prunable: False when a unit reaches the model's output or a layer we cannot slice.
        producers: Names of the layers whose filters these units are.
        consumers: Names of the layers that read them.
    """

    name: str
    start: int
    size: int
    prunable: bool
    producers: tuple[str, ...]
    consumers: tuple[str, ...]

    @property
    def units(self) -> range:
        """Return the units of the group."""
        return range(self.start, self.start + self.size)


@dataclass(frozen=True)
class LayerGraph:
    """The layers of a model in order of execution, its norms and its coupling groups."""

    layers: tuple[Layer, ...]
    norms: tuple[Norm, ...]
    groups: tuple[Group, ...]

    @cached_property
    def by_name(self) -> dict[str, Layer]:
        """Return the layers by module name."""
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def group_by_name(self) -> dict[str, Group]:
        """Return the groups by name."""
        return {group.name: group for group in self.groups}

    @property
    def units(self) -> int:
        """Return the number of units; they are numbered from 0."""
        return sum(group.size for group in self.groups)

    @property
    def column_layers(self) -> tuple[Layer, ...]:
        """Return the layers whose columns can be chosen: those of one convolution group."""
        return tuple(layer for layer in self.layers if layer.groups == 1)
