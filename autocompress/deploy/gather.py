"""A column convolution run fast: gather what is read, row by row, then one 1x1 convolution.

The same gather as ``im2col``, of the kept columns only. Two things make it fast in stock PyTorch:
``torch.gather`` with an index that is expanded over samples and rows, and stays in the first
cache; and a 1x1 convolution in place of a matrix product, for which oneDNN has better kernels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress.shrink.columns import ColumnConv2d


@dataclass(frozen=True, kw_only=True)
class Reach:
    """What a convolution reads of its maps; pairs are (down, right).

    Attributes:
        kernel: Height and width.
        stride: Step between outputs.
        dilation: Step between the places of the kernel.
        pad: Added places (left, right, top, bottom).
        padding_mode: As in ``nn.Conv2d``.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pad: tuple[int, int, int, int]
    padding_mode: str

    @classmethod
    def of(cls, layer: ColumnConv2d) -> "Reach":
        """Return the reach of ``layer``."""
        return cls(
            kernel=layer.kernel,
            stride=layer.stride,
            dilation=layer.dilation,
            pad=layer.pad,
            padding_mode=layer.padding_mode,
        )

    def pad_maps(self, maps: Tensor) -> Tensor:
        """Return ``maps`` (samples, channels, height, width) with their margins."""
        if not any(self.pad):
            return maps
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return functional.pad(maps, self.pad, mode=mode)

    def count_places(self, height: int, width: int) -> tuple[int, int]:
        """Return the output's height and width, given those of padded maps."""
        down = self.dilation[0] * (self.kernel[0] - 1) + 1
        right = self.dilation[1] * (self.kernel[1] - 1) + 1
        return (height - down) // self.stride[0] + 1, (width - right) // self.stride[1] + 1


