"""What an entropy coder needs for pruned and quantised weights, from counts alone."""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Numbers = NDArray[np.float64] | NDArray[np.int64]

FLOAT_BITS = 32  # Also the bit width of a layer that is not quantised.
SCALE_BITS = 32  # Of a quantised layer: its one factor from level numbers to weights.
_SHIFT = 8  # Stirling's series is exact to 1e-11 from here on.


def count_weight_bits(full: Numbers, kept: Numbers, bits: Numbers) -> Floats:
    """Return the bits of weights of which some are kept: positions, level numbers and scale.

    The positions of ``kept`` of ``full`` take ``log2 C(full, kept)`` bits. Where all level
    numbers, zeros too, are shorter, they are what counts; so more kept weights never cost less.

    Args:
        full: Weights of each layer within its kept filters and columns; any shape.
        kept: Those that are kept, in the shape of ``full``, real numbers from 0 to ``full``.
        bits: Bit widths in a shape that fits; ``FLOAT_BITS`` for no quantisation.

    Returns:
        The shape of ``full``.
    """
    sparse = log2_choose(full, kept) + kept * bits
    scales = np.where(bits < FLOAT_BITS, SCALE_BITS, 0)
    coded: Floats = np.minimum(sparse, full * bits) + scales
    return coded


def log2_choose(full: Numbers, kept: Numbers) -> Floats:
    """Return log2 of the number of ways to choose ``kept`` of ``full``; exactly 0 at both ends.

    Args:
        full: Real numbers, 0 or more; any shape.
        kept: In the same shape, from 0 to ``full``.
    """
    chosen = np.zeros(np.shape(full))
    inner = (kept > 0) & (kept < full)
    if inner.any():
        some, every = kept[inner], full[inner]
        terms = _log_factorial(np.stack([every, some, every - some]).astype(np.float64))
        chosen[inner] = np.maximum(terms[0] - terms[1] - terms[2], 0.0) / math.log(2)
    return chosen


def _log_factorial(number: Floats) -> Floats:
    """Return ln(number!), by Stirling's series for a number ``_SHIFT`` larger."""
    shift = np.ones_like(number)
    for step in range(1, _SHIFT + 1):
        shift = shift * (number + step)
    far = number + _SHIFT + 1
    inverse = 1 / far
    square = inverse * inverse
    series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))
    logs: Floats = (far - 0.5) * np.log(far) - far + 0.5 * math.log(2 * math.pi) + series
    return logs - np.log(shift)
