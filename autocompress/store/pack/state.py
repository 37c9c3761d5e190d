"""Named tensors as one compact file, and back, bit for bit.

The sections of the container: a digest of each tensor's bytes, the books of values, then the
blobs. A blob holds the codes of one tensor, of several small ones that share what their coder
learns, or bytes of tensors whose values are too many for a book.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autocompress.errors import ArtifactError, FormatError
from autocompress.store.pack.adaptive import decode_group, encode_group
from autocompress.store.pack.books import is_few, read_book, split_tensor, write_book
from autocompress.store.pack.choose import CODECS, choose_smallest, encode_by_all
from autocompress.store.pack.codec import MAX_LEVELS, Codes, Indices
from autocompress.store.pack.container import make_digest, write_container
from autocompress.store.pack.header import (
    BYTES,
    GROUP,
    MOST_BYTES,
    TENSOR_DIGEST_BYTES,
    Header,
    open_header,
)
from autocompress.store.pack.lz import pack_bytes, unpack_bytes
from autocompress.store.pack.wire import Reader, Writer
from autocompress.store.tensors import (
    DTYPE_NAMES,
    DTYPES,
    Whole,
    have_equal_bits,
    read_bits,
    write_bits,
)

_SMALL_BYTES = 2**16  # Tensors without a book up to this size share one run of bytes.
_SLOW_ENTRIES = 2**16  # Codes of a net that is small enough for the codec that mixes contexts.
_BLOB_COST = 6  # About what the header says of one more blob.
_AT_ONCE = 2**16  # Codes looked up at a time, as NumPy turns them into 8 bytes each first.


@dataclass(frozen=True, kw_only=True)
class Blob:
    """Bytes of some tensors."""

    codec: str
    members: tuple[int, ...]
    data: bytes


def pack_state(state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bytes:
    """Return a file of ``state``; the same bytes for the same tensors.

    Args:
        state: Any shapes, of the dtypes of ``store.tensors.DTYPES``, on any device.
        meta: Plain values to be kept beside them.

    Raises:
        ArtifactError: A dtype is not known, or the file would not give the same bits again.
    """
    tensors = [tensor.detach().cpu().contiguous() for tensor in state.values()]
    for name, tensor in state.items():
        if tensor.dtype not in DTYPE_NAMES:
            known = ", ".join(DTYPES)
            raise ArtifactError(f"{name}: cannot pack {tensor.dtype}; want one of {known}")
    numbers: list[int] = []
    books: dict[bytes, int] = {}
    coded: dict[int, Indices] = {}
    for place, tensor in enumerate(tensors):
        found = _code_tensor(tensor)
        numbers.append(-1)
        if found is not None:
            coded[place], book = found
            numbers[place] = books.setdefault(book, len(books))
    blobs = [*_code_blobs(coded), *_code_bytes(tensors, set(coded))]
    header = {
        "tensors": [
            [name, DTYPE_NAMES[tensor.dtype], list(tensor.shape)] for name, tensor in state.items()
        ],
        "books": numbers,
        "blobs": [[blob.codec, list(blob.members)] for blob in blobs],
        "meta": dict(meta),
    }
    digests = b"".join(make_digest(_read_bytes(one), TENSOR_DIGEST_BYTES) for one in tensors)
    writer = Writer()
    for book in books:
        writer.sized(book)
    data = write_container(header, [digests, writer.finish(), *(blob.data for blob in blobs)])
    again = unpack_state(data, most_bytes=sum(tensor.nbytes for tensor in tensors))[1]
    for name, tensor in zip(state, tensors, strict=True):
        if not have_equal_bits(again[name], tensor):
            raise ArtifactError(f"{name}: cannot be packed without loss; nothing was written")
    return data


def unpack_state(
    data: bytes | memoryview, *, most_bytes: int = MOST_BYTES
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the plain values and the tensors of a file, new, on the CPU.

    Args:
        data: All bytes of the file; may come from anyone.
        most_bytes: That the tensors may take together.

    Raises:
        FormatError: The file is damaged, not one of ours, or asks for more.
    """
    try:
        return _unpack(data, most_bytes)
    except MemoryError as error:
        raise FormatError("asks for more memory than there is") from error


