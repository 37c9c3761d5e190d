"""Weight sharing: the kept weights of one tensor or of several come to k values they share.

Unlike :mod:`autocompress.quantize.levels` the values are free; a codebook holds them. The four
ways are those of arXiv:2108.12704, each as its source has it rather than as published code does:
means of clusters, random rounding, equal steps, and cells that cost little after entropy coding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autocompress.errors import SettingError
from autocompress.quantize.codebook import (
    Cells,
    Floats,
    Line,
    find_constrained,
    find_for_rate,
    find_means,
    find_step,
)

MAX_LEVELS = 2**16 - 1


@dataclass(frozen=True, kw_only=True)
class Means:
    """CWS: the centres of a k-means of the weights.

    Attributes:
        kind: ``cws``.
        levels: Distinct values at most, 1..65,535.
        sweeps: Lloyd's at most, from each of a few starts.
    """

    kind: Literal["cws"] = "cws"
    levels: int = 32
    sweeps: int = 1_000

    def __post_init__(self) -> None:
        _check_levels(self.levels)
        _check_sweeps(self.sweeps)


@dataclass(frozen=True, kw_only=True)
class Quantiles:
    """PWS: each weight is rounded to one of the two quantiles around it by chance.

    The chances are such that the mean over many draws is the weight itself (arXiv:1610.05492).

    Attributes:
        kind: ``pws``.
        levels: Quantiles, least and largest weight among them, 2..65,535; fewer where some are
            equal.
        seed: Of the draw.
    """

    kind: Literal["pws"] = "pws"
    levels: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        _check_levels(self.levels, least=2)
        if self.seed < 0:
            raise SettingError(f"sharing.seed: want 0 or more, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class Steps:
    """UQ: multiples of one step, ``step * round(w / step)``; the step is the least that fits.

    Attributes:
        kind: ``uq``.
        levels: Distinct values at most, 0 among them, 1..65,535.
    """

    kind: Literal["uq"] = "uq"
    levels: int = 32

    def __post_init__(self) -> None:
        _check_levels(self.levels)


@dataclass(frozen=True, kw_only=True)
class Constrained:
    """ECSQ: cells of least ``(w - c)^2 - weight var(w) ln p``, p the share of each cell.

    Attributes:
        kind: ``ecsq``.
        levels: Distinct values at most, 1..65,535.
        weight: 0 or more; 0 is a k-means. Not read where ``rate`` is given.
        rate: Bits per weight at most, above 0, by the entropy of the cells: of many weights
            the cells of least error that keep to it. 0 for none.
        sweeps: At most, from each of a few starts.
    """

    kind: Literal["ecsq"] = "ecsq"
    levels: int = 256
    weight: float = 0.0
    rate: float = 0.0
    sweeps: int = 200

    def __post_init__(self) -> None:
        _check_levels(self.levels)
        _check_sweeps(self.sweeps)
        for key in ("weight", "rate"):
            if not 0 <= getattr(self, key) < math.inf:
                raise SettingError(f"sharing.{key}: want 0 or more, got {getattr(self, key)}")


Sharing = Means | Quantiles | Steps | Constrained


@dataclass(frozen=True)
class Shared:
    """Tensors that share their values.

    Attributes:
        values: For each tensor one of its shape, dtype and device.
        codes: For each tensor the places of its values in ``codebook``, int32; 0 where the value
            is 0, removed weights too.
        codebook: Values in the dtype and on the device of the tensors: 0 first, the others
            ascending; all of them occur. ``values[i]`` is ``codebook[codes[i]]`` bit for bit.
        levels: Distinct values of the kept weights: the *effective* k. Counts 0 where a kept
            weight came to it.
        rate: Entropy of the values of the kept weights in bits per weight.
        error: Mean squared change of the kept weights.
    """

    values: tuple[Tensor, ...]
    codes: tuple[Tensor, ...]
    codebook: Tensor
    levels: int
    rate: float
    error: float


def share_values(
    weights: Sequence[Tensor], sharing: Sharing, *, kept: Sequence[Tensor] | None = None
) -> Shared:
    """Return tensors whose kept entries share the values of one codebook.

    Entries that do not count become 0 and belong to no level. Kept weights of no more distinct
    values than levels stay as they are, but with a ``weight`` of ECSQ above 0: so a second time
    changes nothing.

    Args:
        weights: One or more of any shapes, floating point, finite, of one dtype and device.
        sharing: How.
        kept: Entries that count, bool, one tensor in the shape of each weight; None for all.

    Raises:
        ValueError: The tensors are not of one dtype and device, or not finite.
    """
    weights = [one.detach() for one in weights]
    if not weights or len({(one.dtype, one.device) for one in weights}) > 1:
        raise ValueError("want one tensor or more, of one dtype and device")
    masks = [torch.ones_like(one, dtype=torch.bool) for one in weights] if kept is None else kept
    chosen = torch.cat([one[mask] for one, mask in zip(weights, masks, strict=True)])
    if not bool(chosen.isfinite().all()):
        raise ValueError("want finite weights, got infinite ones or NaN")
    numbers = chosen.double().cpu().numpy()
    found = _find_values(numbers, sharing, chosen.dtype) if len(numbers) else numbers
    levels, places, counts = np.unique(found, return_inverse=True, return_counts=True)
    table, codes = _build_table(levels, places)
    shares = counts / max(len(found), 1)
    return _spread(
        weights,
        masks,
        torch.from_numpy(table).to(chosen),
        torch.from_numpy(codes).to(chosen.device),
        figures=(
            len(levels),
            abs(float((shares * np.log2(shares)).sum())),
            float(((found - numbers) ** 2).mean()) if len(found) else 0.0,
        ),
    )


def _spread(
    weights: Sequence[Tensor],
    masks: Sequence[Tensor],
    codebook: Tensor,
    codes: Tensor,
    *,
    figures: tuple[int, float, float],
) -> Shared:
    """Return the codes of all kept entries, one after the other, in the tensors' shapes."""
    spread = []
    for one, part in zip(weights, codes.split([int(mask.sum()) for mask in masks]), strict=True):
        spread.append(torch.zeros_like(one, dtype=torch.int32))
        spread[-1][masks[len(spread) - 1]] = part
    values = tuple(codebook[one] for one in spread)
    return Shared(values, tuple(spread), codebook, *figures)


