"""Adaptive probabilities of bits from several hints, on whole numbers.

A hint is the logarithm of how many times more often than expected something occurred, so that
hints add up to log odds: twice as often in this row and half as often in this column is as usual.
The weight of each hint is learned with every bit ("logistic mixing", after M. Mahoney, "Adaptive
Weighing of Context Models for Lossless Data Compression", 2005).
"""

from collections.abc import Sequence

from autocompress.store.pack.range_coder import CHANCES, ONE, REACH, BitCoder, log2

UNIT = 16  # One occurrence in a pair of counts; starts are smaller.

_LEAF = 12  # What each number of a tree starts with,
_LEAVES = 16  # or so many together.
_RATE = 13  # Two to the power of minus this: how fast weights learn.
_EXPECTED = 20  # Expected numbers are whole numbers of two to the power of minus this.


class Tallies:
    """How often something occurred in each of several places, and was expected to."""

    def __init__(self, places: int, prior: float) -> None:
        self._prior = int(prior * (1 << _EXPECTED))
        self._found = [self._prior] * places
        self._expected = [self._prior] * places

    def hint(self, place: int) -> int:
        """Return the logarithm of found to expected, in 1/256 bit; 0 at first.

        The larger the prior, the more it takes to depart from 0.
        """
        return log2(self._found[place]) - log2(self._expected[place])

    def add(self, place: int, found: int, expected: int) -> None:
        """Take in ``found`` occurrences where ``expected``, in 2^-20, were expected."""
        self._found[place] += found << _EXPECTED
        self._expected[place] += expected


class Pair:
    """How often a bit was 1 and 0.

    Attributes:
        odds: Logarithm of ones to zeros, in 1/256 bit.
    """

    def __init__(self, ones: int, zeros: int) -> None:
        self._counts = [zeros, ones]
        self.odds = log2(ones) - log2(zeros)

    def add(self, bit: int) -> None:
        """Take in a bit."""
        self._counts[bit] += UNIT
        self.odds = log2(self._counts[1]) - log2(self._counts[0])


def code_mixed(
    coder: BitCoder, bit: int, odds: int, hints: Sequence[int], weights: list[int]
) -> int:
    """Code a bit whose log odds are ``odds`` and the weighted hints; the weights learn.

    Args:
        coder: Writes, reads or counts.
        bit: 0 or 1; anything where ``coder`` reads.
        odds: In 1/256 bit.
        hints: In 1/256 bit.
        weights: One for each hint, in 1/65,536; changed.

    Returns:
        The bit.
    """
    total = odds << 16
    for hint, weight in zip(hints, weights, strict=True):
        total += hint * weight
    total >>= 16
    chance = CHANCES[REACH + (-REACH if total < -REACH else min(total, REACH))]
    bit = coder.code(bit, chance)
    error = (ONE if bit else 0) - chance
    for place, hint in enumerate(hints):
        if hint:
            weights[place] += error * hint >> _RATE
    return bit


def code_plain(coder: BitCoder, value: int, most: int) -> int:
    """Code a number of 0..``most``, all of them alike likely or nearly so; see ``BitCoder``."""
    found = 0
    for place in reversed(range(most.bit_length())):
        found = found << 1 | coder.code(value >> place & 1, ONE // 2)
    return found


class Tree:
    """Adaptive probabilities of the numbers below ``size``."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._counts: dict[tuple[int, int], list[int]] = {}

    def code(self, coder: BitCoder, value: int) -> int:
        """Code a number; see :class:`BitCoder`."""
        start, stop = 0, self._size
        while stop - start > 1:
            middle = (start + stop) // 2
            counts = self._counts.get((start, stop))
            if counts is None:
                whole = stop - start
                start_with = _LEAF * min(whole, _LEAVES)
                high = start_with * (stop - middle) // whole
                counts = [start_with - high, high]
                self._counts[start, stop] = counts
            chance = (counts[1] << 16) // (counts[0] + counts[1])
            bit = coder.code(int(value >= middle), min(max(chance, 1), ONE - 1))
            counts[bit] += UNIT
            start, stop = (middle, stop) if bit else (start, middle)
        return start
