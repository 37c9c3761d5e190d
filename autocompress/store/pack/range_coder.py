"""Bits to bytes and back, each bit at the price of its own probability.

A binary arithmetic coder on whole numbers, without carries: an interval of 32 bits is cut at each
bit in proportion to the probabilities, and leading bytes on which both ends agree are written.
The last bytes are the fewest that keep every continuation inside the interval. So no code is the
beginning of another one, and a decoder can tell exactly how many bytes its encoder wrote.
Probabilities are whole numbers of 1/65,536.

Source of the scheme: Rissanen and Langdon, "Arithmetic Coding", IBM Journal 1979.
"""

from bisect import bisect_right
from functools import cache
from math import isqrt
from typing import Protocol

from autocompress.errors import FormatError

ONE = 1 << 16  # A probability of 1, which no bit may have.
STEPS = 256  # Logarithms are whole numbers of 1/256 bit.
REACH = 12 * STEPS  # Log odds beyond 4,096 to 1 are taken for these.

_BITS = 32
_ALL = (1 << _BITS) - 1
_TOP = 0xFF << (_BITS - 8)
_EXACT = 12  # Logarithms of numbers of more bits are those of their first twelve.


class BitCoder(Protocol):
    """Either side of the coder, so that one model serves both."""

    def code(self, bit: int, chance: int) -> int:
        """Write ``bit`` and return it; or read a bit, whatever ``bit`` is, and return that.

        Args:
            bit: 0 or 1.
            chance: Probability of a 1, 1..65,535 of 65,536.
        """
        ...


class BitCounter:
    """Writes nothing, and counts what bits would cost.

    Attributes:
        cost: In 1/256 bit.
    """

    def __init__(self) -> None:
        self.cost = 0

    def code(self, bit: int, chance: int) -> int:
        """Count a bit; see :meth:`BitCoder.code`."""
        self.cost += 16 * STEPS - log2(chance if bit else ONE - chance)
        return bit


class BitWriter:
    """Bits to bytes."""

    def __init__(self) -> None:
        self._low = 0
        self._high = _ALL
        self._bytes = bytearray()

    def code(self, bit: int, chance: int) -> int:
        """Write a bit; see :meth:`BitCoder.code`."""
        low, high = self._low, self._high
        middle = low + ((high - low) * chance >> 16)
        if bit:
            high = middle
        else:
            low = middle + 1
        while not (low ^ high) & _TOP:
            self._bytes.append(high >> (_BITS - 8))
            low = (low << 8) & _ALL
            high = (high << 8) & _ALL | 0xFF
        self._low, self._high = low, high
        return bit

    def finish(self) -> bytes:
        """Return all bytes; nothing may be written after that."""
        return bytes(self._bytes) + _close(self._low, self._high)


class BitReader:
    """What a :class:`BitWriter` wrote; may come from anyone."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = bytes(data)
        self._low = 0
        self._high = _ALL
        self._read = _BITS // 8  # Bytes taken, those beyond the end as zeros.
        self._value = int.from_bytes(self._data[: self._read].ljust(self._read, b"\0"), "big")

    def code(self, bit: int, chance: int) -> int:
        """Read a bit; see :meth:`BitCoder.code`.

        Raises:
            FormatError: The bytes have ended.
        """
        low, high = self._low, self._high
        middle = low + ((high - low) * chance >> 16)
        if self._value <= middle:
            bit, high = 1, middle
        else:
            bit, low = 0, middle + 1
        while not (low ^ high) & _TOP:
            low = (low << 8) & _ALL
            high = (high << 8) & _ALL | 0xFF
            self._shift()
        self._low, self._high = low, high
        return bit

    def finish(self) -> None:
        """Check that the bytes end as a writer of these bits ends them.

        Raises:
            FormatError: They are too few, too many, or others.
        """
        if self._data[self._read - _BITS // 8 :] != _close(self._low, self._high):
            raise FormatError("bits: the last bytes are not what a writer ends with")

    def _shift(self) -> None:
        data, place = self._data, self._read
        following = data[place] if place < len(data) else 0
        self._value = (self._value << 8) & _ALL | following
        self._read = place + 1
        if place + 1 - _BITS // 8 > len(data):
            raise FormatError("bits: want more bytes")


def log2(number: int) -> int:
    """Return the logarithm of 1 or more, in 1/256 bit, equal on all machines."""
    if number < 1 << _EXACT:
        return _LOGARITHMS[number]
    spare = number.bit_length() - _EXACT
    return _LOGARITHMS[number >> spare] + spare * STEPS


def _close(low: int, high: int) -> bytes:
    """Return the fewest bytes that any bytes may follow without leaving ``low``..``high``."""
    for size in range(_BITS // 8):
        spare = _BITS - 8 * size
        first = -(-low >> spare)
        if (first + 1 << spare) - 1 <= high:
            return first.to_bytes(size, "big")
    return low.to_bytes(_BITS // 8, "big")


@cache
def _list_powers() -> list[int]:
    """Return 2^(n/512) for n in 0..512, in 2^-40, from whole numbers alone."""
    precise = 80
    root = 2 << precise
    for _ in range(9):
        root = isqrt(root << precise)
    powers = [1 << precise]
    for _ in range(2 * STEPS):
        powers.append(powers[-1] * root >> precise)
    return [power >> precise - 40 for power in powers]


def _list_logarithms() -> list[int]:
    """Return the logarithms of 1..4,095 after one that is never asked for, in 1/256 bit."""
    halves = _list_powers()[1::2]  # Where the rounded logarithm rises by 1.
    found = [0]
    for number in range(1, 1 << _EXACT):
        whole = number.bit_length() - 1
        found.append(whole * STEPS + bisect_right(halves, (number << 40) >> whole))
    return found


def _list_chances() -> list[int]:
    """Return the probabilities, in 1/65,536, of log odds of -12 bits to 12, in 1/256 bit."""
    wholes = _list_powers()[::2]
    chances = []
    for odds in range(-REACH, REACH + 1):
        whole, part = divmod(odds, STEPS)
        power = wholes[part] << 12 + whole  # Times 2^52.
        chances.append((power << 16) // (power + (1 << 52)))
    return chances


_LOGARITHMS = _list_logarithms()
CHANCES = _list_chances()  # By log odds + REACH.
