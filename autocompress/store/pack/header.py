"""What the header of a compact file says, and what is checked of it before a tensor is decoded."""

import json
from dataclasses import dataclass
from math import prod
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from autocompress.errors import FormatError
from autocompress.store.pack.choose import CODECS
from autocompress.store.pack.container import read_container
from autocompress.store.tensors import DTYPES

TENSOR_DIGEST_BYTES = 8
MOST_BYTES = 2**32  # Of all tensors together, unless the caller says otherwise.
BYTES = "bytes"  # The coder of tensors without a book.
GROUP = "adaptive"  # The codec that takes several tensors at once.
MOST_SLOW = 2**17  # Entries of a file in that codec, which takes microseconds for each.

_MOST_AXES = 16
_MOST_STEP = 2**63  # Bytes between entries, which also a tensor without any has.


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class Header:
    """What the header of a file says.

    Attributes:
        tensors: Name, dtype and shape of each.
        books: For each tensor the number of its book; -1 without one.
        blobs: Codec and numbers of the tensors of each blob.
        meta: Plain values of the caller.
    """

    tensors: list[tuple[str, str, list[int]]]
    books: list[int]
    blobs: list[tuple[str, list[int]]]
    meta: dict[str, Any]


_HEADERS = TypeAdapter(Header)


def open_header(
    data: bytes | memoryview, *, most_bytes: int = MOST_BYTES
) -> tuple[Header, list[memoryview]]:
    """Return the checked header and the sections of a file; no tensor is decoded.

    Raises:
        FormatError: As for :func:`unpack_state`.
    """
    plain, sections = read_container(data)
    try:
        # Only JSON mode is strict and still reads a list as a tuple.
        header = _HEADERS.validate_json(json.dumps(plain), strict=True)
    except RecursionError as error:
        raise FormatError("header: too deep") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise FormatError(f"header: {first['loc']}: {first['msg']}") from error
    _check_tensors(header, most_bytes)
    _check_blobs(header)
    if len(sections) != 2 + len(header.blobs):
        raise FormatError(f"want {2 + len(header.blobs)} sections, got {len(sections)}")
    if len(sections[0]) != TENSOR_DIGEST_BYTES * len(header.tensors):
        raise FormatError(f"want one digest per tensor, got {len(sections[0])} bytes of them")
    return header, sections


def _check_tensors(header: Header, most_bytes: int) -> None:
    total = 0
    for name, dtype, shape in header.tensors:
        if dtype not in DTYPES:
            raise FormatError(f"{name}: unknown dtype {dtype!r}")
        if len(shape) > _MOST_AXES or any(not 0 <= size < 2**40 for size in shape):
            raise FormatError(f"{name}: no tensor has the shape {shape}")
        if prod(max(size, 1) for size in shape) * DTYPES[dtype].itemsize >= _MOST_STEP:
            raise FormatError(f"{name}: no tensor has the shape {shape}")
        total += prod(shape) * DTYPES[dtype].itemsize
        if total > most_bytes:
            raise FormatError(
                f"{name}: the tensors take {total:,} bytes up to here, more than the "
                f"{most_bytes:,} allowed"
            )
    if len({name for name, _, _ in header.tensors}) != len(header.tensors):
        raise FormatError("header: a tensor is named twice")


def _check_blobs(header: Header) -> None:
    count = len(header.tensors)
    members = [number for _, numbers in header.blobs for number in numbers]
    if sorted(members) != list(range(count)) or not all(one for _, one in header.blobs):
        raise FormatError("header: want every tensor in one blob")
    if len(header.books) != count or any(book < -1 for book in header.books):
        raise FormatError("header: want a book or -1 for every tensor")
    for codec, numbers in header.blobs:
        name = header.tensors[numbers[0]][0]
        if codec not in CODECS and codec != BYTES:
            raise FormatError(f"{name}: unknown codec {codec!r}")
        if len(numbers) > 1 and codec not in (BYTES, GROUP):
            raise FormatError(f"{name}: {codec} takes one tensor")
        if any((header.books[number] < 0) != (codec == BYTES) for number in numbers):
            raise FormatError(f"{name}: a book and {codec} do not fit")
    sizes = [prod(shape) for _, _, shape in header.tensors]
    slow = sum(sizes[one] for codec, numbers in header.blobs for one in numbers if codec == GROUP)
    if slow > MOST_SLOW:
        raise FormatError(f"header: want up to {MOST_SLOW:,} entries by {GROUP}, got {slow:,}")
