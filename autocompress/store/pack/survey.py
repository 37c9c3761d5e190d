"""What lies in a compact file: per tensor the bytes that each codec would take, and totals."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from safetensors.torch import save as write_tensors
from torch import Tensor

from autocompress.errors import FormatError
from autocompress.store.pack.books import is_few, split_tensor, write_book
from autocompress.store.pack.choose import encode_by_all
from autocompress.store.pack.codec import Indices
from autocompress.store.pack.header import BYTES, MOST_BYTES, open_header
from autocompress.store.pack.lz import pack_bytes
from autocompress.store.pack.model import read_file
from autocompress.store.pack.state import unpack_state
from autocompress.store.tensors import read_bits

_ZSTD_LEVEL = 19


@dataclass(frozen=True, kw_only=True)
class TensorLine:
    """One tensor of a file.

    Attributes:
        name: Its name.
        dtype: Such as ``float32``.
        shape: Its axes.
        entries: Values in it.
        nonzeros: Values whose bits are not all 0; -0.0 counts.
        levels: Distinct values; None when there are too many for a book to pay.
        entropy_bytes: Order-0 entropy of its codes, zeros included; None without levels.
        book_bytes: Its book of values alone; 0 without one.
        codec: That the file uses.
        shared_with: Tensors in the same blob.
        blob_bytes: Of that blob, whole; without the book.
        by_codec: Bytes that each codec that applies takes for this tensor alone.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    entries: int
    nonzeros: int
    levels: int | None
    entropy_bytes: float | None
    book_bytes: int
    codec: str
    shared_with: tuple[str, ...]
    blob_bytes: int
    by_codec: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A whole file.

    Attributes:
        file_bytes: All of it.
        header_bytes: What is neither book nor blob: header, digests, sizes.
        dense_bytes: The tensors as float32.
        safetensors_bytes: As a safetensors file.
        zstd_bytes: That file by Zstandard at level 19.
        meta: What else the header says.
        tensors: In their order.
    """

    file_bytes: int
    header_bytes: int
    dense_bytes: int
    safetensors_bytes: int
    zstd_bytes: int
    meta: Mapping[str, Any]
    tensors: tuple[TensorLine, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return asdict(self)


def survey_file(path: str | Path, *, most_bytes: int = MOST_BYTES) -> Survey:
    """Return what lies in a compact file; every codec is tried on every tensor.

    Raises:
        FormatError: The file is damaged, not one of ours, or its tensors take more bytes.
    """
    path = Path(path)
    data = read_file(path)
    try:
        header, sections = open_header(data, most_bytes=most_bytes)
        state = unpack_state(data, most_bytes=most_bytes)[1]
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    names = list(state)
    lines: dict[str, TensorLine] = {}
    for (codec, members), blob in zip(header.blobs, sections[2:], strict=True):
        for one in members:
            others = tuple(names[other] for other in members if other != one)
            lines[names[one]] = survey_tensor(
                names[one], state[names[one]], (codec, others, len(blob))
            )
    stored = write_tensors(state)
    return Survey(
        file_bytes=len(data),
        header_bytes=len(data) - sum(len(section) for section in sections[1:]),
        dense_bytes=4 * sum(tensor.numel() for tensor in state.values()),
        safetensors_bytes=len(stored),
        zstd_bytes=len(zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(stored)),
        meta=header.meta,
        tensors=tuple(lines[name] for name in names),
    )


def survey_tensor(
    name: str, tensor: Tensor, stored: tuple[str, tuple[str, ...], int]
) -> TensorLine:
    """Return the line of one tensor.

    Args:
        name: Its name.
        tensor: On the CPU, contiguous.
        stored: Codec, other tensors of its blob, bytes of the blob.
    """
    codec, others, size = stored
    bits = read_bits(tensor)
    found = split_tensor(tensor)
    own = len(pack_bytes(bits.tobytes(), tensor.dtype.itemsize))
    by_codec, levels, entropy, book = {BYTES: own}, None, None, 0
    if found is not None and is_few(found[0]):
        indices, values = found
        book = len(write_book(values, tensor.dtype))
        sizes = {key: len(data) for key, data in encode_by_all(indices).items()}
        by_codec = {**sizes, **by_codec}
        levels, entropy = indices.levels, measure_entropy_bytes(indices)
    return TensorLine(
        name=name,
        dtype=str(tensor.dtype).removeprefix(f"{torch.__name__}."),
        shape=tuple(tensor.shape),
        entries=tensor.numel(),
        nonzeros=int(np.count_nonzero(bits)),
        levels=levels,
        entropy_bytes=entropy,
        book_bytes=book,
        codec=codec,
        shared_with=others,
        blob_bytes=size,
        by_codec=by_codec,
    )


def measure_entropy_bytes(indices: Indices) -> float:
    """Return the order-0 entropy of the codes, zeros included, in bytes for all of them."""
    counts = np.bincount(indices.codes, minlength=1)
    counts = counts[counts > 0]
    total = int(counts.sum())
    bits = sum(count * math.log2(total / count) for count in counts.tolist())
    return bits / 8
