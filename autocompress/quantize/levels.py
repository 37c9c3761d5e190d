"""Project weights on sets of few values.

Each projection finds the nearest tensor whose kept entries are ``level * scale``, the levels
being fixed by the settings and the scale by the weights. Sources: ADMM-NN, arXiv:1812.11677;
ternary and binary: arXiv:1605.04711 and 1603.05279, solved exactly.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from autocompress.errors import SettingError
from autocompress.quantize.scale import find_scale, recognise_scale, sort_descending

Kind = Literal["equal_distance", "powers_of_two", "ternary", "binary"]


@dataclass(frozen=True, kw_only=True)
class Levels:
    """A set of values; also its TOML table.

    Attributes:
        kind: ``equal_distance`` is q {-M..M} with M = 2^(bits - 1) - 1; ``powers_of_two`` is 0
            and +-q 2^{0, -1, .., -(M - 1)}; ``ternary`` is q {-1, 0, 1}; ``binary`` is q {-1, 1}.
        bits: 2..8 for equal distances, 2..6 for powers of two; the others do not read it.
        zero: Whether a kept weight may become 0; never for ``binary``.
    """

    kind: Kind = "equal_distance"
    bits: int = 4
    zero: bool = True

    def __post_init__(self) -> None:
        most = {"equal_distance": 8, "powers_of_two": 6}.get(self.kind)
        if most is not None and not 2 <= self.bits <= most:
            raise SettingError(f"levels.bits: want 2..{most} for {self.kind}, got {self.bits}")

    @property
    def positive(self) -> tuple[float, ...]:
        """Return the levels above 0 in units of the scale, ascending; code k is the k-th."""
        if self.kind in ("ternary", "binary"):
            return (1.0,)
        count = 2 ** (self.bits - 1) - 1
        if self.kind == "equal_distance":
            return tuple(float(level) for level in range(1, count + 1))
        return tuple(2.0 ** (level - count) for level in range(1, count + 1))

    @property
    def has_zero(self) -> bool:
        """Return whether 0 is a level."""
        return self.zero and self.kind != "binary"


@dataclass(frozen=True)
class Quantized:
    """A tensor of few values.

    Attributes:
        values: Shape, dtype and device of the weight.
        codes: Shape of the weight, int16: signed level numbers, 0 where the value is 0.
        scale: Size of the unit level, a float32; 0 when all values are 0.
    """

    values: Tensor
    codes: Tensor
    scale: float


def project_levels(weight: Tensor, levels: Levels, *, kept: Tensor | None = None) -> Quantized:
    """Return the nearest tensor to ``weight`` whose kept entries are levels.

    Exact for ``ternary`` and ``binary``; for the others exact for the scale found, which comes
    from a grid and alternation. A tensor that is such a tensor already comes back bit by bit. An
    exact 0 counts as positive where 0 is no level.

    Args:
        weight: Any shape, floating point, finite.
        levels: The set.
        kept: Entries that count, bool in the weight's shape; the others become 0.

    Returns:
        ``values == decode_levels(codes, levels, scale)`` in float32, rounded to the weight's
        dtype.
    """
    chosen = weight.detach().reshape(-1) if kept is None else weight.detach()[kept]
    signed = chosen.float()
    sizes = signed.abs()
    scale = _fit_scale(sizes, levels, chosen.dtype)
    found = assign_codes(sizes, levels, scale)
    found = torch.where(signed < 0, -found, found)
    codes = torch.zeros(weight.shape, dtype=torch.int16, device=weight.device)
    if kept is None:
        codes = found.reshape(weight.shape)
    else:
        codes[kept] = found
    return Quantized(decode_levels(codes, levels, scale).to(weight.dtype), codes, scale)


def decode_levels(codes: Tensor, levels: Levels, scale: float) -> Tensor:
    """Return the float32 values of signed level numbers."""
    if levels.kind == "equal_distance":
        return codes * torch.tensor(scale, dtype=torch.float32)  # A fifth of a table's time.
    positive = torch.tensor(levels.positive, dtype=torch.float32) * scale
    table = torch.cat([-positive.flip(0), torch.zeros(1), positive]).to(codes.device)
    return table[codes.int() + len(positive)]


def assign_codes(sizes: Tensor, levels: Levels, scale: float) -> Tensor:
    """Return the numbers of the levels nearest to magnitudes; shape of ``sizes``, int16.

    Args:
        sizes: Magnitudes, float32 or float64.
        levels: The set.
        scale: Its unit; with 0 all codes are 0.
    """
    if scale == 0:
        return torch.zeros_like(sizes, dtype=torch.int16)
    if levels.kind == "equal_distance":  # A search costs ten times as much with 8 bits.
        most = len(levels.positive)
        codes = (sizes / scale).sub_(0.5).ceil_().clamp_(0 if levels.has_zero else 1, most)
        return codes.to(torch.int16)
    steps = (0.0, *levels.positive) if levels.has_zero else levels.positive
    bounds = torch.tensor(steps, dtype=torch.float64)
    bounds = ((bounds[:-1] + bounds[1:]) / 2 * scale).to(sizes)
    codes = torch.bucketize(sizes.contiguous(), bounds, out_int32=True).to(torch.int16)
    return codes if levels.has_zero else codes + 1


def _fit_scale(sizes: Tensor, levels: Levels, dtype: torch.dtype) -> float:
    """Return the scale for magnitudes, rounded to float32."""
    if not sizes.numel() or not bool(sizes.any()):
        return 0.0
    if len(levels.positive) == 1:
        return _fit_ternary(sizes) if levels.has_zero else _round(sizes.mean(dtype=torch.float64))
    zero = levels.has_zero
    known = recognise_scale(sizes, levels.positive, dtype, zero=zero)
    return find_scale(sizes, levels.positive, zero=zero) if known is None else known


def _fit_ternary(sizes: Tensor) -> float:
    """Return S_k / k for the k that maximises S_k^2 / k, S_k the sum of the k largest."""
    sums = sort_descending(sizes).double().cumsum(0)
    counts = torch.arange(1, len(sums) + 1, device=sums.device)
    best = (sums.square() / counts).argmax()
    return _round(sums[best] / counts[best])


def _round(scale: Tensor) -> float:
    return float(scale.float())
