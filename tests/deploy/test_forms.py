"""Forms of a layer: equal outputs in the layout that was asked for, also when exported."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.deploy.forms import (
    CroppedConv2d,
    Layer,
    find_support,
    is_channels_last,
    list_forms,
)
from autocompress.shrink.columns import ColumnConv2d, ColumnLinear, make_column_layer

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "padding": {"padding": 1},
    "no bias": {"bias": False, "padding": 1},
    "stride": {"stride": 2, "padding": 1},
    "unequal": {"stride": (1, 2), "padding": (2, 0), "dilation": (2, 1)},
    "same": {"padding": "same", "dilation": (1, 2)},
    "reflect": {"padding": 1, "padding_mode": "reflect"},
    "circular": {"padding": (0, 1), "padding_mode": "circular"},
    "replicate": {"padding": 1, "padding_mode": "replicate"},
}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
SUPPORTS = ("random", "upper left", "lower right", "few channels", "whole channels")


def draw_kept(conv: nn.Conv2d, support: str) -> Tensor:
    """Return which columns are kept: (channels, kh, kw), flattened."""
    kept = torch.rand(conv.weight.shape[1:], generator=torch.Generator().manual_seed(1)) < 0.5
    kept[0] = True
    if support == "upper left":
        kept[:, 2:] = False
        kept[:, :, 2:] = False
    elif support == "lower right":
        kept[:, :1] = False
        kept[:, :, :1] = False
    elif support == "few channels":
        kept[1:3] = False
    elif support == "whole channels":
        kept[:] = torch.tensor([True, False, True, False])[:, None, None]
    kept[0, 1 % kept.shape[1], 1 % kept.shape[2]] = True
    return kept.flatten()


def check_forms(layer: Layer, usual: Tensor, others: list[Tensor], tolerance: float) -> set[str]:
    forms = list_forms(layer, usual)
    assert forms["plain"] is layer
    for name, form in forms.items():
        for inputs in (usual, *others):
            made, want = form(inputs), layer(inputs)
            assert made.dtype == want.dtype
            torch.testing.assert_close(made, want, rtol=tolerance, atol=tolerance, msg=name)
            if name != "plain" and usual.dim() == 4 and made.numel():
                kind = "channels_last" if is_channels_last(usual) else "contiguous"
                assert made.is_contiguous(memory_format=LAYOUTS[kind]), name
    return set(forms)


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 5), (1, 7)], ids=str)
def test_forms_of_a_column_convolution_are_the_layer(
    options: dict[str, Any], layout: torch.memory_format, kernel: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 5, kernel, **options)
    kinds = SUPPORTS if kernel == (3, 3) else ("random",)
    inputs = [
        torch.randn(shape).contiguous(memory_format=layout)
        for shape in ((3, 4, 12, 16), (1, 4, 12, 16), (2, 4, 13, 15), (0, 4, 12, 16))
    ]
    for kind in kinds:
        layer = make_column_layer(conv, draw_kept(conv, kind)).eval()
        assert isinstance(layer, ColumnConv2d)
        for usual in inputs[:2]:
            names = check_forms(layer, usual, inputs, 1e-5)
            assert {"plain", "dense", "rows"} <= names
            assert ("cropped" in names) or kind == "random"


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_forms_in_bfloat16_are_the_layer_up_to_its_rounding(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 6, 3, padding=1).bfloat16()
    layer = make_column_layer(conv, draw_kept(nn.Conv2d(8, 6, 3), "random")).eval()
    linear = make_column_layer(nn.Linear(12, 5).bfloat16(), torch.arange(12) % 3 > 0)
    assert isinstance(layer, ColumnConv2d)
    assert isinstance(linear, ColumnLinear)
    maps = torch.randn(2, 8, 6, 6).bfloat16().contiguous(memory_format=layout)

    # bfloat16 has 8 bits; sums may be rounded once more before the bias.
    check_forms(layer, maps, [], 4e-2)
    check_forms(linear, torch.randn(3, 12).bfloat16(), [], 4e-2)


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_forms_of_a_convolution_are_the_convolution(
    layout: torch.memory_format, groups: int
) -> None:
    conv = nn.Conv2d(4, 8, 3, padding="same", groups=groups, padding_mode="reflect").eval()
    maps = torch.randn(2, 4, 6, 5).contiguous(memory_format=layout)

    names = check_forms(conv, maps, [torch.randn(1, 4, 9, 9)], 1e-5)

    assert names == {"plain", "contiguous", "channels_last"}


@torch.no_grad()
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("is_column", [False, True])
def test_forms_of_a_linear_layer_are_the_layer(bias: bool, is_column: bool) -> None:
    linear = nn.Linear(10, 4, bias=bias).eval()
    layer = make_column_layer(linear, torch.arange(10) % 3 > 0) if is_column else linear
    assert isinstance(layer, nn.Linear | ColumnLinear)
    others = [torch.randn(10), torch.randn(1, 10), torch.randn(2, 3, 10), torch.randn(0, 10)]

    names = check_forms(layer, torch.randn(6, 10), others, 1e-5)

    assert names == {"plain", "conv"} | ({"dense"} if is_column else set())


def test_only_the_layer_itself_takes_what_the_forms_do_not() -> None:
    conv = nn.Conv2d(2, 3, 3)
    layer = make_column_layer(conv, torch.arange(18) > 4)
    assert isinstance(layer, ColumnConv2d)

    assert set(list_forms(layer, torch.randn(2, 5, 5))) == {"plain"}
    assert set(list_forms(layer, torch.zeros(1, 2, 5, 5, dtype=torch.float64))) == {"plain"}


def test_support_is_the_least_box_and_the_channels_read() -> None:
    conv = nn.Conv2d(4, 2, (3, 4))
    kept = torch.zeros(4, 3, 4, dtype=torch.bool)
    kept[1, 0, 2] = kept[3, 1, 3] = True
    layer = make_column_layer(conv, kept.flatten())
    assert isinstance(layer, ColumnConv2d)

    channels, box = find_support(layer)

    assert channels.tolist() == [1, 3]
    assert box == (0, 2, 2, 4)
    form = CroppedConv2d(layer, is_channels_last=False, is_whole=False)
    assert form.weight.shape == (2, 2, 2, 2)


def make_example(is_last: bool, samples: int) -> tuple[ColumnConv2d, Tensor]:
    conv = nn.Conv2d(4, 5, 3, padding=1)
    layer = make_column_layer(conv, draw_kept(conv, "few channels")).eval()
    assert isinstance(layer, ColumnConv2d)
    layout = torch.channels_last if is_last else torch.contiguous_format
    return layer, torch.randn(samples, 4, 6, 7).contiguous(memory_format=layout)


@torch.no_grad()
@pytest.mark.parametrize(("is_last", "samples"), [(False, 1), (True, 2)])
def test_forms_are_exported_and_compiled_whole(is_last: bool, samples: int) -> None:
    layer, maps = make_example(is_last, samples)
    linear = make_column_layer(nn.Linear(7, 3), torch.arange(7) > 2).eval()
    assert isinstance(linear, ColumnLinear)
    cases: list[tuple[Layer, Tensor]] = [(layer, maps), (linear, torch.randn(samples, 7))]
    for one, inputs in cases:
        for name, form in list_forms(one, inputs).items():
            exported = torch.export.export(form.eval(), (inputs,)).module()
            torch._dynamo.reset()
            compiled = torch.compile(form, fullgraph=True, backend="eager")
            want = one(inputs)
            torch.testing.assert_close(exported(inputs), want, rtol=1e-5, atol=1e-5, msg=name)
            torch.testing.assert_close(compiled(inputs), want, rtol=1e-5, atol=1e-5, msg=name)