class RowGatherConv2d(nn.Module):
    """A column convolution by a gather for each row of outputs, and a 1x1 convolution.

    The output has the memory layout that ``is_channels_last`` says. Maps of any size are taken;
    those of the size it was made for find their index ready.

    Attributes:
        weight: Shape (filters, kept, 1, 1), or (filters, kept) for a matrix product; the columns
            stand by places of the kernel.
        bias: Shape (filters,), or None.
        columns: Shape (kept,), int32, in the order of the weight.
        index: Where one row of outputs reads, counted from where its window begins in the
            flattened padded maps of a sample; shape (width * kept,), int64, as ``torch.gather``
            wants it.
    """

    columns: Tensor
    index: Tensor

    def __init__(
        self,
        layer: ColumnConv2d,
        inputs: Tensor,
        *,
        is_channels_last: bool,
        is_matmul: bool = False,
    ) -> None:
        """Make the form of ``layer``.

        Args:
            layer: Its bias is shared.
            inputs: Shape (samples, channels, height, width); only the shape matters.
            is_channels_last: Whether maps are read and returned in that layout.
            is_matmul: Take a matrix product instead of a 1x1 convolution.
        """
        super().__init__()
        self.reach, self.is_channels_last = Reach.of(layer), is_channels_last
        columns, weight = sort_columns(layer)
        weight = weight if is_matmul else weight[:, :, None, None]
        self.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        self.bias = layer.bias
        self.register_buffer("columns", columns.to(torch.int32))
        left, right, top, bottom = self.reach.pad
        _, channels, height, width = inputs.shape
        self.size = (channels, height + top + bottom, width + left + right)
        self.register_buffer("index", self._make_index(*self.size), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (samples, filters, height, width) of (samples, channels, height, width)."""
        layout = torch.channels_last if self.is_channels_last else torch.contiguous_format
        maps = self.reach.pad_maps(maps).contiguous(memory_format=layout)
        samples, channels, height, width = maps.shape
        is_known = (channels, height, width) == self.size
        index = self.index if is_known else self._make_index(channels, height, width)
        out_height, out_width = self.reach.count_places(height, width)
        flat = (maps.permute(0, 2, 3, 1) if self.is_channels_last else maps).flatten(1)
        step = self.reach.stride[0] * width * (channels if self.is_channels_last else 1)
        kept = len(self.columns)
        if torch.compiler.is_exporting():  # Windows that overlap are not for every runtime.
            begin = torch.arange(out_height, device=maps.device) * step
            places = (begin[:, None] + index).flatten()
            gathered = flat.index_select(1, places)
        else:
            windows = flat.unfold(1, flat.shape[1] - (out_height - 1) * step, step)
            gathered = windows.gather(2, index.expand(samples, out_height, -1))
        gathered = gathered.view(samples, out_height, out_width, kept)
        product = multiply_rows(gathered, self.weight, self.bias)
        return product.contiguous(memory_format=layout)

    def _make_index(self, channels: int, height: int, width: int) -> Tensor:
        """Return the index for padded maps of that size."""
        channel, y, x = _split_columns(self.columns.long(), self.reach)
        right = torch.arange(self.reach.count_places(height, width)[1], device=channel.device)
        right = right * self.reach.stride[1]
        if self.is_channels_last:
            corner = (y * width + x) * channels + channel
            return (right[:, None] * channels + corner).flatten()
        corner = (channel * height + y) * width + x
        return (right[:, None] + corner).flatten()

    def extra_repr(self) -> str:
        """Return the sizes for ``repr``."""
        return f"{tuple(self.weight.shape)}, channels_last={self.is_channels_last}"


class FlatGatherConv2d(nn.Module):
    """A column convolution by one flat index into each sample, and a product.

    Without margins (``is_bare``) the maps are not copied to be padded: what would be read of
    the margins is read anywhere, and zeros are written over it. That pays for large maps.

    Attributes:
        weight: Shape (filters, kept, 1, 1), or (filters, kept) for a matrix product; the columns
            stand by places of the kernel.
        bias: Shape (filters,), or None.
        columns: Shape (kept,), int32, in the order of the weight.
        index: What all outputs read of the flattened maps of a sample; int64, of shape
            (height * width * kept,) for channels_last, (kept * height * width,) otherwise.
    """

    columns: Tensor
    index: Tensor

    def __init__(
        self,
        layer: ColumnConv2d,
        inputs: Tensor,
        *,
        is_channels_last: bool,
        is_bare: bool = False,
        is_matmul: bool = False,
    ) -> None:
        """Make the form of ``layer``.

        Args:
            layer: Its bias is shared.
            inputs: Shape (samples, channels, height, width); only the shape matters.
            is_channels_last: Whether maps are read and returned in that layout.
            is_bare: Leave out the margins, which must be of zeros.
            is_matmul: Take a matrix product instead of a 1x1 convolution.
        """
        super().__init__()
        self.reach, self.is_channels_last = Reach.of(layer), is_channels_last
        self.is_bare, self.is_matmul = is_bare, is_matmul
        columns, weight = sort_columns(layer)
        weight = weight if is_matmul else weight[:, :, None, None]
        self.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        self.bias = layer.bias
        self.register_buffer("columns", columns.to(torch.int32))
        self.places = _list_places(columns, self.reach)
        left, right, top, bottom = self.reach.pad
        height, width = inputs.shape[2:]
        self.size = (height + top + bottom, width + left + right)
        index = self._make_index(layer.channels, *self.size, is_bare=is_bare)
        self.register_buffer("index", index, persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (samples, filters, height, width) of (samples, channels, height, width)."""
        layout = torch.channels_last if self.is_channels_last else torch.contiguous_format
        is_bare = self.is_bare and not torch.compiler.is_exporting()
        left, right, top, bottom = self.reach.pad
        samples, channels, height, width = maps.shape
        height, width = height + top + bottom, width + left + right
        maps = maps if is_bare else self.reach.pad_maps(maps)
        maps = maps.contiguous(memory_format=layout)
        is_known = (height, width) == self.size and is_bare == self.is_bare
        index = (
            self.index if is_known else self._make_index(channels, height, width, is_bare=is_bare)
        )
        flat = maps.permute(0, 2, 3, 1) if self.is_channels_last else maps
        if samples == 1:
            gathered = flat.flatten().index_select(0, index)
        else:
            gathered = flat.flatten(1).gather(1, index.expand(samples, -1))
        down, across = self.reach.count_places(height, width)
        kept = len(self.columns)
        shape = (down, across, kept) if self.is_channels_last else (kept, down, across)
        gathered = gathered.view(samples, *shape)
        if is_bare:
            self._clear_margins_(gathered, height - top - bottom, width - left - right)
        return self._multiply(gathered)

    def _multiply(self, gathered: Tensor) -> Tensor:
        """Return the filters' maps of what was gathered, in the layout of this form."""
        if self.is_channels_last:
            return multiply_rows(gathered, self.weight, self.bias)
        if not self.is_matmul:
            return functional.conv2d(gathered, self.weight, self.bias).contiguous()
        product = self.weight @ gathered.flatten(2)
        if self.bias is not None:
            product = product + self.bias[:, None]
        return product.unflatten(2, gathered.shape[2:])

    def _make_index(self, channels: int, height: int, width: int, *, is_bare: bool) -> Tensor:
        """Return the index for maps that have that size with their margins."""
        left, right, top, bottom = self.reach.pad
        channel, y, x = _split_columns(self.columns.long(), self.reach)
        down, across = self.reach.count_places(height, width)
        rows = torch.arange(down, device=channel.device)[:, None, None] * self.reach.stride[0] + y
        spots = torch.arange(across, device=channel.device)[:, None] * self.reach.stride[1] + x
        if is_bare:
            height, width = height - top - bottom, width - left - right
            rows = (rows - top).clamp(0, height - 1)
            spots = (spots - left).clamp(0, width - 1)
        if self.is_channels_last:
            return ((rows * width + spots) * channels + channel).flatten()
        return ((channel * height + rows) * width + spots).permute(2, 0, 1).flatten()

    def _clear_margins_(self, gathered: Tensor, height: int, width: int) -> None:
        """Write zeros over what was read for the margins of maps of that size."""
        by_column = gathered if self.is_channels_last else gathered.permute(0, 2, 3, 1)
        left, _, top, _ = self.reach.pad
        down, across = by_column.shape[1:3]
        for is_row, place, first, last in self.places:
            part = by_column[..., first:last]
            step, total = self.reach.stride[0 if is_row else 1], down if is_row else across
            begin, size = place - (top if is_row else left), height if is_row else width
            axis = 1 if is_row else 2
            low = min(max(-(begin // step), 0), total)
            high = min(max(-((begin - size) // step), low), total)
            if low:
                part.narrow(axis, 0, low).zero_()
            if high < total:
                part.narrow(axis, high, total - high).zero_()

    def extra_repr(self) -> str:
        """Return the sizes for ``repr``."""
        shown = f"bare={self.is_bare}, matmul={self.is_matmul}"
        return f"{tuple(self.weight.shape)}, channels_last={self.is_channels_last}, {shown}"


def sort_columns(layer: ColumnConv2d) -> tuple[Tensor, Tensor]:
    """Return the columns by places of the kernel, then channels; and the weight in that order.

    Neighbours in channels_last maps are then neighbours in an index.

    Returns:
        Shapes (kept,), int64, and (filters, kept).
    """
    area, columns = layer.kernel[0] * layer.kernel[1], layer.columns.long()
    order = (columns % area * layer.channels + columns // area).argsort()
    return columns[order], layer.weight.detach()[:, order]


def multiply_rows(gathered: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return maps in channels_last of what was gathered for each place.

    Args:
        gathered: Shape (samples, height, width, kept).
        weight: Shape (filters, kept, 1, 1), or (filters, kept) for a matrix product, which reads
            a large weight once where a convolution orders it anew: better for few places.
        bias: Shape (filters,), or None.
    """
    samples, height, width, kept = gathered.shape
    if weight.dim() == 2:
        return functional.linear(gathered, weight, bias).permute(0, 3, 1, 2)
    if not gathered.numel():
        return functional.conv2d(gathered.permute(0, 3, 1, 2), weight, bias)
    # One image with all places: small maps of many samples take a quarter less time.
    rows = gathered.view(1, -1, 1, kept).permute(0, 3, 1, 2)
    product = functional.conv2d(rows, weight, bias).permute(0, 2, 3, 1)
    return product.reshape(samples, height, width, len(weight)).permute(0, 3, 1, 2)


def _split_columns(columns: Tensor, reach: Reach) -> tuple[Tensor, Tensor, Tensor]:
    """Return the channel of each column, and how far down and right of a corner it reads."""
    kh, kw = reach.kernel
    y, x = columns // kw % kh * reach.dilation[0], columns % kw * reach.dilation[1]
    return columns // (kh * kw), y, x


def _list_places(columns: Tensor, reach: Reach) -> list[tuple[bool, int, int, int]]:
    """Return where sorted columns read, as runs of equal rows, and of equal spots in a row.

    Returns:
        Whether it is a row, how far down or right of a corner it is, first and last column.
    """
    _, kw = reach.kernel
    rows: list[tuple[bool, int, int, int]] = []
    spots: list[tuple[bool, int, int, int]] = []
    places = (columns % (reach.kernel[0] * kw)).tolist()
    for runs, divisor, is_row in ((rows, kw, True), (spots, 1, False)):
        first = 0
        for last in range(1, len(places) + 1):
            place = places[first] // divisor
            if last < len(places) and places[last] // divisor == place:
                continue
            far = place * reach.dilation[0] if is_row else place % kw * reach.dilation[1]
            runs.append((is_row, far, first, last))
            first = last
    return rows + spots
