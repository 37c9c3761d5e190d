"""Whole numbers and runs of bytes, written one after the other and read with care.

Numbers are little-endian base-128 ("varint", LEB128): seven bits a byte, the high bit set in all
but the last. There is one way to write a number, and no other is read.
"""

from autocompress.errors import FormatError

_MOST = 2**63 - 1


class Writer:
    """Bytes that grow."""

    def __init__(self) -> None:
        self._parts = bytearray()

    def number(self, value: int) -> None:
        """Append a whole number, 0..2^63 - 1."""
        if not 0 <= value <= _MOST:
            raise ValueError(f"want 0..{_MOST}, got {value}")
        while value > 0x7F:
            self._parts.append(0x80 | (value & 0x7F))
            value >>= 7
        self._parts.append(value)

    def signed(self, value: int) -> None:
        """Append a whole number of either sign, small magnitudes short ("zigzag")."""
        self.number(2 * value if value >= 0 else -2 * value - 1)

    def raw(self, data: bytes | memoryview) -> None:
        """Append bytes whose number the reader knows."""
        self._parts += data

    def sized(self, data: bytes | memoryview) -> None:
        """Append bytes after their number."""
        self.number(len(data))
        self.raw(data)

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return len(self._parts)

    def finish(self) -> bytes:
        """Return what was written."""
        return bytes(self._parts)


class Reader:
    """What a :class:`Writer` wrote; may come from anyone. Every method may raise FormatError."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data).cast("B")
        self._place = 0

    @property
    def left(self) -> int:
        """Bytes that have not been read."""
        return len(self._data) - self._place

    def number(self, most: int = _MOST) -> int:
        """Return the next number, at most ``most``."""
        value, shift = 0, 0
        while True:
            if self._place >= len(self._data):
                raise FormatError("ends in the middle of a number")
            byte = self._data[self._place]
            self._place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 56:
                raise FormatError("a number is too long")
        if shift and byte == 0:
            raise FormatError("a number is longer than it need be")
        if value > most:
            raise FormatError(f"want a number up to {most:,}, got {value:,}")
        return value

    def signed(self, most: int = _MOST // 2) -> int:
        """Return the next number of either sign, of magnitude at most ``most``."""
        value = self.number(2 * most)
        return -((value + 1) // 2) if value % 2 else value // 2

    def raw(self, size: int) -> memoryview:
        """Return the next ``size`` bytes; a view, nothing is copied."""
        if size > self.left:
            raise FormatError(f"want {size:,} more bytes, got {self.left:,}")
        found = self._data[self._place : self._place + size]
        self._place += size
        return found

    def sized(self) -> memoryview:
        """Return the next run of bytes whose number was written."""
        return self.raw(self.number())

    def rest(self) -> memoryview:
        """Return all that is left."""
        return self.raw(self.left)

    def end(self) -> None:
        """Raise unless everything was read."""
        if self.left:
            raise FormatError(f"{self.left:,} bytes are left over")
