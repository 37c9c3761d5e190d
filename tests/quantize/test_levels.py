import math
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autocompress.errors import SettingError
from autocompress.quantize.levels import Levels, decode_levels, project_levels

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SETS = {
    "4 bits": Levels(),
    "3 bits": Levels(bits=3),
    "2 bits": Levels(bits=2),
    "8 bits": Levels(bits=8),
    "4 bits, no zero": Levels(zero=False),
    "powers": Levels(kind="powers_of_two"),
    "3 bits of powers": Levels(kind="powers_of_two", bits=3),
    "powers, no zero": Levels(kind="powers_of_two", zero=False),
    "ternary": Levels(kind="ternary"),
    "ternary, no zero": Levels(kind="ternary", zero=False),
    "binary": Levels(kind="binary"),
}
each_set = pytest.mark.parametrize("levels", SETS.values(), ids=SETS.keys())
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def draw(shape: tuple[int, ...], seed: int, *, heavy: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator) * 0.05
    return values * torch.rand(shape, generator=generator).log().abs() if heavy else values


def list_steps(levels: Levels) -> Tensor:
    """Return all levels in units of the scale, written out from their definition."""
    top = 2 ** (levels.bits - 1) - 1
    positive = {
        "equal_distance": [float(step) for step in range(1, top + 1)],
        "powers_of_two": [2.0**-step for step in range(top)],
        "ternary": [1.0],
        "binary": [1.0],
    }[levels.kind]
    zero = [0.0] if levels.zero and levels.kind != "binary" else []
    return torch.tensor([*zero, *positive, *(-step for step in positive)], dtype=torch.float64)


def measure_error(weight: Tensor, steps: Tensor, scale: float) -> float:
    gaps = (weight.double().flatten()[:, None] - scale * steps).abs().amin(1)
    return float(gaps.square().sum())


def find_least_error(weight: Tensor, levels: Levels) -> float:
    """Return the least error over a grid of 4,000 scales and no levels at all."""
    steps, top = list_steps(levels), float(weight.abs().max())
    grid = torch.logspace(-3, 0.3, 4_000, dtype=torch.float64) * top
    sizes = weight.double().abs().flatten()
    positive = steps[steps >= 0].sort().values
    bounds = (positive[:-1] + positive[1:]) / 2
    places = torch.bucketize(sizes[:, None] / grid, bounds)
    return float((sizes[:, None] - grid * positive[places]).square().sum(0).min())


def error_of(weight: Tensor, values: Tensor) -> float:
    return float((weight.double() - values.double()).square().sum())


@each_set
@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("size", [2, 5, 100])
def test_no_scale_of_a_fine_grid_is_much_nearer(levels: Levels, size: int, heavy: bool) -> None:
    for seed in range(2):
        weight = draw((size,), seed, heavy=heavy)

        found = project_levels(weight, levels)

        # Alternation ends in a local optimum; the grid of starts keeps it this near.
        share = 1.0 if len(list_steps(levels)) <= 3 else 1.02
        slack = 1e-9 * float(weight.double().square().sum())
        assert error_of(weight, found.values) <= share * find_least_error(weight, levels) + slack


@each_set
@pytest.mark.parametrize("seed", range(3))
def test_values_are_the_nearest_levels_of_their_scale(levels: Levels, seed: int) -> None:
    weight = draw((4, 7, 3), seed)

    found = project_levels(weight, levels)

    # 84 squares of about 0.002 in float32 values.
    want = measure_error(weight, list_steps(levels), found.scale)
    assert error_of(weight, found.values) == pytest.approx(want, rel=1e-5)


@each_set
@each_dtype
@pytest.mark.parametrize("size", [1, 3, 60, 5_000])
def test_projecting_again_changes_no_bit(levels: Levels, dtype: torch.dtype, size: int) -> None:
    for seed in range(2):
        weight = draw((size,), seed).to(dtype)

        once = project_levels(weight, levels)
        twice = project_levels(once.values, levels)

        assert once.values.dtype == dtype
        assert torch.equal(once.values, twice.values)


@each_set
@each_dtype
def test_codes_and_scale_give_the_values(levels: Levels, dtype: torch.dtype) -> None:
    weight = draw((5, 6, 2), 0).to(dtype)
    kept = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.7

    found = project_levels(weight, levels, kept=kept)

    assert found.codes.dtype == torch.int16
    assert found.scale == float(torch.tensor(found.scale))  # A float32.
    sizes = torch.tensor([0.0, *levels.positive])
    signs = found.codes.sign().float()
    by_hand = signs * (sizes[found.codes.abs().long()] * torch.tensor(found.scale))
    assert torch.equal(by_hand.to(dtype), found.values)
    assert torch.equal(decode_levels(found.codes, levels, found.scale).to(dtype), found.values)
    assert torch.equal(found.codes != 0, found.values != 0)
    assert not found.values[~kept].any()
    if not levels.zero or levels.kind == "binary":
        assert found.values[kept].all()


