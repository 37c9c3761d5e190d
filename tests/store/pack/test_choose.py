import numpy as np
import pytest
from hypothesis import given

from autocompress.store.pack.choose import CODECS, choose_smallest, encode_by_all
from autocompress.store.pack.codec import Indices
from tests.store.pack import coding


@given(codes=coding.indices())
def test_every_codec_that_applies_gives_the_codes_again(codes: Indices) -> None:
    found = encode_by_all(codes)

    assert found.keys() <= CODECS.keys()
    for name, data in found.items():
        again = CODECS[name].decode(memoryview(data), codes.shape, codes.levels)
        assert np.array_equal(again, codes.codes), name
    best = choose_smallest(found)
    assert len(found[best]) == min(map(len, found.values()))


def test_names_stand_in_files_and_do_not_change() -> None:
    wanted = "constant", "bits", "rans", "gaps", "density", "lz", "adaptive", "structured"

    assert tuple(CODECS) == wanted
    assert all(codec.name == name for name, codec in CODECS.items())


def test_of_equal_sizes_the_first_is_chosen() -> None:
    assert choose_smallest({"bits": b"ab", "rans": b"a", "gaps": b"b"}) == "rans"


def test_of_large_streams_as_good_as_equal_the_fastest_is_chosen() -> None:
    large = {"rans": bytes(100_000), "gaps": bytes(100_100), "density": bytes(100_101)}
    small = {"rans": bytes(50_000), "gaps": bytes(50_001)}

    assert choose_smallest(large) == "gaps"
    assert choose_smallest({**large, "gaps": bytes(100_101)}) == "rans"
    assert choose_smallest(small) == "rans"


@pytest.mark.parametrize("entries", [0, 1, 7])
def test_one_value_needs_no_choice(entries: int) -> None:
    assert encode_by_all(coding.number(np.full(entries, 3), (entries,))) == {"constant": b""}


def test_there_is_a_choice_for_most_tensors() -> None:
    found = encode_by_all(coding.draw((12, 20), 8, 0.8))

    assert {"bits", "rans", "gaps", "density", "adaptive", "lz"} <= found.keys()
