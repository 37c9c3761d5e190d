"""Whatever a file holds, it ends in tensors as its header says, or in FormatError."""

import json
import resource
import subprocess
import sys
import tracemalloc
from random import Random
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch
import zstandard

from autocompress.errors import FormatError
from autocompress.store.pack import state
from autocompress.store.pack.bits import BitWriter
from autocompress.store.pack.container import (
    DIGEST_BYTES,
    MAGIC,
    MAX_HEADER_BYTES,
    make_digest,
    read_container,
)
from autocompress.store.pack.lanes import SymbolWriter
from autocompress.store.pack.state import pack_state, unpack_state
from autocompress.store.pack.tables import write_table
from autocompress.store.pack.wire import Writer
from autocompress.store.tensors import DTYPE_NAMES
from tests.store.pack.forging import (
    Forged,
    fit_sizes,
    forge,
    make_seeds,
    make_small,
    make_state,
    mutate,
    mutate_header,
    mutate_text,
    open_forged,
)

MOST_BYTES = 2**18


@pytest.fixture(scope="module")
def small() -> bytes:
    return pack_state(make_small(), {"kind": "state"})


@pytest.fixture
def signed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every digest of a tensor be right, as an attacker makes them."""

    def sign(data: bytes | memoryview, size: int) -> bytes:
        del data
        return bytes(size)

    monkeypatch.setattr(state, "make_digest", sign)


def check(data: bytes, most_bytes: int = MOST_BYTES) -> bool:
    """Assert the law of one file, and return whether it was read."""
    try:
        found = unpack_state(data, most_bytes=most_bytes)[1]
    except FormatError:
        return False
    read = [[name, DTYPE_NAMES[one.dtype], list(one.shape)] for name, one in found.items()]
    assert read == read_container(data)[0]["tensors"]
    for tensor in found.values():  # Its memory is there, and its own.
        tensor.view(torch.uint8) if tensor.dim() else tensor.item()
    return True


def unsign(file: Forged) -> Forged:
    """Return a file whose digests of tensors are those of the fixture ``signed``."""
    return file[0], [bytes(len(file[1][0])), *file[1][1:]]


def flip(data: bytes, bit: int) -> bytes:
    found = bytearray(data)
    found[bit // 8] ^= 1 << bit % 8
    return bytes(found)


def resign(data: bytes) -> bytes:
    """Return the bytes of a file with its digest as it should be."""
    return data[:-DIGEST_BYTES] + make_digest(data[:-DIGEST_BYTES], DIGEST_BYTES)


def check_flips_of_sections(file: Forged, step: int = 1) -> tuple[int, int]:
    """Assert the law of each flip behind right digests; return files read and refused."""
    text, sections = file
    counts = [0, 0]
    for place in range(1, len(sections)):
        for bit in range(0, 8 * len(sections[place]), step):
            damaged = list(sections)
            damaged[place] = flip(sections[place], bit)
            counts[check(forge(text, damaged))] += 1
    return counts[1], counts[0]


def test_every_truncation_is_refused(small: bytes) -> None:
    for size in range(len(small)):
        with pytest.raises(FormatError):
            unpack_state(small[:size])
    for more in (b"\0", small[-1:], small):
        with pytest.raises(FormatError):
            unpack_state(small + more)


def test_every_flip_of_a_bit_is_refused(small: bytes) -> None:
    for bit in range(8 * len(small)):
        with pytest.raises(FormatError):
            unpack_state(flip(small, bit))


def test_flips_with_a_right_digest_of_the_file_are_refused_or_change_nothing(small: bytes) -> None:
    wanted = make_small()
    body = 8 * (len(small) - DIGEST_BYTES)
    for bit in range(8 * len(MAGIC), body):
        try:
            found = unpack_state(resign(flip(small, bit)))[1]
        except FormatError:
            continue
        # Only what the header says may differ: a tensor has its own digest.
        assert [one.numel() for one in found.values()] == [
            one.numel() for one in wanted.values()
        ], bit


@pytest.mark.usefixtures("signed")
def test_flips_of_books_and_codes_behind_right_digests_reach_the_parsers(small: bytes) -> None:
    read, refused = check_flips_of_sections(unsign(open_forged(small)))

    # Most bits of a code mean other values, which no digest betrays here.
    assert read > 100
    assert refused > 100


@pytest.mark.usefixtures("signed")
def test_flips_of_the_text_of_the_header_are_refused_or_named_so(small: bytes) -> None:
    text, sections = unsign(open_forged(small))
    assert check(forge(text, sections))

    read = [check(forge(flip(text, bit), sections)) for bit in range(8 * len(text))]

    assert 0 < sum(read) < len(read) // 2  # Letters of names may change.


def change_headers(seeds: list[Forged], count: int) -> tuple[int, int]:
    """Assert the law of changed headers; return files read and refused."""
    random = Random(0)
    counts = [0, 0]
    for _ in range(count):
        text, sections = random.choice(seeds)
        for _ in range(random.choice((1, 1, 2, 3))):
            change = mutate_header if random.random() < 0.8 else mutate_text
            text = change(random, text)
        counts[check(forge(fit_sizes(random, text, sections), sections))] += 1
    return counts[1], counts[0]


@pytest.mark.usefixtures("signed")
def test_changed_headers(small: bytes) -> None:
    read, refused = change_headers([unsign(open_forged(small))], 500)

    assert read > 0
    assert refused > 300


@pytest.mark.slow
@pytest.mark.usefixtures("signed")
def test_ten_thousand_changed_headers() -> None:
    read, refused = change_headers([unsign(file) for file in make_seeds()], 10_000)

    assert read > 100
    assert refused > 5_000


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("signed")
def test_flips_of_every_codec_behind_right_digests() -> None:
    check_flips_of_sections(unsign(open_forged(pack_state(make_state(), {}))))
    for file in make_seeds()[1:]:
        check_flips_of_sections(unsign(file), step=5)  # All places of a bit in a byte in turn.


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("signed")
def test_files_changed_in_several_places() -> None:
    random, seeds = Random(2), [unsign(file) for file in make_seeds()]
    for _ in range(10_000):
        check(forge(*unsign(mutate(random, random.choice(seeds), random.choice(seeds)))))


EMPTY = {"blobs": [], "books": [], "meta": {}, "sizes": [0, 0], "tensors": []}


def write(header: Any) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"meta":{}', b'"meta":{"a":1,"a":2}', "twice"),
        (b'"meta":{}', b'"meta":{"a":NaN}', "finite"),
        (b'"meta":{}', b'"meta":{"a":1e999}', "JSON compliant"),
        (b'"meta":{}', b'"meta":{"a":-0}', "shortest form"),
        (b'"meta":{}', b'"meta":{"a":1.50}', "shortest form"),
        (b'"meta":{}', b'"meta": {}', "no spaces"),
        (b'"meta":{}', b'"meta":' + b'{"a":' * 300 + b"{}" + b"}" * 300, "recursion|deep"),
        (b'"meta":{}', b'"meta":{"a":' + b"[" * 99_999 + b"]" * 99_999 + b"}", "too deep"),
        (b'"meta":{}', b'"meta":{"a":' + b"9" * 5000 + b"}", "digits"),
        (b'"meta":{}', b'"meta":{"a":"\xff"}', "codec"),
        (b'"meta":{}', b'"meta":{},"more":1', "more"),
        (b'"meta":{}', b'"meta":[]', "object"),
        (b'"books":[]', b'"books":[-1]', "every tensor"),
        (b'"books":[]', b'"books":{}', "array"),
        (b'"sizes":[0,0]', b'"sizes":[0,-1]', "whole numbers"),
        (b'"sizes":[0,0]', b'"sizes":[0,1.0]', "whole numbers"),
        (b'"sizes":[0,0]', b'"sizes":[0,true]', "whole numbers"),
        (b'"sizes":[0,0]', b'"sizes":[0,' + b"9" * 4000 + b"]", "more bytes"),
        (b'"sizes":[0,0]', b'"sizes":[0]', "sections"),
        (b'"sizes":[0,0]', b'"sizes":[0,0,0]', "sections"),
        (b'"sizes":[0,0]', b'"size":[0,0]', "sorted|sizes"),
    ],
)
def test_a_header_that_we_would_not_write_is_refused(old: bytes, new: bytes, words: str) -> None:
    text = write(EMPTY)
    assert check(forge(text, []))
    assert old in text

    with pytest.raises(FormatError, match=words):
        unpack_state(forge(text.replace(old, new), []))


@pytest.mark.parametrize(
    "shape", [[2**40], [-1], [2**39] * 4, [1] * 17, [2**39, 2**39, 0], [0] + [2**30] * 15]
)
def test_no_tensor_has_such_a_shape(shape: list[int]) -> None:
    header = {**EMPTY, "tensors": [["a", "float32", shape]], "books": [-1]}
    header |= {"blobs": [["bytes", [0]]], "sizes": [8, 0, 1]}

    with pytest.raises(FormatError, match=r"no tensor has|more than the"):
        unpack_state(forge(write(header), [bytes(8), b"", b"\0"]))


@pytest.mark.usefixtures("signed")
def test_books_are_all_used_and_have_no_more_levels_than_entries() -> None:
    book, huge = Writer(), Writer()
    book.sized(b"\1\0" + bytes(4))
    huge.sized(b"\xff\xff\x03\0" + bytes(4 * 65_535))
    header = {**EMPTY, "tensors": [["a", "float32", [3]]], "books": [0]}
    header["blobs"] = [["constant", [0]]]

    def build(books: bytes) -> bytes:
        return forge(write({**header, "sizes": [8, len(books), 0]}), [bytes(8), books, b""])

    assert check(build(book.finish()))
    with pytest.raises(FormatError, match="books: want 2, each of a tensor"):
        unpack_state(build(2 * book.finish()))
    with pytest.raises(FormatError, match="books: want 0, each of a tensor"):
        unpack_state(build(b""))
    with pytest.raises(FormatError, match="number up to 3"):
        unpack_state(build(huge.finish()))


def test_a_header_is_small() -> None:
    wide = write({**EMPTY, "meta": {"a": [[]] * (MAX_HEADER_BYTES // 3)}})
    assert len(wide) > MAX_HEADER_BYTES

    file = forge(wide, [])

    tracemalloc.start()
    with pytest.raises(FormatError, match="at most 1,048,576 bytes"):
        read_container(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 2**18


def make_bombs() -> list[tuple[str, Forged]]:
    """Return small files that say they are large."""
    zeros = bytes(2**25)
    stated = zstandard.ZstdCompressor(level=1).compress(zeros)
    silent = zstandard.ZstdCompressor(level=1, write_content_size=False).compress(zeros)
    book = Writer()
    book.sized(b"\1\0\0")
    two = Writer()
    two.sized(b"\2\0\0\1")
    bits, bombs = BitWriter(), []
    write_table(np.array([2**20, 1]), bits)
    likely = bits.finish() + SymbolWriter().finish()  # As many of the first code as are asked for.
    for name, size, codec, books, blob in (
        ("zstd", 2**12, "bytes", b"", b"\1" + stated),
        ("silent zstd", 2**12, "bytes", b"", b"\1" + silent),
        ("raw", 2**30, "bytes", b"", b"\0"),
        ("zstd of 4 GB", 2**32, "bytes", b"", b"\1" + stated),
        ("constant of 4 GB", 2**32, "constant", book.finish(), b""),
        ("one lane of 4 GB", 2**32, "rans", two.finish(), likely),
        ("bits of 4 GB", 2**32, "bits", two.finish(), b"\0"),
        ("gaps of 4 GB", 2**32, "gaps", two.finish(), bytes(5)),
        ("density of 4 GB", 2**32, "density", two.finish(), bytes(40)),
        ("adaptive of 4 GB", 2**32, "adaptive", two.finish(), bytes(4)),
        ("structured of 4 GB", 2**32, "structured", two.finish(), b"\6\1\0\6\1\0\6\1\0"),
    ):
        header = {**EMPTY, "tensors": [["a", "int8", [size]]]}
        header |= {"books": [0 if books else -1], "blobs": [[codec, [0]]]}
        header["sizes"] = [8, len(books), len(blob)]
        bombs.append((name, (write(header), [bytes(8), books, blob])))
    return bombs


@pytest.mark.usefixtures("signed")
def test_no_more_memory_is_taken_than_was_allowed() -> None:
    bombs = make_bombs()  # Before the memory is counted.
    tracemalloc.start()
    for name, file in bombs:
        tracemalloc.reset_peak()
        with pytest.raises(FormatError):
            unpack_state(forge(*file), most_bytes=2**20)
        assert tracemalloc.get_traced_memory()[1] < 2**23, name
    tracemalloc.stop()


@pytest.mark.usefixtures("signed")
@pytest.mark.parametrize("size", [2**16, 2**18])
def test_memory_goes_with_the_bytes_of_the_tensors(size: int) -> None:
    for name, (text, sections) in make_bombs():
        file = forge(text.replace(b"4294967296", str(size).encode()), sections)
        check(file, size)
        tracemalloc.start()
        check(file, size)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20 * size + 2**21, name


def test_want_of_memory_is_an_answer_and_no_crash() -> None:
    files = [forge(*file).hex() for _, file in make_bombs()]
    script = dedent("""
        import resource, sys
        from pathlib import Path
        from autocompress.errors import FormatError
        from autocompress.store.pack.state import unpack_state

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + 2**28
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        for line in sys.stdin:
            try:
                unpack_state(bytes.fromhex(line))
            except FormatError as error:
                print("refused", error)
    """)
    if not hasattr(resource, "RLIMIT_AS") or sys.platform != "linux":
        pytest.skip("needs /proc and a limit of memory")

    done = subprocess.run(
        [sys.executable, "-c", script],
        input="\n".join(files),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.count("refused") == len(files)
    assert "more memory than there is" in done.stdout