@each_set
def test_what_is_not_kept_counts_for_nothing(levels: Levels) -> None:
    weight, kept = draw((30,), 0), torch.arange(30) % 3 == 0
    other = torch.where(kept, weight, 1e6)

    found = project_levels(other, levels, kept=kept)
    alone = project_levels(weight[kept], levels)

    assert found.scale == alone.scale
    assert torch.equal(found.values[kept], alone.values)


@each_set
@pytest.mark.parametrize("factor", [0.01, 3.0])
def test_a_scaled_tensor_has_a_scaled_projection(levels: Levels, factor: float) -> None:
    weight = draw((300,), 1)

    found = project_levels(weight * factor, levels)

    # Rounding may tip a weight that lies halfway between two levels.
    error = error_of(weight * factor, found.values) / factor**2
    assert error == pytest.approx(
        error_of(weight, project_levels(weight, levels).values), rel=1e-4
    )


@each_set
def test_a_negated_tensor_has_a_negated_projection(levels: Levels) -> None:
    weight = draw((300,), 2)

    assert torch.equal(
        project_levels(-weight, levels).values, -project_levels(weight, levels).values
    )


@each_set
@pytest.mark.parametrize("heavy", [False, True])
def test_the_histogram_of_a_large_tensor_loses_nothing(levels: Levels, heavy: bool) -> None:
    weight = draw((20_000,), 3, heavy=heavy)
    steps = list_steps(levels)

    found = project_levels(weight, levels)

    error = error_of(weight, found.values)
    for nudge in (0.98, 0.99, 0.999, 1.001, 1.01, 1.02):
        # The scale is that of the best bins, which are 0.2 % wide.
        assert error <= measure_error(weight, steps, nudge * found.scale) * (1 + 1e-3)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=5), st.booleans())
def test_ternary_is_the_nearest_of_all_patterns(values: list[int], tied: bool) -> None:
    weight = torch.tensor(values, dtype=torch.float64) / (1 if tied else 3)
    energy = float(weight.square().sum())
    least = energy
    for pattern in product((-1.0, 0.0, 1.0), repeat=len(values)):
        chosen = torch.tensor(pattern, dtype=torch.float64)
        if chosen.any():
            least = min(least, energy - float((weight @ chosen) ** 2 / (chosen @ chosen)))

    found = project_levels(weight, Levels(kind="ternary"))

    # Weights become float32: their squares, up to 112, are right to 1e-5.
    assert error_of(weight, found.values) == pytest.approx(least, abs=1e-5)


def test_binary_is_the_mean_with_signs_and_zero_is_positive() -> None:
    weight = torch.tensor([[-3.0, 0.0], [-0.0, 1.0]])

    found = project_levels(weight, Levels(kind="binary"))

    assert found.scale == 1.0
    assert found.values.tolist() == [[-1.0, 1.0], [1.0, 1.0]]
    assert found.codes.tolist() == [[-1, 1], [1, 1]]


@each_set
@each_dtype
def test_tensors_without_any_choice(levels: Levels, dtype: torch.dtype) -> None:
    zeros, constant = torch.zeros(2, 3, dtype=dtype), torch.full((2, 3), -0.3, dtype=dtype)
    single = torch.tensor([0.7], dtype=dtype)

    for weight in (zeros, constant, single, torch.tensor(0.7, dtype=dtype)):
        found = project_levels(weight, levels)

        assert torch.equal(found.values, weight.float().to(dtype))
        assert found.codes.shape == weight.shape
    assert project_levels(zeros, levels).scale == 0
    nothing = project_levels(constant, levels, kept=torch.zeros(2, 3, dtype=torch.bool))
    assert not nothing.values.any()
    assert not nothing.codes.any()
    assert project_levels(torch.zeros(0, 3, dtype=dtype), levels).values.shape == (0, 3)


@each_set
def test_any_layout_gives_the_same_values(levels: Levels) -> None:
    weight = draw((3, 4, 5, 2), 4)
    kept = draw((3, 4, 5, 2), 5) > -0.03
    want = project_levels(weight, levels, kept=kept)

    for view in (
        weight.contiguous(memory_format=torch.channels_last),
        weight.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        weight.clone().requires_grad_(),
    ):
        found = project_levels(view, levels, kept=kept)
        assert torch.equal(found.values, want.values)
        assert found.scale == want.scale
        assert not found.values.requires_grad


@each_set
def test_levels_are_those_of_the_definition(levels: Levels) -> None:
    positive = list(levels.positive)

    assert sorted(positive) == positive
    assert positive == sorted(step for step in list_steps(levels).tolist() if step > 0)
    if levels.kind == "powers_of_two":
        assert all(math.log2(b / a) == 1 for a, b in pairwise(positive))


@pytest.mark.parametrize("bits", [1, 9])
def test_bits_out_of_range_are_refused(bits: int) -> None:
    with pytest.raises(SettingError, match=f"want 2..8 for equal_distance, got {bits}"):
        Levels(bits=bits)
    assert Levels(kind="binary", bits=bits).positive == (1.0,)
