"""Ways to run one layer that all compute the same; which is fastest is for measuring to say."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress.deploy.gather import FlatGatherConv2d, Reach, RowGatherConv2d
from autocompress.shrink.columns import ColumnConv2d, ColumnLinear
from autocompress.shrink.expand import expand_weight

Layer = nn.Conv2d | nn.Linear | ColumnConv2d | ColumnLinear
LAYER_TYPES = (nn.Conv2d, nn.Linear, ColumnConv2d, ColumnLinear)
PLAIN = "plain"
LARGEST_INDEX = 2**20  # 8 MiB: a larger index costs more to read than it saves.

MakeForm = Callable[[], nn.Module]


class CroppedConv2d(nn.Module):
    """A column convolution with zeros filled in, over the channels and places it reads at all.

    Attributes:
        weight: Shape (filters, channels read, height, width of the part of the kernel).
        bias: Shape (filters,), or None.
        channels: The channels that are read, int64; None where all are.
    """

    channels: Tensor | None

    def __init__(self, layer: ColumnConv2d, *, is_channels_last: bool, is_whole: bool) -> None:
        """Make the form of ``layer``.

        Args:
            layer: Its bias is shared.
            is_channels_last: Whether maps are read and returned in that layout.
            is_whole: Keep all channels and the whole kernel.
        """
        super().__init__()
        self.reach, self.layout = Reach.of(layer), find_layout(is_channels_last=is_channels_last)
        channels, (top, bottom, left, right) = find_support(layer)
        kh, kw = layer.kernel
        if is_whole:
            channels = torch.arange(layer.channels, device=channels.device)
            top, bottom, left, right = 0, kh, 0, kw
        weight = expand_weight(layer)[:, channels, top:bottom, left:right]
        weight = weight.contiguous(memory_format=self.layout)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = layer.bias
        self.register_buffer("channels", None if len(channels) == layer.channels else channels)
        down, across = self.reach.dilation
        self.edges = (left * across, (kw - right) * across, top * down, (kh - bottom) * down)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (samples, filters, height, width) of (samples, channels, height, width)."""
        if self.channels is not None:
            maps = _select_channels(maps, self.channels, self.layout)
        maps = maps.contiguous(memory_format=self.layout)
        maps, zeros = self._pad_maps(maps)
        product = functional.conv2d(
            maps,
            self.weight,
            self.bias,
            stride=self.reach.stride,
            padding=zeros,
            dilation=self.reach.dilation,
        )
        return product.contiguous(memory_format=self.layout)

    def _pad_maps(self, maps: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return maps with the margins that are read, and what the convolution is to pad."""
        sides = [pad - edge for pad, edge in zip(self.reach.pad, self.edges, strict=True)]
        left, right, top, bottom = sides
        if self.reach.padding_mode == "zeros" or not any(self.reach.pad):
            if left == right >= 0 and top == bottom >= 0:
                return maps, (top, left)
            return functional.pad(maps, sides), (0, 0)  # Below 0 it cuts off.
        maps = self.reach.pad_maps(maps)
        left, right, top, bottom = self.edges
        height, width = maps.shape[2:]
        return maps[:, :, top : height - bottom, left : width - right], (0, 0)

    def extra_repr(self) -> str:
        """Return the sizes for ``repr``."""
        return f"{tuple(self.weight.shape)}, edges={self.edges}"


class LayoutConv2d(nn.Module):
    """A convolution that computes in a layout of its own and returns the one it was made for."""

    def __init__(self, conv: nn.Conv2d, *, inner: torch.memory_format, is_channels_last: bool):
        """Make the form of ``conv``.

        Args:
            conv: Its bias is shared.
            inner: Layout to compute in.
            is_channels_last: Whether maps are returned in that layout.
        """
        super().__init__()
        self.inner, self.outer = inner, find_layout(is_channels_last=is_channels_last)
        self.conv = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            _pair(conv.kernel_size),
            stride=_pair(conv.stride),
            padding=conv.padding if isinstance(conv.padding, str) else _pair(conv.padding),
            dilation=_pair(conv.dilation),
            groups=conv.groups,
            padding_mode=conv.padding_mode,
            device="meta",
        )
        weight = conv.weight.detach().contiguous(memory_format=inner)
        self.conv.weight = nn.Parameter(weight, requires_grad=False)
        self.conv.bias = conv.bias

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (samples, filters, height, width) of (samples, channels, height, width)."""
        product = self.conv(maps.contiguous(memory_format=self.inner))
        return product.contiguous(memory_format=self.outer)


class ConvLinear(nn.Module):
    """A linear layer as a 1x1 convolution over its rows, which oneDNN runs faster for many.

    Attributes:
        weight: Shape (filters, features read, 1, 1).
        bias: Shape (filters,), or None.
        columns: The features that are read, int64; None where all are.
    """

    columns: Tensor | None

    def __init__(self, layer: nn.Linear | ColumnLinear) -> None:
        """Make the form of ``layer``; its bias is shared."""
        super().__init__()
        weight = layer.weight.detach()[:, :, None, None].contiguous()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = layer.bias
        columns = layer.columns.long() if isinstance(layer, ColumnLinear) else None
        self.register_buffer("columns", columns)

    def forward(self, features: Tensor) -> Tensor:
        """Return features (..., filters) of features (..., channels)."""
        rows = features.flatten(0, -2) if features.dim() > 1 else features[None]
        if self.columns is not None:
            rows = rows.gather(1, self.columns.expand(len(rows), -1))
        if not rows.numel():
            return functional.linear(rows, self.weight.flatten(1), self.bias).unflatten(
                0, features.shape[:-1]
            )
        product = functional.conv2d(rows.t()[None, :, :, None], self.weight, self.bias)
        return product.permute(0, 2, 3, 1).reshape(*features.shape[:-1], len(self.weight))


class DenseLinear(nn.Module):
    """A column linear layer with zeros filled in."""

    def __init__(self, layer: ColumnLinear) -> None:
        """Make the form of ``layer``; its bias is shared."""
        super().__init__()
        self.weight = nn.Parameter(expand_weight(layer), requires_grad=False)
        self.bias = layer.bias

    def forward(self, features: Tensor) -> Tensor:
        """Return features (..., filters) of features (..., channels)."""
        return functional.linear(features, self.weight, self.bias)


def list_forms(layer: Layer, inputs: Tensor) -> dict[str, nn.Module]:
    """Return ways to run ``layer``, by name, all with equal outputs up to rounding.

    Args:
        layer: Not changed; its bias and its device are those of the forms.
        inputs: What it will mostly be called with. Other sizes are computed right as well. Its
            memory layout is that of the outputs.

    Returns:
        ``plain``, which is ``layer`` itself, and others that may be faster; for evaluation only.
    """
    return {name: make() for name, make in list_makers(layer, inputs).items()}


def list_makers(layer: Layer, inputs: Tensor) -> dict[str, MakeForm]:
    """Return what makes each of :func:`list_forms`."""
    made: dict[str, MakeForm] = {PLAIN: lambda: layer}
    is_float = inputs.dtype == layer.weight.dtype and inputs.is_floating_point()
    if isinstance(layer, nn.Linear | ColumnLinear):
        if is_float and layer.weight.numel():
            made["conv"] = partial(ConvLinear, layer)
            if isinstance(layer, ColumnLinear):
                made["dense"] = partial(DenseLinear, layer)
        return made
    if inputs.dim() != 4 or not is_float or not layer.weight.numel():
        return made
    is_last = is_channels_last(inputs)
    if isinstance(layer, nn.Conv2d):
        for name, inner in LAYOUTS.items():
            made[name] = partial(LayoutConv2d, layer, inner=inner, is_channels_last=is_last)
        return made
    return made | _list_column_makers(layer, inputs, is_last=is_last)


LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def is_channels_last(maps: Tensor) -> bool:
    """Return whether convolutions take ``maps`` (four axes) for channels_last."""
    is_last = maps.is_contiguous(memory_format=torch.channels_last)
    return is_last and not maps.is_contiguous()


def find_layout(*, is_channels_last: bool) -> torch.memory_format:
    """Return the memory format of that layout."""
    return torch.channels_last if is_channels_last else torch.contiguous_format


def find_support(layer: ColumnConv2d) -> tuple[Tensor, tuple[int, int, int, int]]:
    """Return what a layer reads at all.

    Returns:
        The channels, rising, int64; and the part of the kernel (top, bottom, left, right), whose
        ends are not part of it.
    """
    kh, kw = layer.kernel
    columns = layer.columns.long()
    y, x = columns // kw % kh, columns % kw
    channels = (columns // (kh * kw)).unique()
    return channels, (int(y.min()), int(y.max()) + 1, int(x.min()), int(x.max()) + 1)


def _list_column_makers(
    layer: ColumnConv2d, inputs: Tensor, *, is_last: bool
) -> dict[str, MakeForm]:
    made: dict[str, MakeForm] = {}
    make_crop = partial(CroppedConv2d, layer, is_channels_last=is_last)
    made["dense"] = partial(make_crop, is_whole=True)
    channels, box = find_support(layer)
    if len(channels) < layer.channels or box != (0, layer.kernel[0], 0, layer.kernel[1]):
        made["cropped"] = partial(make_crop, is_whole=False)
    make_rows = partial(RowGatherConv2d, layer, inputs, is_channels_last=is_last)
    made["rows"] = make_rows
    made["rows matmul"] = partial(make_rows, is_matmul=True)
    if _count_index(layer, inputs) > LARGEST_INDEX:
        return made
    make_flat = partial(FlatGatherConv2d, layer, inputs, is_channels_last=is_last)
    made["flat"] = make_flat
    made["flat matmul"] = partial(make_flat, is_matmul=True)
    if any(layer.pad) and layer.padding_mode == "zeros":
        made["bare"] = partial(make_flat, is_bare=True)
    return made


def _count_index(layer: ColumnConv2d, inputs: Tensor) -> int:
    left, right, top, bottom = layer.pad
    height, width = inputs.shape[2] + top + bottom, inputs.shape[3] + left + right
    down, across = Reach.of(layer).count_places(height, width)
    return len(layer.columns) * down * across


def _select_channels(maps: Tensor, channels: Tensor, layout: torch.memory_format) -> Tensor:
    """Return some channels of maps; a gather, as ``index_select`` is slow along the last axis."""
    if layout is not torch.channels_last:
        return maps.index_select(1, channels)
    samples, _, height, width = maps.shape
    rows = maps.permute(0, 2, 3, 1).flatten(0, 2)
    rows = rows.gather(1, channels.expand(len(rows), -1))
    return rows.view(samples, height, width, len(channels)).permute(0, 3, 1, 2)


def _pair(value: tuple[int, ...]) -> tuple[int, int]:
    return value[0], value[1]
