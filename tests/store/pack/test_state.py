import os
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autocompress.errors import ArtifactError, FormatError
from autocompress.store.pack.header import open_header
from autocompress.store.pack.state import pack_state, unpack_state
from autocompress.store.tensors import DTYPES, have_equal_bits, write_bits
from tests.store.pack.forging import make_state

SHAPES = ((), (0,), (3, 0, 2), (1,), (7,), (5, 4), (3, 2, 3, 3), (2, 1, 2, 1, 2))


def draw(dtype: torch.dtype, shape: tuple[int, ...], levels: int, seed: int = 0) -> Tensor:
    """Return a tensor of about so many bit patterns, any of them: NaN, infinity, subnormals."""
    random = np.random.default_rng(seed)
    word = np.dtype(f"<u{dtype.itemsize}")
    most = 2 if dtype == torch.bool else 2 ** (8 * dtype.itemsize) - 1
    values = random.integers(0, most, levels, dtype=np.uint64).astype(word)
    entries = values[random.integers(0, levels, int(np.prod(shape)))]
    return write_bits(entries, dtype, shape)


def check(state: dict[str, Tensor]) -> bytes:
    """Assert that names, order and bits come back, and return the file."""
    data = pack_state(state, {"kind": "state"})
    meta, found = unpack_state(data)
    assert meta == {"kind": "state"}
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert have_equal_bits(found[name], tensor.detach().contiguous()), name
        assert found[name].is_contiguous()
        assert not found[name].requires_grad
    return data


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_dtype_and_shape_comes_back(dtype: torch.dtype) -> None:
    state = {}
    for levels in (1, 2, 200):
        for place, shape in enumerate(SHAPES):
            state[f"{levels}.{place}"] = draw(dtype, shape, levels, place)

    check(state)


@pytest.mark.parametrize("levels", [1, 2, 255, 256, 257])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_levels_around_a_byte_come_back(dtype: torch.dtype, levels: int) -> None:
    whole = torch.arange(-1, levels - 1).to(torch.float32) / 8
    tensor = (whole.repeat(3) if dtype == torch.float32 else torch.arange(levels).repeat(3)).to(
        torch.int16
    )
    tensor = tensor.view(torch.bfloat16) if dtype == torch.bfloat16 else tensor.to(dtype)

    check({"w": tensor.reshape(3, levels), "zeros": torch.zeros(4 * levels, dtype=dtype)})


@pytest.mark.slow
@pytest.mark.parametrize("levels", [65_534, 65_535, 65_536])
def test_as_many_levels_as_there_may_be_come_back(levels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.cat([torch.arange(levels), torch.randint(levels, (200_000,))])
    tensor = values[torch.randperm(len(values), generator=generator)].to(torch.float32)

    data = check({"w": tensor})

    assert open_header(data)[0].books == [0 if levels < 65_536 else -1]


@pytest.mark.parametrize("times", [1, 40])
def test_special_values_come_back(times: int) -> None:
    words = [0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7FC00001, 0xFFC12345, 0x7F800001]
    words += [1, 0x80000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF]
    bits = np.array(words * times, "<u4")
    halves = np.array([0, 1 << 15, 0x7C00, 0x7E01, 0x7C01, 1, 0x8001, 0x7BFF] * times, "<u2")
    wide = (bits.astype("<u8") << np.uint64(32)) | np.uint64(5)

    check(
        {
            "float32": write_bits(bits, torch.float32, (len(bits),)),
            "float64": write_bits(wide, torch.float64, (len(wide),)),
            "float16": write_bits(halves, torch.float16, (len(halves),)),
            "bfloat16": write_bits(halves, torch.bfloat16, (len(halves),)),
            "int64": torch.tensor([-(2**63), 2**63 - 1, 0, -1] * times),
            "bool": torch.tensor([True, False] * times),
        }
    )


@settings(max_examples=20)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
        st.tuples(
            st.sampled_from(list(DTYPES.values())),
            st.lists(st.integers(0, 6), max_size=4),
            st.integers(1, 40),
            st.integers(0, 2**32),
        ),
        max_size=5,
    )
)
def test_any_names_and_tensors_come_back(
    given: dict[str, tuple[torch.dtype, list[int], int, int]],
) -> None:
    check(
        {
            name: draw(dtype, tuple(shape), levels, seed)
            for name, (dtype, shape, levels, seed) in given.items()
        }
    )


