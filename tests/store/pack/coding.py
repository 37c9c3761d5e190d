"""Tensors of codes, and what holds for every codec."""

from math import prod
from random import Random

import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray

from autocompress.errors import FormatError
from autocompress.store.pack.codec import Codec, Indices

SHAPES: tuple[tuple[int, ...], ...] = (
    (), (0,), (1,), (3, 0, 2), (7,), (300,), (1, 40), (40, 1), (12, 25), (6, 5, 3, 3), (2,) * 7,
)  # fmt: skip


def number(values: NDArray[np.int64], shape: tuple[int, ...]) -> Indices:
    """Return any whole numbers as codes: the most frequent as 0, the others as they rise."""
    distinct, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(distinct):
        ranks = np.arange(len(distinct))
        first = int(counts.argmax())
        ranks[:first] += 1
        ranks[first] = 0
        codes = ranks[codes]
    return Indices(shape=shape, codes=codes.reshape(-1).astype(np.uint16), levels=len(distinct))


def draw(
    shape: tuple[int, ...], levels: int, pruned: float, *, seed: int = 0, uneven: float = 0.0
) -> Indices:
    """Return codes of normal values, the smallest pruned, rows and columns ``uneven``ly so."""
    random = np.random.default_rng(seed)
    values = random.normal(size=prod(shape))
    sizes = np.abs(values)
    if uneven:
        rows = shape[0]
        spread = sizes.reshape(rows, -1)
        spread *= np.exp(uneven * random.normal(size=(rows, 1)))
        spread *= np.exp(uneven * random.normal(size=(1, spread.shape[1])))
        values = np.sign(values) * spread.reshape(-1)
        sizes = spread.reshape(-1)
    scale = np.quantile(sizes, 0.995) if len(sizes) else 1.0
    steps = np.clip(np.round(values / scale * levels / 2), -(levels // 2), levels // 2)
    steps[sizes < (np.quantile(sizes, pruned) if pruned and len(sizes) else 0.0)] = 0
    return number(steps.astype(np.int64), shape)


@st.composite
def indices(draw_one: st.DrawFn) -> Indices:
    """Codes of any shape and distribution."""
    shape = tuple(draw_one(st.lists(st.integers(0, 9), max_size=4)))
    most = draw_one(st.sampled_from((0, 1, 2, 15, 300, 2**16)))
    random = Random(draw_one(st.integers(0, 2**32)))
    share = draw_one(st.sampled_from((0.0, 0.1, 0.5, 1.0)))
    values = [
        random.randint(0, most) if random.random() < share else 0 for _ in range(prod(shape))
    ]
    return number(np.array(values, np.int64), shape)


def measure_entropy(given: Indices) -> float:
    """Return the order-0 entropy in bytes."""
    shares = np.bincount(given.codes) / max(len(given.codes), 1)
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum()) * len(given.codes) / 8


def check_round_trip(codec: Codec, given: Indices) -> bytes | None:
    """Assert that the codes come back, and return their bytes."""
    data = codec.encode(given)
    if data is None:
        return None
    assert data == codec.encode(given)
    codes = codec.decode(memoryview(data), given.shape, given.levels)
    assert codes.dtype == np.uint16
    assert codes.shape == (prod(given.shape),)
    assert np.array_equal(codes, given.codes)
    return data


def check_truncations(codec: Codec, given: Indices) -> None:
    """Assert that nothing shorter or longer is read."""
    data = codec.encode(given)
    assert data
    for size in range(len(data)):
        with pytest.raises(FormatError):
            codec.decode(memoryview(data)[:size], given.shape, given.levels)
    for more in (b"\0", b"\xff", bytes(4)):
        with pytest.raises(FormatError):
            codec.decode(memoryview(data + more), given.shape, given.levels)


def check_flips(codec: Codec, given: Indices) -> None:
    """Assert that each flip of a bit ends in FormatError or in codes of shape and levels."""
    data = codec.encode(given)
    assert data
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        check_hostile(codec, bytes(damaged), given.shape, given.levels)


def check_noise(codec: Codec, seed: int) -> None:
    """Assert the same of bytes that no encoder wrote."""
    random = Random(seed)
    for _ in range(200):
        data = random.randbytes(random.choice((0, 1, 2, 5, 20, 100)))
        shape = random.choice(SHAPES)
        check_hostile(codec, data, shape, random.choice((0, 1, 2, 3, 16, 257, 65_535)))


def check_hostile(codec: Codec, data: bytes, shape: tuple[int, ...], levels: int) -> None:
    """Assert that bytes end in FormatError or in codes of shape and levels."""
    try:
        codes = codec.decode(memoryview(data), shape, levels)
    except FormatError:
        return
    assert codes.dtype == np.uint16
    assert codes.shape == (prod(shape),)
    assert not len(codes) or codes.max() < levels
