from typing import Any

import pytest

from autocompress.errors import FormatError
from autocompress.store.pack.container import write_container
from autocompress.store.pack.header import TENSOR_DIGEST_BYTES, open_header
from autocompress.store.pack.state import pack_state
from tests.store.pack.forging import make_small, make_state

GOOD: dict[str, Any] = {
    "tensors": [["a", "float32", [2, 3]], ["b", "bool", []], ["c", "int64", [0]]],
    "books": [0, 0, -1],
    "blobs": [["adaptive", [0, 1]], ["bytes", [2]]],
    "meta": {"kind": "state"},
}


def write(header: dict[str, Any], *, digests: int = 3, blobs: int = 2) -> bytes:
    return write_container(header, [bytes(TENSOR_DIGEST_BYTES * digests), b"", *[b""] * blobs])


def test_a_header_says_what_is_in_the_file() -> None:
    header, sections = open_header(write(GOOD))

    assert header.tensors == [("a", "float32", [2, 3]), ("b", "bool", []), ("c", "int64", [0])]
    assert header.books == [0, 0, -1]
    assert header.blobs == [("adaptive", [0, 1]), ("bytes", [2])]
    assert header.meta == {"kind": "state"}
    assert [len(section) for section in sections] == [24, 0, 0, 0]


def test_it_is_read_without_decoding_a_tensor() -> None:
    state = make_state()

    header = open_header(pack_state(state, {"a": [1, {"b": None}]}))[0]

    assert [name for name, _, _ in header.tensors] == list(state)
    assert [tuple(shape) for _, _, shape in header.tensors] == [
        tuple(tensor.shape) for tensor in state.values()
    ]
    assert header.meta == {"a": [1, {"b": None}]}
    members = sorted(number for _, numbers in header.blobs for number in numbers)
    assert members == list(range(len(state)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tensors": [["a", "float33", [1]]] * 3}, "unknown dtype 'float33'"),
        ({"tensors": [["a", "float32", [2]]] * 3}, "named twice"),
        ({"tensors": [["a", "float32", [2.0]]] * 3}, "integer"),
        ({"tensors": [["a", "float32", [True]]] * 3}, "integer"),
        ({"tensors": [["a", "float32", ["2"]]] * 3}, "integer"),
        ({"tensors": [["a", "float32"]] * 3}, "Field required|at least 3"),
        ({"tensors": [["a", "float32", [2], 1]] * 3}, "at most 3"),
        ({"tensors": [[1, "float32", [2]]] * 3}, "string"),
        ({"tensors": [["a", "float32", [-1]], *GOOD["tensors"][1:]]}, "no tensor has the shape"),
        ({"tensors": [["a", "float32", [2**40]], *GOOD["tensors"][1:]]}, "no tensor has"),
        ({"tensors": [["a", "float32", [1] * 17], *GOOD["tensors"][1:]]}, "no tensor has"),
        ({"tensors": [["a", "float32", [0, 2**39, 2**39]], *GOOD["tensors"][1:]]}, "no tensor"),
        ({"books": [0, 0]}, "a book or -1 for every tensor"),
        ({"books": [0, -2, -1]}, "a book or -1 for every tensor"),
        ({"books": [0, 0, 0]}, "c: a book and bytes do not fit"),
        ({"books": [0, -1, -1]}, "a: a book and adaptive do not fit"),
        ({"blobs": [["adaptive", [0, 1]]]}, "every tensor in one blob"),
        ({"blobs": [["adaptive", [0, 1, 1]], ["bytes", [2]]]}, "every tensor in one blob"),
        ({"blobs": [["adaptive", [0, 1]], ["bytes", [3]]]}, "every tensor in one blob"),
        ({"blobs": [["adaptive", [0, 1]], ["bytes", [2]], ["lz", []]]}, "every tensor in one"),
        ({"blobs": [["rans", [0, 1]], ["bytes", [2]]]}, "a: rans takes one tensor"),
        ({"blobs": [["huffman", [0, 1]], ["bytes", [2]]]}, "unknown codec 'huffman'"),
        ({"meta": []}, "meta"),
        ({"more": 1}, "more"),
    ],
)
def test_what_contradicts_itself_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        open_header(write({**GOOD, **change}))


def test_sections_are_as_many_as_the_header_says() -> None:
    with pytest.raises(FormatError, match="want 4 sections, got 3"):
        open_header(write(GOOD, blobs=1))
    with pytest.raises(FormatError, match="one digest per tensor, got 16 bytes"):
        open_header(write(GOOD, digests=2))
    for name in GOOD:
        with pytest.raises(FormatError, match=name):
            open_header(write({key: value for key, value in GOOD.items() if key != name}))


def test_the_bytes_of_all_tensors_are_bounded_together() -> None:
    data = pack_state(make_small(), {})
    total = sum(tensor.nbytes for tensor in make_small().values())

    assert open_header(data, most_bytes=total)
    with pytest.raises(FormatError, match=f"more than the {total - 1:,} allowed"):
        open_header(data, most_bytes=total - 1)


def test_a_file_has_few_entries_in_the_slow_codec() -> None:
    def ask(size: int) -> dict[str, Any]:
        tensors = [["a", "float32", [size]], ["b", "bool", []], ["c", "int64", [0]]]
        return {**GOOD, "tensors": tensors}

    assert open_header(write(ask(2**17 - 1)))[0].tensors[0][2] == [2**17 - 1]
    with pytest.raises(FormatError, match=r"up to 131,072 entries by adaptive, got 131,073"):
        open_header(write(ask(2**17)))
