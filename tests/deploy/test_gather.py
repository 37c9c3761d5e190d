"""Gathered products against the plain column layer, over everything that a convolution can be."""

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.deploy.gather import FlatGatherConv2d, Reach, RowGatherConv2d, sort_columns
from autocompress.shrink.columns import ColumnConv2d, make_column_layer

Draw = st.DrawFn


def make_layer(conv: nn.Conv2d, density: float, seed: int) -> ColumnConv2d:
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(conv.weight[0].numel(), generator=generator) < density
    kept[seed % len(kept)] = True
    layer = make_column_layer(conv, kept)
    assert isinstance(layer, ColumnConv2d)
    return layer.requires_grad_(requires_grad=False)


@st.composite
def draw_case(draw: Draw) -> tuple[ColumnConv2d, Tensor, Tensor]:
    """Return a layer, its usual input and another one, both in one layout."""
    size = st.integers(1, 5)
    kernel = draw(st.tuples(size, size))
    mode: Any = draw(st.sampled_from(["zeros", "reflect", "circular", "replicate"]))
    two = st.tuples(st.integers(1, 3), st.integers(1, 3))
    stride, dilation = draw(two), draw(two)
    pads = st.tuples(st.integers(0, 3), st.integers(0, 3))
    padding: Any = draw(st.one_of(st.just("same"), pads))
    stride = (1, 1) if padding == "same" else stride
    seed = draw(st.integers(0, 1000))
    torch.manual_seed(seed)
    conv = nn.Conv2d(
        draw(size),
        draw(size),
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        padding_mode=mode,
        bias=draw(st.booleans()),
    )
    layer = make_layer(conv, draw(st.sampled_from([0.1, 0.5, 1.0])), seed)
    reach = 4 + max(step * (side - 1) for step, side in zip(dilation, kernel, strict=True))
    shapes = [
        (draw(st.integers(1, 3)), conv.in_channels, reach + draw(size), reach + draw(size))
        for _ in range(2)
    ]
    is_last = draw(st.booleans())
    layout = torch.channels_last if is_last else torch.contiguous_format
    usual, other = (torch.randn(shape).contiguous(memory_format=layout) for shape in shapes)
    return layer, usual, other


def is_laid_out(maps: Tensor, is_channels_last: bool) -> bool:
    layout = torch.channels_last if is_channels_last else torch.contiguous_format
    return maps.is_contiguous(memory_format=layout)


def check(form: nn.Module, layer: ColumnConv2d, maps: Tensor, is_channels_last: bool) -> None:
    made = form(maps)
    # float32 sums in another order.
    torch.testing.assert_close(made, layer(maps), rtol=1e-5, atol=1e-5)
    assert is_laid_out(made, is_channels_last)


@settings(max_examples=60, deadline=None)
@given(draw_case(), st.booleans(), st.booleans())
def test_rows_are_the_layer(
    case: tuple[ColumnConv2d, Tensor, Tensor], is_last: bool, is_matmul: bool
) -> None:
    layer, usual, other = case

    form = RowGatherConv2d(layer, usual, is_channels_last=is_last, is_matmul=is_matmul)

    check(form, layer, usual, is_last)
    check(form, layer, other, is_last)


@settings(max_examples=60, deadline=None)
@given(draw_case(), st.booleans())
def test_a_flat_gather_is_the_layer(
    case: tuple[ColumnConv2d, Tensor, Tensor], is_last: bool
) -> None:
    layer, usual, other = case

    form = FlatGatherConv2d(layer, usual, is_channels_last=is_last)

    check(form, layer, usual, is_last)
    check(form, layer, other, is_last)


@settings(max_examples=30, deadline=None)
@given(draw_case(), st.booleans())
def test_a_matrix_product_is_the_layer(
    case: tuple[ColumnConv2d, Tensor, Tensor], is_last: bool
) -> None:
    layer, usual, other = case

    form = FlatGatherConv2d(layer, usual, is_channels_last=is_last, is_matmul=True)

    check(form, layer, usual, is_last)
    check(form, layer, other, is_last)


@settings(max_examples=100, deadline=None)
@given(draw_case(), st.booleans())
def test_margins_that_are_not_there_read_as_zeros(
    case: tuple[ColumnConv2d, Tensor, Tensor], is_last: bool
) -> None:
    layer, usual, other = case
    layer.padding_mode = "zeros"

    form = FlatGatherConv2d(layer, usual, is_channels_last=is_last, is_bare=True)

    check(form, layer, usual, is_last)
    check(form, layer, other, is_last)


def test_what_stands_beside_a_margin_may_be_infinite() -> None:
    layer = make_layer(nn.Conv2d(2, 3, 3, padding=1), 1.0, 0)
    maps = torch.randn(2, 2, 4, 4)
    maps[:, :, 3, 3] = torch.inf
    form = FlatGatherConv2d(layer, maps, is_channels_last=False, is_bare=True)

    is_finite = form(maps).isfinite()

    assert torch.equal(is_finite, layer(maps).isfinite())
    assert is_finite[:, :, :2, :2].all()


def test_columns_are_sorted_by_where_they_read() -> None:
    layer = make_layer(nn.Conv2d(6, 3, 3), 0.5, 1)

    columns, weight = sort_columns(layer)

    pairs = [(int(column) % 9, int(column) // 9) for column in columns]
    assert pairs == sorted(pairs)
    for place, column in enumerate(columns):
        old = int((layer.columns == column).nonzero())
        torch.testing.assert_close(weight[:, place], layer.weight[:, old])


def test_places_are_counted_as_a_convolution_does() -> None:
    conv = nn.Conv2d(2, 3, (3, 2), stride=(2, 3), dilation=(1, 2), padding=(2, 1))
    maps = torch.randn(1, 2, 11, 12)
    reach = Reach.of(make_layer(conv, 0.5, 2))

    padded = reach.pad_maps(maps)

    assert reach.count_places(*padded.shape[2:]) == tuple(conv(maps).shape[2:])


def test_state_is_loaded_whatever_size_it_was_made_for() -> None:
    layer = make_layer(nn.Conv2d(3, 4, 3, padding=1), 0.5, 3)
    small, large = torch.randn(1, 3, 4, 4), torch.randn(2, 3, 9, 7)
    saved = RowGatherConv2d(layer, small, is_channels_last=True).state_dict()
    made = RowGatherConv2d(layer, large, is_channels_last=True)
    nn.init.zeros_(made.weight)

    made.load_state_dict(saved)

    check(made, layer, large, is_channels_last=True)
