import math

import pytest
import torch
from torch import Tensor

from autocompress.errors import SettingError
from autocompress.quantize.entropy import count_distinct
from autocompress.quantize.sharing import (
    Constrained,
    Means,
    Quantiles,
    Shared,
    Sharing,
    Steps,
    share_values,
)

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
WAYS: dict[str, Sharing] = {
    "cws": Means(levels=8),
    "pws": Quantiles(levels=8, seed=3),
    "uq": Steps(levels=8),
    "ecsq": Constrained(levels=8, weight=0.05),
    "ecsq of a rate": Constrained(levels=8, rate=2.0),
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def draw(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.05


def same(one: Shared, other: Shared) -> bool:
    return all(map(torch.equal, one.values, other.values)) and all(
        map(torch.equal, one.codes, other.codes)
    )


@each_way
@each_dtype
def test_values_are_those_of_the_codes(way: Sharing, dtype: torch.dtype) -> None:
    weights = [draw((4, 3, 5)).to(dtype), draw((7, 9), 1).to(dtype), draw((), 2).to(dtype)]
    kept = [draw(tuple(one.shape), 5) > -0.04 for one in weights]

    found = share_values(weights, way, kept=kept)

    everything = torch.cat([one.flatten() for one in found.values])
    some = torch.cat([one[mask] for one, mask in zip(found.values, kept, strict=True)])
    before = torch.cat([one[mask] for one, mask in zip(weights, kept, strict=True)])
    for one, value, code in zip(weights, found.values, found.codes, strict=True):
        assert (value.dtype, value.shape) == (dtype, one.shape)
        assert (code.dtype, code.shape) == (torch.int32, one.shape)
        assert torch.equal(found.codebook[code], value)
        assert torch.equal(code == 0, value == 0)
    assert not torch.cat([one[~mask] for one, mask in zip(found.values, kept, strict=True)]).any()
    assert found.codebook.dtype == dtype
    assert found.codebook[0] == 0
    assert not found.codebook.signbit()[0]
    assert (found.codebook[1:].diff() > 0).all()
    assert len(found.codebook) - 1 == count_distinct(everything)
    assert found.levels == len(some.unique()) <= 8
    counts = some.unique(return_counts=True)[1].double() / len(some)
    assert found.rate == pytest.approx(-float((counts * counts.log2()).sum()))
    error = (some.double() - before.double()).square().mean()
    assert found.error == pytest.approx(float(error))


@each_way
def test_a_second_time_changes_nothing_and_the_same_seed_is_the_same(way: Sharing) -> None:
    weights = [draw((40, 20)), draw((30,), 1)]
    kept = [one.abs() > 0.02 for one in weights]

    once = share_values(weights, way, kept=kept)

    assert same(once, share_values(weights, way, kept=kept))
    if way != WAYS["ecsq"]:  # With a weight, what is left still costs bits.
        twice = share_values(once.values, way, kept=kept)
        assert same(once, twice)
        assert twice.error == 0


@each_way
@each_dtype
def test_few_values_stay_as_they_are(way: Sharing, dtype: torch.dtype) -> None:
    weight = torch.tensor([0.1, -0.3, 0.0, 0.1, 2.0, 0.7], dtype=torch.float64).to(dtype)
    if way == WAYS["ecsq"]:
        way = Constrained(levels=8)
    if way == WAYS["ecsq of a rate"]:
        way = Constrained(levels=8, rate=2.5)

    found = share_values([weight], way)

    assert torch.equal(found.values[0], weight)
    assert (found.levels, found.error) == (5, 0)


@each_way
def test_what_is_not_kept_counts_for_nothing(way: Sharing) -> None:
    weight = draw((300,))
    kept = torch.arange(300) % 3 == 0
    other = torch.where(kept, weight, torch.inf)

    found = share_values([other], way, kept=[kept])
    alone = share_values([weight[kept]], way)

    assert torch.equal(found.values[0][kept], alone.values[0])
    assert torch.equal(found.codebook, alone.codebook)
    assert not found.values[0][~kept].any()
    nothing = share_values([other], way, kept=[torch.zeros_like(kept)])
    assert not nothing.values[0].any()
    assert (nothing.levels, nothing.rate, nothing.error) == (0, 0, 0)
    assert nothing.codebook.tolist() == [0]
    empty = share_values([torch.zeros(0, 3)], way)
    assert empty.values[0].shape == (0, 3)


@each_way
def test_one_codebook_for_two_tensors_is_that_of_both_together(way: Sharing) -> None:
    one, other = draw((10, 30)), 3 * draw((200,), 1)

    found = share_values([one, other], way)
    together = share_values([torch.cat([one.flatten(), other])], way)

    assert torch.equal(torch.cat([found.values[0].flatten(), found.values[1]]), together.values[0])
    assert torch.equal(found.codebook, together.codebook)


@each_way
def test_any_layout_gives_the_same_values(way: Sharing) -> None:
    weight = draw((3, 4, 5, 2))
    want = share_values([weight], way)

    for view in (
        weight.contiguous(memory_format=torch.channels_last),
        weight.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        weight.clone().requires_grad_(),
    ):
        assert torch.equal(share_values([view], way).values[0], want.values[0])
        assert not share_values([view], way).values[0].requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_random_rounding_is_unbiased(dtype: torch.dtype) -> None:
    weight = draw((60,)).to(dtype)
    draws = torch.stack(
        [
            share_values([weight], Quantiles(levels=5, seed=seed)).values[0].double()
            for seed in range(600)
        ]
    )

    gaps = (draws.mean(0) - weight.double()).abs()
    errors = draws.std(0) / math.sqrt(len(draws))
    # 60 means within 4.5 standard errors: one in 2,500 such tests would fail by chance.
    assert (gaps <= 4.5 * errors + 1e-15).all()
    assert (errors > 0).sum() >= 50


def test_random_rounding_takes_one_of_the_two_quantiles_around() -> None:
    weight = draw((999,))

    found = share_values([weight], Quantiles(levels=4))

    want = torch.quantile(weight.double(), torch.tensor([0, 1 / 3, 2 / 3, 1]).double()).float()
    # Two float64 interpolations of the same two weights.
    assert torch.allclose(found.codebook[1:], want, rtol=1e-6)
    want = found.codebook[1:]
    below = torch.searchsorted(want, weight, right=True).clamp(1, 3) - 1
    assert ((found.values[0] == want[below]) | (found.values[0] == want[below + 1])).all()


def test_uniform_levels_are_multiples_of_one_step() -> None:
    found = share_values([draw((500,))], Steps(levels=7))

    multiples = found.codebook.double() / found.codebook[1:].abs().min().double()
    assert torch.allclose(multiples, multiples.round(), atol=1e-5)
    assert 5 <= found.levels <= 7


@pytest.mark.parametrize("levels", [2, 8, 32])
def test_errors_are_in_the_order_that_the_ways_promise(levels: int) -> None:
    weight = draw((3_000,))
    ways: list[Sharing] = [Means(levels=levels), Steps(levels=levels), Quantiles(levels=levels)]

    means, steps, quantiles = (share_values([weight], way) for way in ways)
    same_rate = share_values([weight], Constrained(levels=levels, rate=steps.rate))

    assert means.error <= steps.error
    assert means.error <= quantiles.error
    assert same_rate.error <= steps.error
    assert same_rate.rate <= steps.rate * (1 + 1e-6)


@each_way
@pytest.mark.gpu
def test_a_gpu_gives_the_same_values(way: Sharing) -> None:
    weight = draw((50, 30))
    want, found = share_values([weight], way), share_values([weight.cuda()], way)

    assert found.values[0].is_cuda
    assert found.codes[0].is_cuda
    assert torch.equal(found.values[0].cpu(), want.values[0])


def test_settings_and_tensors_that_cannot_be_are_refused() -> None:
    for make in (Means, Quantiles, Steps, Constrained):
        with pytest.raises(SettingError, match=r"sharing\.levels"):
            make(levels=0)
        with pytest.raises(SettingError, match=r"sharing\.levels"):
            make(levels=2**16)
    with pytest.raises(SettingError, match=r"want 2..65,535, got 1"):
        Quantiles(levels=1)
    with pytest.raises(SettingError, match=r"sharing\.seed"):
        Quantiles(seed=-1)
    for sweeps in (Means, Constrained):
        with pytest.raises(SettingError, match=r"sharing\.sweeps"):
            sweeps(sweeps=0)
    with pytest.raises(SettingError, match=r"sharing\.weight"):
        Constrained(weight=-1.0)
    with pytest.raises(SettingError, match=r"sharing\.rate"):
        Constrained(rate=math.nan)
    with pytest.raises(ValueError, match="one dtype"):
        share_values([draw((2,)), draw((2,)).double()], Means())
    with pytest.raises(ValueError, match="one dtype"):
        share_values([], Means())
    with pytest.raises(ValueError, match="finite"):
        share_values([torch.tensor([1.0, math.nan])], Means())
