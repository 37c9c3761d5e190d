"""Runs of bytes by general-purpose coders, and codes as such bytes.

Bytes of numbers are laid out in planes (all first bytes, then all second ones), where like bytes
meet. Zstandard (RFC 8878) and LZMA2, whichever is smaller.
"""

import lzma
from math import prod

import numpy as np
import zstandard

from autocompress.errors import FormatError
from autocompress.store.pack.codec import Codes, Indices

_RAW, _ZSTD, _LZMA = range(3)
_LEVEL = 19
WINDOW_LOG = 24
_MOST_LZMA = 2**25  # Longer runs would take minutes.


def pack_bytes(data: bytes, width: int) -> bytes:
    """Return ``data`` in planes of ``width`` bytes, coded, or as it is where that is no longer.

    Args:
        data: Of whole numbers.
        width: Bytes of a number, 1 or more; ``data`` holds whole ones.
    """
    best = bytes([_RAW]) + data
    for kind, packed in _list_packed(_to_planes(data, width)):
        if 1 + len(packed) < len(best):
            best = bytes([kind]) + packed
    return best


def unpack_bytes(data: memoryview, size: int, width: int) -> bytes:
    """Return what :func:`pack_bytes` was given.

    Args:
        data: May come from anyone.
        size: Bytes to be found; they are known to fit the memory.
        width: As given.

    Raises:
        FormatError: The bytes hold no such run.
    """
    if not len(data):
        raise FormatError("want a run of bytes, got none")
    kind, packed = data[0], data[1:]
    if kind == _RAW:
        if len(packed) != size:
            raise FormatError(f"want {size:,} bytes, got {len(packed):,}")
        return bytes(packed)
    if kind == _ZSTD:
        planes = unpack_zstd(packed, size)
        if len(planes) != size:
            raise FormatError(f"zstd: want {size:,} bytes, got {len(planes):,}")
    elif kind == _LZMA:
        planes = _unpack_lzma(packed, size)
    else:
        raise FormatError(f"no coder of bytes has the number {kind}")
    return _from_planes(planes, width)


class Lz:
    """Codes as bytes, or pairs of bytes, by a general-purpose coder."""

    name = "lz"

    def encode(self, indices: Indices) -> bytes | None:
        """Return the codes as bytes; see ``Codec``."""
        width = _choose_width(indices.levels)
        return pack_bytes(indices.codes.astype(f"<u{width}").tobytes(), width)

    def decode(self, data: memoryview, shape: tuple[int, ...], levels: int) -> Codes:
        """Return the codes; see ``Codec``."""
        width = _choose_width(levels)
        codes = np.frombuffer(unpack_bytes(data, prod(shape) * width, width), f"<u{width}")
        if len(codes) and codes.max() >= levels:
            raise FormatError(f"want codes below {levels}, got {codes.max()}")
        return codes.astype(np.uint16)


def _choose_width(levels: int) -> int:
    return 1 if levels <= 2**8 else 2


def _list_packed(planes: bytes) -> list[tuple[int, bytes]]:
    options = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL,
        source_size=len(planes),
        window_log=min(WINDOW_LOG, max(10, len(planes).bit_length())),
        write_content_size=True,
        write_checksum=False,
    )
    packer = zstandard.ZstdCompressor(compression_params=options)
    found = [(_ZSTD, packer.compress(planes))]
    if len(planes) <= _MOST_LZMA:
        for bits in (0, 2):  # Single bytes do best without the place among four.
            filters = _make_filters(bits, len(planes))
            packed = lzma.compress(planes, lzma.FORMAT_RAW, filters=filters)
            found.append((_LZMA, bytes([bits]) + packed))
    return found


def _make_filters(bits: int, size: int) -> list[dict[str, int]]:
    """Return how to code so many bytes; a window for more would cost 50 ms to make."""
    window = min(max(size.bit_length(), 12), WINDOW_LOG)
    return [
        {
            "id": lzma.FILTER_LZMA2,
            "preset": 9,
            "dict_size": 2**window,
            "lc": 3 if bits else 0,
            "lp": 0,
            "pb": bits,
        }
    ]


def unpack_zstd(
    packed: memoryview, most: int, words: zstandard.ZstdCompressionDict | None = None
) -> bytes:
    """Return what one frame of Zstandard that states its size holds, at most ``most`` bytes.

    Raises:
        FormatError: It is no such frame, holds more or less than it states, or goes on.
    """
    try:
        stated = zstandard.get_frame_parameters(packed)
        if not 0 < stated.content_size <= most:  # Also of a frame that does not state it.
            raise FormatError(f"zstd: want at most {most:,} bytes, got {stated.content_size:,}")
        if stated.dict_id or stated.has_checksum:
            raise FormatError("zstd: want a frame without checksum and number of a dictionary")
        unpacker = zstandard.ZstdDecompressor(dict_data=words, max_window_size=2**WINDOW_LOG)
        return unpacker.decompress(packed, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as error:
        raise FormatError(f"zstd: {error}") from error


def _unpack_lzma(packed: memoryview, size: int) -> bytes:
    if not len(packed) or packed[0] not in (0, 2):
        raise FormatError("lzma: want the kind of its filter")
    coder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_make_filters(packed[0], size))
    try:
        found = coder.decompress(packed[1:], max_length=size + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise FormatError(f"lzma: {error}") from error
    if len(found) != size or not coder.eof or coder.unused_data:
        raise FormatError(f"lzma: want {size:,} bytes and no more, got {len(found):,}")
    return found


def _to_planes(data: bytes, width: int) -> bytes:
    return np.frombuffer(data, np.uint8).reshape(-1, width).T.tobytes()


def _from_planes(planes: bytes, width: int) -> bytes:
    return np.frombuffer(planes, np.uint8).reshape(width, -1).T.tobytes()
