from typing import Any

import pytest
import torch
from torch import nn

from autocompress.shrink.columns import ColumnConv2d, ColumnLinear, make_column_layer


def draw_kept(columns: int, density: float = 0.4) -> torch.Tensor:
    kept = torch.rand(columns, generator=torch.Generator().manual_seed(3)) < density
    kept[0] = True
    return kept


def mask_columns_(module: nn.Conv2d | nn.Linear, kept: torch.Tensor) -> None:
    with torch.no_grad():
        module.weight.mul_(kept.to(module.weight).reshape(1, *module.weight.shape[1:]))


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "padding": {"padding": 1},
    "no bias": {"bias": False, "padding": 1},
    "stride": {"stride": 2, "padding": 1},
    "unequal": {"stride": (1, 2), "padding": (2, 0), "dilation": (2, 1)},
    "dilation": {"dilation": 2, "padding": 2},
    "same": {"padding": "same", "dilation": (1, 2)},
    "valid": {"padding": "valid"},
    "reflect": {"padding": 1, "padding_mode": "reflect"},
    "circular": {"padding": 1, "padding_mode": "circular"},
    "replicate": {"padding": 1, "padding_mode": "replicate"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("whole", [False, True], ids=["columns", "channels"])
def test_a_column_convolution_is_the_masked_one(
    options: dict[str, Any], samples: int, whole: bool
) -> None:
    conv = nn.Conv2d(4, 5, (3, 2), **options).double()
    kept = torch.tensor([1, 0, 1, 0], dtype=torch.bool).repeat_interleave(6)
    kept = kept if whole else draw_kept(24)
    maps = torch.randn(samples, 4, 8, 7, dtype=torch.float64)

    made = make_column_layer(conv, kept)

    mask_columns_(conv, kept)
    assert isinstance(made, ColumnConv2d)
    assert made.whole_channels == whole
    # float64 sums in another order.
    torch.testing.assert_close(made(maps), conv(maps), rtol=1e-10, atol=1e-10)


def test_channels_last_inputs_and_weights_are_read() -> None:
    conv = nn.Conv2d(4, 5, 3, padding=1).double().to(memory_format=torch.channels_last)
    maps = torch.randn(2, 4, 6, 6, dtype=torch.float64).to(memory_format=torch.channels_last)
    kept = draw_kept(36)

    made = make_column_layer(conv, kept)

    mask_columns_(conv, kept)
    torch.testing.assert_close(made(maps), conv(maps), rtol=1e-10, atol=1e-10)


def test_a_column_linear_is_the_masked_one() -> None:
    linear = nn.Linear(10, 4).double()
    features = torch.randn(2, 3, 10, dtype=torch.float64)
    kept = draw_kept(10)

    made = make_column_layer(linear, kept)

    mask_columns_(linear, kept)
    assert isinstance(made, ColumnLinear)
    torch.testing.assert_close(made(features), linear(features), rtol=1e-10, atol=1e-10)


def test_gradients_are_those_of_the_kept_columns() -> None:
    conv = nn.Conv2d(2, 3, 3, padding=1).double()
    kept = draw_kept(18)
    made = make_column_layer(conv, kept)
    maps = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    mask_columns_(conv, kept)

    made(maps).square().sum().backward()
    conv(maps).square().sum().backward()

    assert isinstance(made, ColumnConv2d)
    assert conv.weight.grad is not None
    torch.testing.assert_close(made.weight.grad, conv.weight.grad.flatten(1)[:, kept])


@pytest.mark.parametrize("whole", [False, True], ids=["columns", "channels"])
def test_torch_export_takes_any_batch_and_size(whole: bool) -> None:
    conv = nn.Conv2d(2, 3, 3, stride=2, padding=1)
    kept = torch.arange(18) < 9 if whole else draw_kept(18)
    net = nn.Sequential(make_column_layer(conv, kept), nn.ReLU(), nn.Flatten(2)).eval()
    maps = torch.randn(2, 2, 6, 6)
    shapes = {"input": {0: torch.export.Dim.DYNAMIC}}

    exported = torch.export.export(net, (maps,), dynamic_shapes=shapes, strict=False).module()

    other = torch.randn(5, 2, 6, 6)
    torch.testing.assert_close(exported(other), net(other))


def test_columns_that_do_not_fit_are_refused() -> None:
    conv = nn.Conv2d(2, 3, 3)

    for columns in ([0, 18], [-1, 2], [3, 3], [4, 1]):
        with pytest.raises(ValueError, match=r"rising numbers in 0\.\.17"):
            ColumnConv2d(conv, torch.tensor(columns), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="filters, kept"):
        ColumnConv2d(conv, torch.tensor([1]), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="want 1 group, got 2"):
        ColumnConv2d(nn.Conv2d(2, 4, 3, groups=2), torch.tensor([1]), torch.zeros(4, 1))


def test_autocast_runs_in_the_lower_precision() -> None:
    made = make_column_layer(nn.Conv2d(2, 3, 3), draw_kept(18))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = made(torch.randn(1, 2, 5, 5))

    assert out.dtype == torch.bfloat16


def test_another_precision_keeps_the_columns() -> None:
    made = make_column_layer(nn.Conv2d(2, 3, 3), draw_kept(18))
    before = made.columns

    made.half()

    assert made.columns is before