def test_views_parameters_and_no_tensor_at_all_are_packed() -> None:
    base = torch.arange(24.0).reshape(4, 6)

    check({"turned": base.T, "part": base[1:3, ::2], "own": torch.nn.Parameter(base[0])})
    check({"wide": torch.zeros(1).expand(9, 9)})
    check({})


def test_what_comes_back_can_be_changed() -> None:
    found = unpack_state(pack_state(make_state(), {}))[1]
    before = {name: tensor.clone() for name, tensor in found.items()}

    for name, tensor in found.items():
        tensor.zero_()
        for other in found:
            if other != name and other in before:
                assert have_equal_bits(found[other], before[other])
        before.pop(name)


def test_equal_books_are_stored_once() -> None:
    state = {"a": torch.tensor([0.0, 1, 2] * 9), "b": torch.tensor([0.0, 1, 2, 0] * 5)}

    header = open_header(pack_state(state, {}))[0]

    assert header.books == [0, 0]


def test_the_same_tensors_give_the_same_bytes() -> None:
    state = make_state()
    data = pack_state(state, {"b": 1, "a": 2})

    assert data == pack_state({name: one.clone() for name, one in state.items()}, {"a": 2, "b": 1})
    assert data == pack_state(unpack_state(data)[1], {"a": 2, "b": 1})
    turned = dict(reversed(state.items()))
    assert list(unpack_state(pack_state(turned, {}))[1]) == list(turned)


@pytest.mark.slow
def test_another_process_writes_the_same_bytes() -> None:
    script = (
        "from hashlib import sha256\n"
        "from autocompress.store.pack.state import pack_state\n"
        "from tests.store.pack.forging import make_state\n"
        "print(sha256(pack_state(make_state(), {'a': 1})).hexdigest())"
    )
    wanted = sha256(pack_state(make_state(), {"a": 1})).hexdigest()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=50,
            check=True,
        )
        assert done.stdout.strip() == wanted


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(
        ArtifactError, match=r"w: cannot pack torch\.complex64; want one of float64"
    ):
        pack_state({"w": torch.zeros(2, dtype=torch.complex64)}, {})


def test_no_more_is_decoded_than_allowed() -> None:
    data = pack_state({"a": torch.zeros(100), "b": torch.zeros(100)}, {})

    assert len(unpack_state(data, most_bytes=800)[1]) == 2
    with pytest.raises(FormatError, match="b: the tensors take 800 bytes up to here"):
        unpack_state(data, most_bytes=799)


def test_small_tensors_together_are_shorter_than_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    state = {
        f"layer{place}.weight": torch.randint(-2, 3, (8, 8), generator=generator).float()
        for place in range(8)
    }
    together = len(check(state))

    assert len(open_header(pack_state(state, {}))[0].blobs) == 1
    assert together < sum(len(check({name: one})) for name, one in state.items()) / 2


def test_only_small_nets_take_the_slow_codec() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(rows: int) -> torch.Tensor:
        kept = torch.rand(rows, 256, generator=generator) < 0.05
        return kept * torch.randint(1, 4, (rows, 256), generator=generator).float()

    small = {"a": draw(128), "b": draw(128)}
    large = {**small, "c": draw(1)}

    headers = [open_header(pack_state(one, {}))[0] for one in (small, large)]
    codecs = [{codec for codec, _ in header.blobs} for header in headers]

    assert codecs[0] == {"adaptive"}
    assert "adaptive" not in codecs[1]
