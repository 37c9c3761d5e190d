import hashlib
from math import lgamma, log, prod
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from autocompress.errors import FormatError
from autocompress.store.pack.adaptive import MAX_ENTRIES, Adaptive, decode_group, encode_group
from autocompress.store.pack.codec import MAX_LEVELS, Codec, Indices

CODEC: Codec = Adaptive()
SHAPES = [
    (), (0,), (1,), (7,), (1, 9), (9, 1), (0, 3), (3, 0), (4, 5), (3, 16), (5, 2, 6), (4, 3, 3, 3),
    (2, 3, 2, 4), (2, 1, 1, 5), (2, 2, 2, 2, 2), (3, 2, 0, 2), (6, 36), (4, 12),
]  # fmt: skip


def make(shape: tuple[int, ...], codes: NDArray[Any], levels: int = 0) -> Indices:
    flat = codes.reshape(-1).astype(np.uint16)
    return Indices(shape=shape, codes=flat, levels=levels or max(flat.tolist(), default=-1) + 1)


def draw(shape: tuple[int, ...], density: float, levels: int, seed: int) -> Indices:
    """Return codes of which a share is not 0; ``levels`` holds whether each occurs or not."""
    rng = np.random.default_rng(seed)
    kept = rng.random(prod(shape)) < density
    codes = kept * rng.integers(1, levels, prod(shape)) if levels > 1 else kept * 0
    return make(shape, codes, levels if prod(shape) else 0)


def encode(tensor: Indices) -> bytes:
    found = encode_group([tensor])
    assert found is not None
    return found


def decode(data: bytes, tensor: Indices) -> NDArray[np.uint16]:
    return CODEC.decode(memoryview(data), tensor.shape, tensor.levels)


def check(tensor: Indices) -> bytes:
    """Return the bytes of a tensor after a round trip."""
    data = encode(tensor)
    found = decode(data, tensor)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, tensor.codes, strict=True)
    return data


def make_network(seed: int = 0) -> list[Indices]:
    """Return a small convolutional network: unlike filters, clusters of one sign, biases."""
    rng = np.random.default_rng(seed)
    rows, tensors = np.ones(1), []
    for shape in ((6, 1, 5, 5), (8, 6, 5, 5), (20, 8 * 16), (10, 20)):
        width = prod(shape) // shape[0] // len(rows)
        rates = rng.gamma(1.0, 0.05, shape[0])[:, None, None] * rows[:, None] * np.ones(width)
        signs = np.sign(rng.standard_normal((shape[0], len(rows), 1)) + 0.5)
        kept = rng.random(rates.shape) < rates
        codes = kept * np.where(signs > 0, rng.integers(4, 7, kept.shape), rng.integers(1, 4))
        tensors += [make(shape, codes), make(shape[:1], np.arange(shape[0]))]
        rows = kept.sum((1, 2)) / max(kept.sum((1, 2)).mean(), 1e-9)
    return tensors


def count_bytes(entries: int, kept: int) -> float:
    """Return log2 C(entries, kept) in bytes."""
    nats = lgamma(entries + 1) - lgamma(kept + 1) - lgamma(entries - kept + 1)
    return nats / log(2) / 8


@settings(deadline=None)
@given(
    st.sampled_from(SHAPES),
    st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    st.sampled_from([1, 2, 3, 8, 255, 256, 257, MAX_LEVELS]),
    st.integers(0, 2**32 - 1),
)
def test_codes_come_back(shape: tuple[int, ...], density: float, levels: int, seed: int) -> None:
    tensor = draw(shape, density, levels, seed)
    assert check(tensor) == encode_group([tensor])


@pytest.mark.parametrize(
    "levels", [1, 2, 255, 256, 257, 5000, pytest.param(MAX_LEVELS, marks=pytest.mark.slow)]
)
def test_every_level_comes_back(levels: int) -> None:
    order = np.random.default_rng(0).permutation(levels)
    tensor = make((levels,), order)
    data = check(tensor)
    assert len(data) <= levels * np.log2(levels) / 8 * 1.06 + 16


@pytest.mark.parametrize("shape", [(64, 1, 3, 3), (40, 100), (500,), (10, 7, 4, 4), (9, 1)])
@pytest.mark.parametrize("code", [0, 1])
def test_one_symbol_costs_next_to_nothing(shape: tuple[int, ...], code: int) -> None:
    assert check(make(shape, np.zeros(shape, int))) == b""
    codes = np.full(prod(shape), code)
    codes[-1] = 1 - code
    assert len(check(make(shape, codes))) <= 12


