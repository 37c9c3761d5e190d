import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import FormatError
from autocompress.store.pack.codec import Indices
from autocompress.store.pack.lz import Lz, pack_bytes, unpack_bytes, unpack_zstd

KINDS = {
    "raw": bytes(np.random.default_rng(0).integers(0, 256, 64).astype(np.uint8)),
    "zstd": b"ab" * 40,
    "lzma": b"".join(bytes([k % 7, k * k % 11, 3, 0]) for k in range(900)),
}


@given(
    width=st.sampled_from([1, 2, 4, 8]),
    data=st.one_of(st.binary(max_size=300), st.binary(max_size=20).map(lambda x: x * 40)),
)
def test_bytes_come_back(width: int, data: bytes) -> None:
    data = data[: len(data) // width * width]

    packed = pack_bytes(data, width)

    assert unpack_bytes(memoryview(packed), len(data), width) == data
    assert len(packed) <= 1 + len(data)
    assert pack_bytes(data, width) == packed


@pytest.mark.parametrize("kind", KINDS)
def test_other_bytes_are_refused_or_have_the_length(kind: str) -> None:
    data = KINDS[kind]
    packed = pack_bytes(data, 4)

    for size in range(len(packed)):
        with pytest.raises(FormatError):
            unpack_bytes(memoryview(packed[:size]), len(data), 4)
    with pytest.raises(FormatError):
        unpack_bytes(memoryview(packed + b"\0"), len(data), 4)
    for bit in range(8 * len(packed)):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            found = unpack_bytes(memoryview(bytes(flipped)), len(data), 4)
        except FormatError:
            continue
        assert len(found) == len(data)


def test_a_frame_that_unpacks_to_more_is_refused_unseen() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(2**24))
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(2**24))
    summed = zstandard.ZstdCompressor(write_checksum=True).compress(b"a" * 99)

    for frame, words in ((bomb, "at most 1,000 bytes"), (silent, "at most"), (summed, "checksum")):
        with pytest.raises(FormatError, match=words):
            unpack_zstd(memoryview(frame), 1000)


@pytest.mark.parametrize("levels", [2, 256, 257, 65_535])
def test_codes_come_back(levels: int) -> None:
    codes = np.random.default_rng(1).integers(0, levels, 500).astype(np.uint16)
    indices = Indices(shape=(5, 100), codes=codes, levels=levels)

    data = Lz().encode(indices)

    assert data is not None
    assert np.array_equal(Lz().decode(memoryview(data), (5, 100), levels), codes)
    fewer = int(codes.max())
    with pytest.raises(FormatError, match="want codes below" if fewer != 256 else "zstd"):
        Lz().decode(memoryview(data), (5, 100), fewer)
