"""Whole numbers as runs of bits, the lowest bit of the lowest byte first."""

from math import prod

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import FormatError
from autocompress.store.pack.codec import Codes, Indices

_GROUPS = 2**14  # Groups of eight numbers at a time, so that they stay in the cache.
_LONGEST = 40  # Bits of a number between its zeros and its end; no table needs more.


def pack_bits(values: Codes, width: int) -> bytes:
    """Return ``values`` in ``width`` bits each, and zeros up to a whole byte.

    Args:
        values: Below ``2**width``; shape (count,).
        width: 0..16.
    """
    groups = -(-len(values) // 8)
    packed = np.zeros((groups, width), np.uint8)
    for first in range(0, groups, _GROUPS):
        part = values[8 * first : 8 * (first + _GROUPS)]
        table = np.zeros((-(-len(part) // 8), 8), np.uint32)
        table.reshape(-1)[: len(part)] = part
        rows = packed[first : first + _GROUPS]
        for place in range(8):
            byte, shift = divmod(place * width, 8)
            spread = table[:, place] << np.uint32(shift)
            for step in range(-(-(shift + width) // 8)):
                rows[:, byte + step] |= (spread >> np.uint32(8 * step)).astype(np.uint8)
    return packed.tobytes()[: _count_bytes(len(values), width)]


def unpack_bits(data: memoryview, count: int, width: int) -> Codes:
    """Return what :func:`pack_bits` was given; shape (count,).

    Raises:
        FormatError: ``data`` is longer or shorter, or padded with anything but zeros.
    """
    size = _count_bytes(count, width)
    if len(data) != size:
        raise FormatError(f"want {size:,} bytes of numbers, got {len(data):,}")
    read = np.frombuffer(data, np.uint8)
    if count * width % 8 and read[-1] >> count * width % 8:
        raise FormatError("want zeros after the last number")
    values = np.empty(count, np.uint16)
    for first in range(0, -(-count // 8), _GROUPS):
        part = read[first * width : (first + _GROUPS) * width]
        some = values[8 * first : 8 * (first + _GROUPS)]
        rows = np.zeros((-(-len(some) // 8), width), np.uint8)
        rows.reshape(-1)[: len(part)] = part
        some[:] = _unpack_groups(rows, width)[: len(some)]
    return values


def _unpack_groups(rows: NDArray[np.uint8], width: int) -> Codes:
    """Return eight numbers from each of ``rows``; shape (8 x rows,)."""
    table = np.zeros((len(rows), 8), np.uint16)
    for place in range(8 if width else 0):
        byte, shift = divmod(place * width, 8)
        spread = np.zeros(len(rows), np.uint32)
        for step in range(-(-(shift + width) // 8)):
            spread |= rows[:, byte + step].astype(np.uint32) << np.uint32(8 * step)
        table[:, place] = (spread >> np.uint32(shift)) & np.uint32(2**width - 1)
    return table.reshape(-1)


def _count_bytes(count: int, width: int) -> int:
    return -(-count * width // 8)


class BitWriter:
    """Bits that grow."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self.count = 0

    def plain(self, value: int, width: int) -> None:
        """Append a whole number in ``width`` bits."""
        if width:
            self._parts.append(f"{value:0{width}b}"[::-1])
            self.count += width

    def golomb(self, value: int, order: int = 0) -> None:
        """Append a whole number of any size, those below ``2**order`` in 1 + ``order`` bits.

        Exponential Golomb codes: a zero for each further bit, then one, then the bits.
        """
        value += 1 << order
        width = value.bit_length() - 1
        self.plain(1 << (width - order), width - order + 1)
        self.plain(value & ((1 << width) - 1), width)

    def signed(self, value: int) -> None:
        """Append a whole number of either sign, small magnitudes short."""
        self.golomb(2 * value if value >= 0 else -2 * value - 1)

    def extend(self, other: "BitWriter") -> None:
        """Append all that another writer holds."""
        self._parts += other._parts
        self.count += other.count

    def finish(self) -> bytes:
        """Return what was written, and zeros up to a whole byte."""
        text = "".join(self._parts)[::-1]
        return int(text or "0", 2).to_bytes(-(-self.count // 8), "little")


class BitReader:
    """What a :class:`BitWriter` wrote; may come from anyone. Methods may raise FormatError."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._place = 0

    def plain(self, width: int) -> int:
        """Return the next number of ``width`` bits."""
        first, shift = divmod(self._place, 8)
        self._place += width
        if self._place > 8 * len(self._data):
            raise FormatError("ends in the middle of a table")
        run = int.from_bytes(self._data[first : -(-self._place // 8)], "little")
        return run >> shift & ((1 << width) - 1)

    def golomb(self, order: int = 0) -> int:
        """Return the next number of any size."""
        first, shift = divmod(self._place, 8)
        run = int.from_bytes(self._data[first : first + 6], "little") >> shift
        zeros = (run & -run).bit_length() - 1
        if not 0 <= zeros < _LONGEST:
            raise FormatError("want a shorter number in a table")
        self._place += zeros + 1
        width = zeros + order
        return (1 << width | self.plain(width)) - (1 << order)

    def signed(self) -> int:
        """Return the next number of either sign."""
        value = self.golomb()
        return -((value + 1) // 2) if value % 2 else value // 2

    def rest(self) -> memoryview:
        """Return the bytes after the last number read."""
        if self.plain(-self._place % 8):
            raise FormatError("want zeros after a table")
        return self._data[self._place // 8 :]


class PackedBits:
    """Codes in as many bits each as the highest needs: the index map of arXiv:2108.12704."""

    name = "bits"

    def encode(self, indices: Indices) -> bytes:
        """Return the codes as bytes."""
        return pack_bits(indices.codes, _count_bits(indices.levels))

    def decode(self, data: memoryview, shape: tuple[int, ...], levels: int) -> Codes:
        """Return the codes; shape (entries,).

        Raises:
            FormatError: The bytes do not fit.
        """
        codes = unpack_bits(data, prod(shape), _count_bits(levels))
        if len(codes) and codes.max() >= levels:
            raise FormatError(f"want codes below {levels:,}, got {codes.max():,}")
        return codes


def _count_bits(levels: int) -> int:
    return max(levels - 1, 0).bit_length()
