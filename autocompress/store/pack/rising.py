"""Distinct whole numbers in rising order, few bits each: binary interpolative coding.

The ends come first, then the middle one, which must lie between them with room for the others,
then those of both halves in the same way (Moffat and Stuiver, 2000). Clusters cost little, and
no code says anything that is known: k numbers need not tell their order, log2 k! bits.
"""

from autocompress.errors import FormatError
from autocompress.store.pack.bits import BitReader, BitWriter


def write_rising(numbers: list[int], limit: int) -> bytes:
    """Return the bytes of numbers; how many there are, and the limit, the reader knows.

    Args:
        numbers: 0 or more and below ``limit``, each above the one before.
        limit: Up to 2^64.
    """
    writer = BitWriter()
    for place, low, high in _list_bounds(len(numbers)):
        least, most = _narrow(numbers, place, low, high, limit)
        _write_below(writer, numbers[place] - least, most - least + 1)
    return writer.finish()


def read_rising(data: memoryview, count: int, limit: int) -> list[int]:
    """Return what :func:`write_rising` was given.

    Raises:
        FormatError: There cannot be so many numbers, or the bytes end early or go on.
    """
    if count > limit:
        raise FormatError(f"there are no {count:,} numbers below {limit:,}")
    reader, numbers = BitReader(data), [0] * count
    for place, low, high in _list_bounds(count):
        least, most = _narrow(numbers, place, low, high, limit)
        numbers[place] = least + _read_below(reader, most - least + 1)
    if len(reader.rest()):
        raise FormatError("bytes are left over after the last number")
    return numbers


def _list_bounds(count: int) -> list[tuple[int, int, int]]:
    """Return the places in their order, each with the nearest known ones; -1, count for none."""
    found = [(0, -1, count), (count - 1, 0, count)][:count]
    spans = [(0, count - 1)]
    while spans:
        low, high = spans.pop()
        if high - low > 1:
            place = (low + high) // 2
            found.append((place, low, high))
            spans += [(place, high), (low, place)]
    return found


def _narrow(numbers: list[int], place: int, low: int, high: int, limit: int) -> tuple[int, int]:
    """Return between what the number at ``place`` lies, both ends included."""
    before = numbers[low] if low >= 0 else -1
    after = numbers[high] if high < len(numbers) else limit
    return before + place - low, after - (high - place)


def _write_below(writer: BitWriter, value: int, size: int) -> None:
    """Append a number below ``size``; the first ones take a bit less than the others."""
    width = (size - 1).bit_length()
    short = (1 << width) - size
    if value < short:
        writer.plain(value, width - 1)
    else:
        writer.plain((value + short) >> 1, width - 1 if width else 0)
        writer.plain((value + short) & 1, 1 if width else 0)


def _read_below(reader: BitReader, size: int) -> int:
    width = (size - 1).bit_length()
    if not width:
        return 0
    short = (1 << width) - size
    value = reader.plain(width - 1)
    return value if value < short else (value << 1 | reader.plain(1)) - short
