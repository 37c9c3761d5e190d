import json
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import FormatError
from autocompress.store.pack.container import (
    DIGEST_BYTES,
    MAGIC,
    MAX_HEADER_BYTES,
    VERSION,
    make_digest,
    read_container,
    write_container,
)
from tests.store.pack.forging import forge

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abz", max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    header=st.dictionaries(st.sampled_from("abcdef"), PLAIN),
    sections=st.lists(st.binary(max_size=40), max_size=5),
)
def test_header_and_sections_come_back(header: dict[str, Any], sections: list[bytes]) -> None:
    data = write_container(header, sections)

    found, views = read_container(data)

    assert found == header
    assert [bytes(view) for view in views] == sections
    assert data == write_container(dict(reversed(header.items())), sections)


def test_a_file_begins_and_ends_as_documented() -> None:
    data = write_container({"a": 1}, [b"one", b"", b"three"])

    assert data.startswith(MAGIC + bytes([VERSION, 0]))
    assert data[-DIGEST_BYTES:] == make_digest(data[:-DIGEST_BYTES], DIGEST_BYTES)
    assert data[-DIGEST_BYTES - 8 : -DIGEST_BYTES] == b"onethree"
    assert forge(b'{"a":1,"sizes":[3,0,5]}', [b"onethree"]) != data
    assert read_container(forge(b'{"a":1,"sizes":[3,0,5]}', [b"onethree"]))[0] == {"a": 1}


def test_words_that_headers_share_make_them_shorter() -> None:
    header = {"tensors": [["features.layer1.0.conv2.weight", "float32", [20, 1, 5, 5]]]}
    text = json.dumps({**header, "sizes": []}, sort_keys=True, separators=(",", ":")).encode()

    size = len(write_container(header, []))

    assert size < len(zstandard.ZstdCompressor(level=19).compress(text))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no .acz file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "no .acz file"),
        (b"PK\3\4" + bytes(40), "no .acz file"),
        (MAGIC[:5], "ends after 5 bytes"),
        (MAGIC + bytes(10), "ends after 18 bytes"),
        (MAGIC.replace(b"\r\n", b"\n") + bytes(40), "copied as text"),
        (MAGIC.replace(b"\n", b"\r\n") + bytes(40), "copied as text"),
        (b"\x09" + MAGIC[1:] + bytes(40), "copied as text"),
        (MAGIC + bytes([VERSION + 1, 0]) + bytes(40), f"want version {VERSION}, got 2"),
        (MAGIC + bytes([VERSION, 0]) + bytes(40), "damaged or cut off"),
    ],
)
def test_what_is_no_such_file_is_told_apart(data: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        read_container(data)


def sign(body: bytes) -> bytes:
    return body + make_digest(body, DIGEST_BYTES)


def test_flags_and_sizes_are_checked_behind_the_digest() -> None:
    body = write_container({}, [b"abc"])[:-DIGEST_BYTES]
    flagged = body[: len(MAGIC) + 1] + b"\1" + body[len(MAGIC) + 2 :]

    assert read_container(sign(body))[0] == {}
    for changed, words in (
        (flagged, "want no flags, got 1"),
        (body + b"\0", "1 bytes are left over"),
        (body[:-1], "want 3 more bytes, got 2"),
        (body[: len(MAGIC) + 2], "ends in the middle of a number"),
    ):
        with pytest.raises(FormatError, match=words):
            read_container(sign(changed))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[]", "want an object, got list"),
        (b"{}", "want a list of whole numbers, got None"),
        (b'{"sizes":[0],"a":1}', "sorted keys"),
        (b'{"sizes":[0]} ', "sorted keys"),
        (b'{"sizes":[9]}', "want 9 more bytes, got 0"),
    ],
)
def test_a_header_has_one_form(text: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        read_container(forge(text, []))


def test_a_header_that_could_not_be_read_again_is_refused() -> None:
    with pytest.raises(FormatError, match="at most"):
        read_container(write_container({"a": "b" * MAX_HEADER_BYTES}, []))
    with pytest.raises(ValueError, match="JSON compliant"):
        write_container({"a": float("nan")}, [])
