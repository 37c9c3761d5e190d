"""Find the scale of a set of levels: q so that the nearest q * level is nearest over all."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_GRID = (128, 2048)  # Starts over all scales that make sense: fewest 5-8 % apart, most 0.5 %.
_WORK = 2**20  # Values times starts: the error of a small tensor is rugged, but cheap.
_CLIMBERS = 64  # One of so many starts, the best of them, is alternated; at least 8.
_SWEEPS = 30
_EXACT = 4096  # Larger tensors are searched as a histogram ..
_DROPPED_BITS = 14  # .. of float32 numbers without this many bits: bins 0.2 % wide.


def find_scale(sizes: Tensor, positive: Sequence[float], *, zero: bool) -> float:
    """Return a scale near the best one, rounded to float32.

    Alternates nearest levels and ``<V, L> / <L, L>`` from the best of a grid of starts.

    Args:
        sizes: Magnitudes, float32, shape (n,), not all 0.
        positive: Levels above 0, ascending.
        zero: Whether 0 is a level too.
    """
    values, counts = _summarise(sizes)
    levels = torch.tensor(positive, dtype=torch.float64, device=sizes.device)
    steps = torch.cat([levels.new_zeros(1), levels]) if zero else levels
    mean = float((values * counts).sum() / counts.where(values > 0, 0).sum())
    low, high = mean / (2 * positive[-1]), 1.2 * float(values.max())
    starts = min(max(_WORK // len(values), _GRID[0]), _GRID[1])
    grid = torch.from_numpy(np.geomspace(low, max(high, low), starts)).to(values)
    scales, gains = _sweep(values, counts, grid, steps)
    climbers = max(8, starts // _CLIMBERS)
    scales = scales[gains.argsort(descending=True, stable=True)[:climbers]]
    for _ in range(_SWEEPS):
        scales, gains = _sweep(values, counts, scales, steps)
    best = scales[gains.argmax()].reshape(1)
    if len(values) < len(sizes):  # The histogram's last digits do not matter, but are cheap.
        best = _refine(sizes, best, steps)
    return float(best.float())


def recognise_scale(
    sizes: Tensor, positive: Sequence[float], dtype: torch.dtype, *, zero: bool
) -> float | None:
    """Return the scale of magnitudes that are levels already; None when they are not.

    It is the scale that gives every magnitude back bit by bit after rounding to ``dtype``,
    and the largest if there are several.

    Args:
        sizes: Magnitudes, float32, shape (n,), not all 0.
        positive: Levels above 0, ascending.
        dtype: What the levels were rounded to.
        zero: Whether 0 is a level too.
    """
    if len(sizes[:4096].unique()) > len(positive) + 1:
        return None  # Almost always decided here.
    distinct = sizes.unique()
    if not zero and not bool(distinct[0] > 0):
        return None
    found = distinct[distinct > 0]
    if len(found) > len(positive):
        return None
    if dtype == torch.float64:
        dtype = torch.float32
    exact = found.double()
    levels = torch.tensor(positive, dtype=torch.float64, device=sizes.device)
    # Row m: what if the largest magnitude were level m? Rounded ones blur the higher levels.
    table = levels[_nearest(exact * levels[:, None] / exact[-1], levels)]
    for _ in range(2):
        guess = (table * exact).sum(1, keepdim=True) / table.square().sum(1, keepdim=True)
        table = levels[_nearest(exact / guess, levels)]
    slack = torch.ldexp(torch.finfo(dtype).eps * torch.ones_like(exact), exact.frexp().exponent)
    low = ((exact - slack / 4) / table).amax(1)
    high = ((exact + slack / 4) / table).amin(1)
    scales = ((low + high) / 2).float()
    same = (table.float() * scales[:, None]).to(dtype) == found.to(dtype)
    rows = same.all(1).nonzero()
    return float(scales[rows[0, 0]]) if len(rows) else None


def sort_descending(values: Tensor) -> Tensor:
    """Return the entries of ``values``, shape (n,), from the largest to the smallest."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy())).flip(0)  # 20 times as fast as sort
    return values.sort(descending=True).values


def _summarise(sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Return values and how often each of them occurs; float64."""
    if len(sizes) <= _EXACT:
        return sizes.double(), torch.ones_like(sizes, dtype=torch.float64)
    counts = (sizes.view(torch.int32) >> _DROPPED_BITS).long().bincount()
    bins = counts.nonzero().squeeze(1)
    centres = (bins.int() << _DROPPED_BITS) + (bins > 0) * (1 << (_DROPPED_BITS - 1))
    return centres.int().view(torch.float32).double(), counts[bins].double()


def _sweep(values: Tensor, counts: Tensor, scales: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best scales for the levels nearest at ``scales``, and what they explain.

    Args:
        values: Magnitudes, shape (n,).
        counts: How often each of them occurs, shape (n,) or ().
        scales: Shape (starts,).
        steps: Levels from 0 on or above, ascending.

    Returns:
        Scales, shape (starts,), and sum V^2 minus the squared error, the same shape.
    """
    table = steps[_nearest(values / scales[:, None], steps)]
    weighed = table * counts
    squares = (weighed * table).sum(1)
    products = (weighed * values).sum(1)
    kept = squares > 0
    return torch.where(kept, products / squares, scales), torch.where(
        kept, products.square() / squares, 0.0
    )


def _refine(sizes: Tensor, scale: Tensor, steps: Tensor) -> Tensor:
    """Return the best scale for the levels nearest at ``scale``; shapes (1,).

    One sum for each level, a third of the time of a sweep; equal distances need no search.
    """
    if torch.equal(steps, torch.arange(len(steps)).to(steps)):
        codes = (sizes / scale.to(sizes)).add_(0.5).int().clamp_(max=len(steps) - 1)
    else:
        bounds = ((steps[:-1] + steps[1:]) / 2 * scale).to(sizes)
        codes = torch.bucketize(sizes, bounds, out_int32=True)
    sums = codes.bincount(weights=sizes.double(), minlength=len(steps))
    squares = (codes.bincount(minlength=len(steps)) * steps.square()).sum()
    return torch.where(squares > 0, (sums * steps).sum() / squares, scale)


def _nearest(values: Tensor, steps: Tensor) -> Tensor:
    """Return the numbers of the steps nearest to ``values``; halfway takes the lower one."""
    return torch.bucketize(values, (steps[:-1] + steps[1:]) / 2)