def _build_table(levels: Floats, places: NDArray[np.intp]) -> tuple[Floats, NDArray[np.int32]]:
    """Return the levels with 0 first, and the codes for the levels' places."""
    zero = levels == 0  # Of both signs: -0.0 becomes 0.
    table = np.concatenate([[0.0], levels[~zero]])
    numbers = np.where(zero, 0, np.cumsum(~zero))
    return table, numbers[places].astype(np.int32)


def _find_values(numbers: Floats, sharing: Sharing, dtype: torch.dtype) -> Floats:
    """Return the value of each number, one or more, as ``dtype`` has it."""
    line = Line.of(numbers)
    if isinstance(sharing, Constrained):
        return _round(_look_up(numbers, line, _find_cells(line, sharing)), dtype)
    if len(line.values) <= sharing.levels:
        return numbers
    if isinstance(sharing, Means):
        cells = find_means(line, sharing.levels, sharing.sweeps)
        return _round(_look_up(numbers, line, cells), dtype)
    if isinstance(sharing, Steps):
        step = find_step(line, sharing.levels)
        return _round(np.rint(numbers / step) * step, dtype)
    quantiles = np.quantile(numbers, np.linspace(0, 1, sharing.levels))
    # Rounded before the draw: to round afterwards would move its mean.
    return _draw(numbers, np.unique(_round(quantiles, dtype)), sharing.seed)


def _find_cells(line: Line, sharing: Constrained) -> Cells:
    """Return the cells for the rate, if one is given, or for the weight."""
    if sharing.rate:
        return find_for_rate(line, sharing.levels, sharing.rate, sharing.sweeps)
    weight = sharing.weight * line.variance
    return find_constrained(line, sharing.levels, weight, sharing.sweeps)


def _look_up(numbers: Floats, line: Line, cells: Cells) -> Floats:
    """Return the centre of the cell of each number."""
    return cells.centres[cells.assign()[np.searchsorted(line.values, numbers)]]


def _draw(numbers: Floats, levels: Floats, seed: int) -> Floats:
    """Return one of the two levels around each number; the mean over all draws is the number."""
    below = np.searchsorted(levels, numbers, side="right").clip(1, len(levels) - 1) - 1
    low, high = levels[below], levels[below + 1]
    chances = (numbers - low) / (high - low)
    return np.where(np.random.default_rng(seed).random(len(numbers)) < chances, high, low)


def _round(numbers: Floats, dtype: torch.dtype) -> Floats:
    """Return numbers as a tensor of ``dtype`` would hold them."""
    return torch.from_numpy(numbers).to(dtype).double().numpy()


def _check_levels(levels: int, least: int = 1) -> None:
    if not least <= levels <= MAX_LEVELS:
        raise SettingError(f"sharing.levels: want {least}..{MAX_LEVELS:,}, got {levels}")


def _check_sweeps(sweeps: int) -> None:
    if sweeps < 1:
        raise SettingError(f"sharing.sweeps: want 1 or more, got {sweeps}")