def test_empty_tensors_and_constants_take_no_bytes() -> None:
    for shape in [(0,), (0, 4), (4, 0), (3, 0, 5), ()]:
        tensor = make(shape, np.zeros(prod(shape), int))
        assert check(tensor) == b""
        with pytest.raises(FormatError, match="left over"):
            decode(b"\0", tensor)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(SHAPES), st.sampled_from([0.0, 0.1, 0.6]), st.sampled_from([1, 2, 9])
        ),
        max_size=5,
    ),
    st.integers(0, 2**32 - 1),
)
def test_groups_come_back(kinds: list[tuple[tuple[int, ...], float, int]], seed: int) -> None:
    tensors = [draw(*kind, seed) for kind in kinds]
    data = encode_group(tensors)
    assert data is not None
    found = decode_group(data, [t.shape for t in tensors], [t.levels for t in tensors])
    assert len(found) == len(tensors)
    for codes, tensor in zip(found, tensors, strict=True):
        np.testing.assert_array_equal(codes, tensor.codes, strict=True)


def test_a_group_of_one_is_the_codec() -> None:
    for tensor in make_network():
        assert encode_group([tensor]) == CODEC.encode(tensor)


def test_many_levels_are_left_to_others_unless_most_places_are_empty() -> None:
    codes = np.arange(3000)
    assert CODEC.encode(make((3000,), codes)) is None
    assert CODEC.encode(make((3000,), np.minimum(codes, 1000))) is not None
    assert CODEC.encode(make((6001,), np.pad(codes, (0, 3001)))) is not None


def test_the_format_stays() -> None:
    """If this digest changes, files that were written before cannot be read any more."""
    data = encode_group(make_network())
    assert data is not None
    assert hashlib.sha256(data).hexdigest() == GOLDEN


GOLDEN = "3913b4983611b004f1d094b5d6c94ece93b363d6bef4d77ad4d485b8927da1e1"


def test_a_network_that_is_coded_together_is_shorter() -> None:
    for seed in range(3):
        tensors = make_network(seed)
        data = encode_group(tensors)
        assert data is not None
        assert len(data) < sum(len(encode(tensor)) for tensor in tensors) - 8
        reverse = encode_group(tensors[::-1])
        assert reverse is not None
        assert len(data) < len(reverse), "in the order in which data pass, more is known"


@pytest.mark.parametrize("shape", [(60, 200), (30, 16, 5, 5), (3000,), (40, 10, 4, 4)])
@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.9])
def test_masks_without_pattern_are_near_their_entropy(
    shape: tuple[int, ...], density: float
) -> None:
    tensor = draw(shape, density, 2, 0)
    bound = count_bytes(prod(shape), int(tensor.codes.sum()))
    assert bound - 4 < len(check(tensor)) < 1.01 * bound + 6


@pytest.mark.parametrize("axis", [0, 1])
def test_masks_of_uneven_rows_or_columns_are_shorter_than_choices_of_places(axis: int) -> None:
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.5, 0.1, 100)
    mask = rng.random((100, 200) if axis == 0 else (200, 100)) < (
        rates[:, None] if axis == 0 else rates
    )
    tensor = make(mask.shape, mask)
    assert len(encode(tensor)) < 0.9 * count_bytes(mask.size, int(mask.sum()))


def test_clusters_in_blocks_are_found() -> None:
    rng = np.random.default_rng(0)
    full = rng.random((32, 64, 1, 1)) < 0.1
    mask = full & (rng.random((32, 64, 3, 3)) < 0.4)
    tensor = make(mask.shape, mask)
    bound = count_bytes(mask.size, int(mask.sum()))
    assert len(encode(tensor)) < 0.75 * bound
    flat = make((32, 576), mask)  # The same, with nothing said about blocks.
    assert len(encode(flat)) < 0.75 * bound
    mixed = make((32, 576), rng.permutation(mask.reshape(-1)))
    assert len(encode(mixed)) > 0.98 * bound


