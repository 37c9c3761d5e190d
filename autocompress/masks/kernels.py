"""Kernel patterns with connectivity: few kernels, each with its weights at one of few patterns.

Source: pattern-based pruning, PCONV, arXiv:1909.05073, and PatDNN, arXiv:2001.00138.
"""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from autocompress.errors import SettingError
from autocompress.masks.rank import keep_weights

_SIDE = 3


def choose_patterns(weights: Sequence[Tensor], entries: int = 4, patterns: int = 8) -> Tensor:
    """Return the patterns that are best for the most kernels.

    All patterns have the centre. Ties go to the one that comes first when places are counted
    row by row.

    Args:
        weights: Shapes (filters, channels, 3, 3), on one device.
        entries: Weights of a pattern, 1..9.
        patterns: Patterns wanted, 1 or more; fewer when there are not so many.

    Returns:
        Shape (patterns, 3, 3), bool.

    Raises:
        SettingError: A count is out of range, or a kernel is not 3 x 3.
    """
    if not 1 <= entries <= _SIDE**2 or patterns < 1:
        raise SettingError(f"want 1..9 entries and 1 or more patterns, got {entries}, {patterns}")
    if not weights:
        raise SettingError("want 3 x 3 kernels to choose patterns for, got none")
    every = _list_patterns(entries).to(weights[0].device)
    votes = torch.zeros(len(every), dtype=torch.int64, device=every.device)
    for weight in weights:
        votes += _choose(weight, every).flatten().bincount(minlength=len(every))
    kept = keep_weights(votes, min(patterns, len(every)))
    return every[kept]


def project_patterns(weight: Tensor, library: Tensor, keep_kernels: int) -> Tensor:
    """Return the nearest tensor of at most ``keep_kernels`` kernels, each in a pattern.

    Exact: a kernel's best pattern does not depend on the others, and those with the most energy
    in their patterns stay. Equal ones keep the lower index.

    Args:
        weight: Shape (filters, channels, 3, 3), floating point, finite.
        library: Patterns, shape (patterns, 3, 3), bool.
        keep_kernels: Kernels to keep, 0..filters * channels.

    Returns:
        A new tensor with the shape, dtype and device of ``weight``.

    Raises:
        SettingError: A count is out of range, or a kernel is not 3 x 3.
    """
    library = library.to(weight.device)
    best = library[_choose(weight, library)]
    energies = (_measure(weight) * best).sum((2, 3))
    kept = best & keep_weights(energies, keep_kernels)[..., None, None]
    return torch.where(kept, weight, torch.zeros_like(weight))


def _list_patterns(entries: int) -> Tensor:
    """Return all patterns with the centre; shape (patterns, 3, 3), bool."""
    centre = _SIDE**2 // 2
    others = [place for place in range(_SIDE**2) if place != centre]
    found = [[centre, *rest] for rest in combinations(others, entries - 1)]
    table = torch.zeros(len(found), _SIDE**2, dtype=torch.bool)
    table.scatter_(1, torch.tensor(found), True)  # noqa: FBT003 - a value
    return table.reshape(-1, _SIDE, _SIDE)


def _choose(weight: Tensor, library: Tensor) -> Tensor:
    """Return the number of each kernel's pattern of most energy; shape (filters, channels)."""
    if weight.shape[2:] != (_SIDE, _SIDE):
        raise SettingError(f"want kernels of 3 x 3, got a weight of shape {tuple(weight.shape)}")
    energies = torch.einsum("fcyx,pyx->fcp", _measure(weight), library.double())
    best = energies.amax(2, keepdim=True)
    return (energies == best).int().argmax(2)


def _measure(weight: Tensor) -> Tensor:
    return weight.detach().double().square()