def _unpack(data: bytes | memoryview, most_bytes: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    header, sections = open_header(data, most_bytes=most_bytes)
    books = split_books(sections[1], header.books)
    values: dict[int, Tensor] = {}
    for (codec, members), blob in zip(header.blobs, sections[2:], strict=True):
        try:
            values.update(_decode_blob(header, codec, members, blob, books))
        except FormatError as error:
            raise FormatError(f"{header.tensors[members[0]][0]}: {error}") from error
    state = {}
    for place, (name, _, _) in enumerate(header.tensors):
        state[name] = values[place]
        digest = sections[0][place * TENSOR_DIGEST_BYTES :][:TENSOR_DIGEST_BYTES]
        if make_digest(_read_bytes(values[place]), TENSOR_DIGEST_BYTES) != digest:
            raise FormatError(f"{name}: damaged, its content does not match its digest")
    return header.meta, state


def _decode_blob(
    header: Header, codec: str, members: list[int], blob: memoryview, books: list[memoryview]
) -> dict[int, Tensor]:
    """Return the tensors of one blob by number."""
    shapes = [tuple(header.tensors[one][2]) for one in members]
    dtypes = [DTYPES[header.tensors[one][1]] for one in members]
    if codec == BYTES:
        return dict(zip(members, _decode_bytes(blob, shapes, dtypes), strict=True))
    found, levels = [], []
    for one, dtype, shape in zip(members, dtypes, shapes, strict=True):
        reader = Reader(books[header.books[one]])
        # No more levels than entries: many small tensors must not take the time of large ones.
        levels.append(reader.number(min(MAX_LEVELS, prod(shape))))
        if prod(shape) and not levels[-1]:
            raise FormatError("want at least one level")
        found.append(read_book(reader.rest(), levels[-1], dtype))
    codes: list[Codes]
    if codec == GROUP:
        codes = decode_group(blob, shapes, levels)
    else:
        codes = [CODECS[codec].decode(blob, shapes[0], levels[0])]
    return {
        one: write_bits(_look_up(values, part), dtype, shape)
        for one, values, part, dtype, shape in zip(
            members, found, codes, dtypes, shapes, strict=True
        )
    }


def _decode_bytes(
    blob: memoryview, shapes: list[tuple[int, ...]], dtypes: list[torch.dtype]
) -> list[Tensor]:
    width = dtypes[0].itemsize
    if any(dtype.itemsize != width for dtype in dtypes):
        raise FormatError("want tensors of one width in a run of bytes")
    counts = [prod(shape) for shape in shapes]
    whole = np.frombuffer(unpack_bytes(blob, sum(counts) * width, width), f"<u{width}").copy()
    parts = np.split(whole, np.cumsum(counts)[:-1])
    for part, dtype in zip(parts, dtypes, strict=True):
        if dtype == torch.bool and len(part) and part.max() > 1:
            raise FormatError("want truth values of 0 and 1")
    return [
        write_bits(part, dtype, shape)
        for part, dtype, shape in zip(parts, dtypes, shapes, strict=True)
    ]


def _code_tensor(tensor: Tensor) -> tuple[Indices, bytes] | None:
    """Return the codes and the book of a tensor; None where its own bytes are shorter."""
    found = split_tensor(tensor)
    if found is None:
        return None
    indices, values = found
    if not is_few(indices):
        return None
    writer = Writer()
    writer.number(indices.levels)
    writer.raw(write_book(values, tensor.dtype))
    return indices, writer.finish()


def _code_blobs(coded: Mapping[int, Indices]) -> list[Blob]:
    """Return the codes of tensors as blobs: each alone, or small ones together."""
    alone, group = {}, []
    is_small = sum(len(indices.codes) for indices in coded.values()) <= _SLOW_ENTRIES
    for place, indices in coded.items():
        found = encode_by_all(indices, slow=is_small)
        if GROUP in found:
            group.append(place)
        name = choose_smallest(found)
        alone[place] = Blob(codec=name, members=(place,), data=found[name])
    blobs = list(alone.values())
    if len(group) > 1:
        data = encode_group([coded[place] for place in group])
        single = sum(len(alone[place].data) + _BLOB_COST for place in group)
        if data is not None and len(data) < single:
            blobs = [blob for place, blob in alone.items() if place not in group]
            blobs.append(Blob(codec=GROUP, members=tuple(group), data=data))
    return blobs


def _code_bytes(tensors: list[Tensor], coded: set[int]) -> list[Blob]:
    """Return the tensors without a book as blobs; small ones of one width share a run."""
    runs: dict[tuple[int, int], list[int]] = {}
    for place, tensor in enumerate(tensors):
        if place not in coded:
            own = place if tensor.nbytes > _SMALL_BYTES else -1
            runs.setdefault((tensor.dtype.itemsize, own), []).append(place)
    return [
        Blob(
            codec=BYTES,
            members=tuple(places),
            data=pack_bytes(b"".join(_read_bytes(tensors[one]) for one in places), width),
        )
        for (width, _), places in runs.items()
    ]


def split_books(section: memoryview, numbers: list[int]) -> list[memoryview]:
    """Return the bytes of each book.

    Args:
        section: The second of a file.
        numbers: Of the book of each tensor; -1 without one.

    Raises:
        FormatError: Not every book belongs to a tensor, in the order of these.
    """
    reader, books = Reader(section), []
    while reader.left:
        books.append(reader.sized())
    if list(dict.fromkeys(number for number in numbers if number >= 0)) != list(range(len(books))):
        raise FormatError(f"books: want {len(books)}, each of a tensor, in the order of these")
    return books


def _look_up(values: Whole, codes: Codes) -> Whole:
    """Return the value of each code; shape (entries,)."""
    found = np.empty(len(codes), values.dtype)
    for first in range(0, len(codes), _AT_ONCE):
        found[first : first + _AT_ONCE] = values.take(codes[first : first + _AT_ONCE])
    return found


def _read_bytes(tensor: Tensor) -> bytes:
    bits: Whole = read_bits(tensor)
    return bits.astype(bits.dtype.newbyteorder("<"), copy=False).tobytes()