def test_signs_of_neighbours_are_found() -> None:
    rng = np.random.default_rng(0)
    signs = rng.random((30, 10, 1, 1)) < 0.5
    kept = rng.random((30, 10, 5, 5)) < 0.3
    sizes = rng.integers(0, 3, kept.shape)
    tensor = make(kept.shape, kept * np.where(signs, 1 + sizes, 4 + sizes))
    places = make(kept.shape, kept)
    per_value = 8 * (len(check(tensor)) - len(encode(places))) / kept.sum()
    assert np.log2(3) < per_value < np.log2(3) + 0.6, "1.58 bits of size, and not 1 of sign"


def test_values_of_unlike_shares_cost_their_entropy() -> None:
    rng = np.random.default_rng(0)
    shares = np.array([0.7, 0.1, 0.08, 0.06, 0.04, 0.02])
    codes = rng.choice(6, 20_000, p=shares)
    counts = np.bincount(codes)
    entropy = -(counts * np.log2(counts / counts.sum())).sum() / 8
    assert entropy - 8 < len(encode(make((100, 200), codes))) < 1.01 * entropy + 16


def test_large_tensors_are_left_to_others() -> None:
    assert CODEC.encode(make((MAX_ENTRIES + 1,), np.zeros(MAX_ENTRIES + 1))) is None
    half = make((MAX_ENTRIES // 2 + 1,), np.zeros(MAX_ENTRIES // 2 + 1))
    assert CODEC.encode(half) == b""
    assert encode_group([half, half]) is None
    large: list[list[tuple[int, ...]]] = [
        [(MAX_ENTRIES + 1,)],
        [half.shape, half.shape],
        [(2**40,) * 3],
    ]
    for shapes in large:
        with pytest.raises(FormatError, match="entries"):
            decode_group(b"", shapes, [1] * len(shapes))


@pytest.mark.parametrize("levels", [0, -1, MAX_LEVELS + 1])
def test_numbers_of_levels_that_cannot_be_are_refused(levels: int) -> None:
    with pytest.raises(FormatError, match="levels"):
        CODEC.decode(memoryview(b"\0\0"), (3, 3), levels)


SMALL = draw((6, 3, 3, 3), 0.2, 7, 0)


def test_no_beginning_of_a_code_is_one_and_nothing_may_follow() -> None:
    for tensor in [SMALL, *make_network()[:4]]:
        data = encode(tensor)
        assert data
        for size in range(len(data)):
            with pytest.raises(FormatError):
                decode(data[:size], tensor)
        for last in range(256):
            with pytest.raises(FormatError):
                decode(data + bytes([last]), tensor)


def accept(data: bytes, tensor: Indices) -> bool:
    """Return whether ``data`` are read; if so, as codes that are possible."""
    try:
        found = decode(data, tensor)
    except FormatError:
        return False
    assert found.dtype == np.uint16
    assert found.shape == (prod(tensor.shape),)
    assert found.max(initial=0) < max(tensor.levels, 1)
    return True


def test_every_flipped_bit_is_refused_or_gives_possible_codes() -> None:
    data = encode(SMALL)
    accepted = 0
    for place in range(8 * len(data)):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        if accept(bytes(changed), SMALL):
            accepted += 1
            assert decode(bytes(changed), SMALL).tolist() != SMALL.codes.tolist()
    assert accepted < 4 * len(data)


@settings(deadline=None)
@given(
    st.binary(max_size=60),
    st.sampled_from(SHAPES),
    st.sampled_from([1, 2, 3, 4, 6, 100, MAX_LEVELS]),
)
@example(b"\xff" * 30, (3, 16), 6)
@example(b"\0" * 30, (4, 3, 3, 3), MAX_LEVELS)
def test_any_bytes_are_refused_or_give_possible_codes(
    data: bytes, shape: tuple[int, ...], levels: int
) -> None:
    accept(data, make(shape, np.zeros(prod(shape)), levels if prod(shape) else 0))


@pytest.mark.parametrize("shape", [(4, 9), (40,), (3, 2, 2, 2)])
@pytest.mark.parametrize("levels", [2, 3, 5])
def test_single_bytes_that_are_read_are_all_of_a_code(shape: tuple[int, ...], levels: int) -> None:
    """What is read from few bytes is really coded in so few, or fewer where a way was unwise."""
    zeros = make(shape, np.zeros(prod(shape)), levels)
    accepted = 0
    for first in range(256):
        for rest in (b"", b"\x00", b"\x80", b"\xff"):
            data = bytes([first]) + rest
            if accept(data, zeros):
                accepted += 1
                again = encode(make(shape, decode(data, zeros), levels))
                assert len(again) <= len(data) + 1
    assert accepted
