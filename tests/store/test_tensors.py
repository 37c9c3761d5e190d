import json
from math import prod
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autocompress.errors import ArtifactError
from autocompress.store.tensors import (
    DESCRIPTION_BYTES,
    Encoding,
    decode_tensor,
    decode_tensors,
    encode_tensor,
    encode_tensors,
    have_equal_bits,
)

DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int8,
    torch.uint8,
    torch.bool,
)
MOST = 10**6
SPECIAL = {
    torch.float32: [0, 1 << 31, 0x7FC00000, 0x7FC00001, 0xFF800000, 1],
    torch.float64: [0, 1 << 63, 0x7FF8 << 48, (0x7FF8 << 48) + 5, 0xFFF << 52, 1],
    torch.float16: [0, 0x8000, 0x7E00, 0x7E01, 0xFC00, 1],
    torch.bfloat16: [0, 0x8000, 0x7FC0, 0x7FC1, 0xFF80, 1],
}


def from_bits(bits: list[int], dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor of ``dtype`` whose entries have the low bits of the given numbers."""
    size = dtype.itemsize
    data = b"".join((value % 256**size).to_bytes(size, "little") for value in bits)
    if dtype == torch.bool:
        data = bytes(value % 2 for value in bits)
    flat = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0).byte()
    return flat.view(dtype).reshape(shape)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Return tensors of few non-zeros, few values, many values or none, with special bits."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = tuple(draw(st.lists(st.integers(0, 9), max_size=3)))
    random = Random(draw(st.integers(0, 2**32)))
    kept = draw(st.sampled_from([0.0, 0.02, 0.5, 1.0]))
    levels = draw(st.sampled_from([1, 2, 3, 5, 17, 300, None]))
    special = SPECIAL.get(dtype, [0, 1, 2, 3])
    table = special + [random.getrandbits(64) for _ in range(300)]
    bits = [
        0
        if random.random() >= kept
        else random.choice(table[:levels] if levels else [random.getrandbits(64)])
        for _ in range(prod(shape))
    ]
    return from_bits(bits, dtype, shape)


@settings(max_examples=300, deadline=None)
@given(tensors())
def test_decoding_an_encoded_tensor_gives_its_bits_again(tensor: Tensor) -> None:
    found = encode_tensor(tensor)

    if found is not None:
        assert len(found[0]) < tensor.nbytes
        assert have_equal_bits(decode_tensor(*found), tensor)


@settings(max_examples=50, deadline=None)
@given(st.lists(tensors(), max_size=4))
def test_a_state_comes_back_in_its_order_through_json(parts: list[Tensor]) -> None:
    state = {f"layer{place}.weight": tensor for place, tensor in enumerate(parts)}

    stored, records = encode_tensors(state)
    again = decode_tensors(stored, json.loads(json.dumps(records)), MOST)

    assert [*stored] == [*again] == [*state]
    assert all(have_equal_bits(again[name], state[name]) for name in state)
    assert all(stored[name] is state[name] for name in state if name not in records)
    for name in records:
        assert stored[name].nbytes + DESCRIPTION_BYTES < state[name].nbytes


def draw_sparse(count: int, kept: int, levels: int = 0, seed: int = 0) -> Tensor:
    """Return float32 values of which ``kept`` are not zero, of ``levels`` values if not 0."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.zeros(count)
    values = torch.randn(kept, generator=generator)
    if levels:
        values = torch.randn(levels, generator=generator)[torch.arange(kept) % levels]
    weight[torch.randperm(count, generator=generator)[:kept]] = values
    return weight


@pytest.mark.parametrize(
    ("weight", "most_bits"),
    [
        # log2 C(60000, 600) = 4,845 bits of places and 32 of each value; gaps cost 10 % more.
        (draw_sparse(60_000, 600), 1.1 * 4_845 + 32 * 600),
        (draw_sparse(60_000, 600, 14), 1.1 * 4_845 + 4 * 600 + 32 * 14),
        # Binary is a bit per weight, ternary log2(3) = 1.585 bits.
        (torch.tensor([-0.25, 0.25]).repeat(8_000), 16_000 + 64),
        (torch.tensor([-0.25, 0.25, 0.0]).repeat(5_000), 1.6 * 15_000 + 96),
        (torch.full((4_000,), 0.5), 32),
        (torch.zeros(4_000), 8),
        (torch.ones(4_000, dtype=torch.bool), 8),
        (torch.arange(16).repeat(1_000).float(), 4 * 16_000 + 16 * 32),
    ],
)
def test_encodings_are_about_as_short_as_they_can_be(weight: Tensor, most_bits: float) -> None:
    found = encode_tensor(weight)

    assert found is not None
    assert 8 * len(found[0]) <= most_bits + 16  # Rounded up to bytes, places and codes.
    assert have_equal_bits(decode_tensor(*found), weight)


@pytest.mark.parametrize("kept", [1.0, 0.999, 0.98])
def test_a_tensor_of_many_values_and_few_zeros_stays_as_it_is(kept: float) -> None:
    weight = draw_sparse(5_000, int(5_000 * kept))

    stored, records = encode_tensors({"weight": weight})

    assert records == {}
    assert stored["weight"] is weight


def test_zeros_of_either_sign_are_two_values() -> None:
    weight = torch.tensor([0.0, -0.0]).repeat(500)

    found = encode_tensor(weight)

    assert found is not None
    assert torch.equal(torch.signbit(decode_tensor(*found)), torch.signbit(weight))


EXAMPLES = {
    "sparse": draw_sparse(3_000, 40),
    "sparse codes": draw_sparse(3_000, 200, 5),
    "mask": draw_sparse(300, 200, 7),
    "ternary": torch.tensor([-0.5, 0.0, 0.5]).repeat(100),
    "one value": torch.full((99,), 2.0),
    "truth": (torch.arange(700) % 3 == 0).reshape(7, 100),
    "long gaps": draw_sparse(400_000, 9),
}


@pytest.mark.parametrize("case", EXAMPLES)
def test_every_truncation_and_every_byte_too_many_is_refused(case: str) -> None:
    found = encode_tensor(EXAMPLES[case])
    assert found is not None
    stored, encoding = found

    for length in range(len(stored)):
        with pytest.raises(ArtifactError):
            decode_tensor(stored[:length], encoding)
    with pytest.raises(ArtifactError, match="left over"):
        decode_tensor(torch.cat([stored, torch.zeros(1, dtype=torch.uint8)]), encoding)


@pytest.mark.parametrize("case", EXAMPLES)
def test_a_flipped_bit_ends_in_our_error_or_a_tensor_of_the_same_form(case: str) -> None:
    found = encode_tensor(EXAMPLES[case])
    assert found is not None
    stored, encoding = found
    places = range(0, 8 * len(stored), max(1, 8 * len(stored) // 1_000))

    for place in places:
        flipped = stored.clone()
        flipped[place // 8] ^= 1 << place % 8
        try:
            tensor = decode_tensor(flipped, encoding)
        except ArtifactError:
            continue
        assert tensor.shape == EXAMPLES[case].shape
        assert tensor.dtype == EXAMPLES[case].dtype
        assert not have_equal_bits(tensor, EXAMPLES[case])  # No bit is without a meaning.


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=64),
    st.sampled_from(["float32", "bool", "int64", "bfloat16"]),
    st.lists(st.integers(0, 40), max_size=3),
    st.sampled_from([0, 2, 4, 256, 65536]),
    st.integers(0, 600),
    st.integers(0, 4_096),
)
def test_any_bytes_end_in_our_error_or_a_tensor(
    data: bytes, dtype: str, shape: list[int], base: int, gaps: int, levels: int
) -> None:
    stored = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)
    encoding = Encoding(dtype=dtype, shape=(*shape,), gap_base=base, gaps=gaps, levels=levels)

    try:
        tensor = decode_tensor(stored, encoding)
    except ArtifactError:
        return
    assert tuple(tensor.shape) == (*shape,)


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "a record with more": ({"evil": 1}, "evil"),
    "an unknown dtype": ({"dtype": "object"}, "unknown dtype 'object'"),
    "a dtype of no text": ({"dtype": 1}, "valid string"),
    "a huge shape": ({"shape": [2**39]}, "at most 1,000,000 values"),
    "a shape that overflows": ({"shape": [2**32, 2**32]}, "at most 1,000,000 values"),
    "a shape beyond any": ({"shape": [0, 2**70]}, "no tensor has the shape"),
    "a negative shape": ({"shape": [-3_000]}, "no tensor has the shape"),
    "a shape of reals": ({"shape": [3e3]}, "valid integer"),
    "a shape of many axes": ({"shape": [1] * 100}, "no tensor has the shape"),
    "a smaller shape": ({"shape": [1_000]}, "want places below 1000"),
    "a base of no digits": ({"gap_base": 1}, "want gaps of base"),
    "another base": ({"gap_base": 7}, "want gaps of base"),
    "a negative base": ({"gap_base": -2}, "want gaps of base"),
    "more gaps": ({"gaps": 2**62}, "bytes of digits"),
    "fewer gaps": ({"gaps": 1}, "left over|nothing but zeros"),
    "negative gaps": ({"gaps": -1}, "want gaps of base"),
    "more levels": ({"levels": 4_096}, "bytes of values"),
    "levels beyond the most": ({"levels": 2**40}, "want 0..4096 levels"),
    "negative levels": ({"levels": -1}, "want 0..4096 levels"),
    "levels of truth": ({"levels": True}, "valid integer"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_record_is_refused(case: str) -> None:
    stored, records = encode_tensors({"weight": EXAMPLES["sparse codes"]})
    change, words = HOSTILE[case]

    with pytest.raises(ArtifactError, match=words):
        decode_tensors(stored, {"weight": {**records["weight"], **change}}, MOST)


@pytest.mark.parametrize("records", [[1], "evil", {"weight": "evil"}, {"weight": {}}, None])
def test_records_of_another_form_are_refused(records: Any) -> None:
    with pytest.raises(ArtifactError, match="encodings"):
        decode_tensors({"weight": torch.zeros(3)}, records, MOST)


def test_a_record_of_no_tensor_is_refused() -> None:
    stored, records = encode_tensors({"weight": EXAMPLES["sparse"]})

    with pytest.raises(ArtifactError, match="other is not among the tensors"):
        decode_tensors(stored, {"other": records["weight"]}, MOST)


def test_all_encodings_together_may_hold_only_so_many_values() -> None:
    state = {f"layer{place}": torch.full((1_000,), 0.5) for place in range(4)}
    stored, records = encode_tensors(state)

    assert len(decode_tensors(stored, records, 4_000)) == 4
    with pytest.raises(ArtifactError, match="at most 3,999 values, got 4,000"):
        decode_tensors(stored, records, 3_999)


def test_truth_values_of_other_bytes_are_refused() -> None:
    encoding = Encoding(dtype="bool", shape=(4,), gap_base=0, gaps=0, levels=0)

    with pytest.raises(ArtifactError, match="0 and 1"):
        decode_tensor(torch.tensor([0, 1, 2, 1], dtype=torch.uint8), encoding)


def test_bytes_must_be_bytes_of_one_axis() -> None:
    encoding = Encoding(dtype="uint8", shape=(2, 2), gap_base=0, gaps=0, levels=0)

    with pytest.raises(ArtifactError, match="bytes of one axis"):
        decode_tensor(torch.zeros(2, 2, dtype=torch.uint8), encoding)
    with pytest.raises(ArtifactError, match="bytes of one axis"):
        decode_tensor(torch.zeros(4, dtype=torch.int8), encoding)
