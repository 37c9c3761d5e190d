"""Tensors of few non-zeros or few values as short byte strings, bit for bit.

An encoded tensor is one run of bytes: the places of its stored entries, a table of the distinct
values, and their codes. Places are gaps between stored entries, counted in digits of a base: the
highest digit skips that many entries and stores none, any lower one skips that many and stores
the next. Base 2 is a bit mask, base 256 a byte per gap. Gaps and codes are packed by one rule:
as many digits into a few bytes as fit, so that three values cost 1.6 bits each.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from torch import Tensor

from autocompress.errors import ArtifactError

MAX_LEVELS = 2**12
GAP_BASES = tuple(2**bits for bits in range(1, 17))
DESCRIPTION_BYTES = 200  # What the lines about one tensor in the record cost.

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_AXES = 16

Bytes = NDArray[np.uint8]
Whole = NDArray[np.unsignedinteger[Any]]


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How one tensor is stored; all but its bytes.

    Attributes:
        dtype: Of the tensor, such as ``float32``.
        shape: Of the tensor.
        gap_base: Base of the gaps' digits; 0 when every entry is stored.
        gaps: Number of digits.
        levels: Length of the table of values; 0 when values are stored as they are.
    """

    dtype: str
    shape: tuple[int, ...]
    gap_base: int
    gaps: int
    levels: int


def encode_tensors(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Return ``tensors`` with those made shorter as bytes, and plain records of their encodings.

    Args:
        tensors: Contiguous, on the CPU.

    Returns:
        All tensors by name, the encoded ones uint8 of one axis, the others the same objects; and
        for each encoded one the fields of its :class:`Encoding`, empty when none gains.
    """
    stored, records = dict(tensors), {}
    for name, tensor in tensors.items():
        found = encode_tensor(tensor)
        if found is not None and len(found[0]) + DESCRIPTION_BYTES < tensor.nbytes:
            stored[name] = found[0]
            records[name] = {**asdict(found[1]), "shape": list(found[1].shape)}
    return stored, records


def decode_tensors(stored: Mapping[str, Tensor], records: Any, most: int) -> dict[str, Tensor]:
    """Return the tensors that :func:`encode_tensors` was given.

    Args:
        stored: Its first result; may come from anyone.
        records: Its second, read from JSON; may come from anyone.
        most: Values that the encoded tensors may hold together.

    Raises:
        ArtifactError: They do not fit together, or hold too many values.
    """
    try:
        # Only JSON mode is strict and still reads a record as a dataclass.
        text = json.dumps(records)
        encodings = TypeAdapter(dict[str, Encoding]).validate_json(text, strict=True)
    except ValidationError as error:
        raise ArtifactError(f"encodings: {error}") from error
    for name, encoding in encodings.items():
        _check_encoding(name, encoding)
    values = sum(prod(encoding.shape) for encoding in encodings.values())
    if values > most:
        raise ArtifactError(f"encodings: want at most {most:,} values, got {values:,}")
    decoded = dict(stored)
    for name, encoding in encodings.items():
        if name not in stored:
            raise ArtifactError(f"encodings: {name} is not among the tensors")
        try:
            decoded[name] = decode_tensor(stored[name], encoding)
        except ArtifactError as error:
            raise ArtifactError(f"{name}: {error}") from error
    return decoded


def encode_tensor(tensor: Tensor) -> tuple[Tensor, Encoding] | None:
    """Return the shortest encoding of ``tensor``, or None when its own bytes are no longer.

    Args:
        tensor: Any shape, contiguous, on the CPU.

    Returns:
        Bytes (length,), uint8, new; and what they mean.
    """
    if tensor.dtype not in DTYPE_NAMES or tensor.numel() == 0:
        return None
    entries = read_bits(tensor)
    best: tuple[list[Bytes], tuple[int, int, int]] | None = None
    length = entries.nbytes
    for parts, sizes in _list_encodings(entries):
        total = sum(part.nbytes for part in parts)
        if total < length:
            best, length = (parts, sizes), total
    if best is None:
        return None
    parts, (base, gaps, levels) = best
    encoding = Encoding(
        dtype=DTYPE_NAMES[tensor.dtype],
        shape=tuple(tensor.shape),
        gap_base=base,
        gaps=gaps,
        levels=levels,
    )
    return torch.from_numpy(np.concatenate(parts)), encoding


def decode_tensor(stored: Tensor, encoding: Encoding) -> Tensor:
    """Return the tensor of one encoding, new, on the CPU; no more is allocated than it holds.

    Raises:
        ArtifactError: The bytes do not fit ``encoding``.
    """
    _check_encoding("encoding", encoding)
    if stored.dtype != torch.uint8 or stored.dim() != 1:
        raise ArtifactError(f"want bytes of one axis, got {stored.dtype} {tuple(stored.shape)}")
    data: Bytes = stored.contiguous().numpy()
    dtype, numel = DTYPES[encoding.dtype], prod(encoding.shape)
    word = np.dtype(f"<u{dtype.itemsize}")
    places = None
    if encoding.gap_base:
        digits, data = _split(data, encoding.gaps, encoding.gap_base)
        places = _find_places(digits, encoding.gap_base)
        if len(places) and places[-1] >= numel:
            raise ArtifactError(f"want places below {numel}, got {places[-1]}")
    count = numel if places is None else len(places)
    table_bytes = (encoding.levels or count) * word.itemsize
    if len(data) < table_bytes:
        raise ArtifactError(f"want {table_bytes:,} bytes of values, got {len(data):,}")
    values: Whole = data[:table_bytes].view(word)
    data = data[table_bytes:]
    if encoding.levels:
        codes, data = _split(data, count, encoding.levels)
        values = values[codes]
    if len(data):
        raise ArtifactError(f"{len(data):,} bytes are left over")
    if dtype == torch.bool and len(values) and values.max() > 1:
        raise ArtifactError("want truth values of 0 and 1")
    entries: Whole = values.copy() if places is None else np.zeros(numel, word)
    if places is not None:
        entries[places] = values
    return write_bits(entries, dtype, encoding.shape)


def have_equal_bits(first: Tensor, second: Tensor) -> bool:
    """Return whether two CPU tensors have one dtype, shape and bits, NaN and -0.0 included."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    flat = [one.contiguous().reshape(-1).view(torch.uint8) for one in (first, second)]
    return torch.equal(flat[0], flat[1])


def _check_encoding(name: str, encoding: Encoding) -> None:
    if encoding.dtype not in DTYPES:
        raise ArtifactError(f"{name}: unknown dtype {encoding.dtype!r}")
    if len(encoding.shape) > _MAX_AXES or any(not 0 <= size < 2**40 for size in encoding.shape):
        raise ArtifactError(f"{name}: no tensor has the shape {encoding.shape}")
    if encoding.gap_base not in (0, *GAP_BASES) or encoding.gaps < 0:
        gaps = f"{encoding.gaps} of base {encoding.gap_base}"
        raise ArtifactError(f"{name}: want gaps of base 0, 2, 4 .. {GAP_BASES[-1]}, got {gaps}")
    if not 0 <= encoding.levels <= MAX_LEVELS:
        raise ArtifactError(f"{name}: want 0..{MAX_LEVELS} levels, got {encoding.levels}")


def read_bits(tensor: Tensor) -> Whole:
    """Return the bits of the entries as whole numbers of their size; shape (numel,), shared."""
    data = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    return data.view(np.dtype(f"<u{tensor.dtype.itemsize}"))


def write_bits(entries: Whole, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Return the tensor whose entries have these bits; shares their memory.

    Args:
        entries: Shape (numel,), contiguous, of as many bytes each as ``dtype``.
        dtype: Of the tensor.
        shape: Of the tensor.
    """
    return torch.from_numpy(entries.view(np.uint8)).view(dtype).reshape(shape)


def _list_encodings(entries: Whole) -> Iterator[tuple[list[Bytes], tuple[int, int, int]]]:
    """Yield parts of bytes with base and number of gaps and length of the table."""
    parts, levels = _encode_values(entries)
    yield parts, (0, 0, levels)
    kept = int(np.count_nonzero(entries))
    # A place costs a bit or more.
    if (len(entries) - kept) * entries.itemsize * 8 > kept:
        places = np.flatnonzero(entries)
        skipped = np.diff(places, prepend=-1) - 1
        base, gaps = _choose_base(skipped)
        parts, levels = _encode_values(entries[places])
        yield [_pack(_make_gaps(skipped, base), base), *parts], (base, gaps, levels)


def _choose_base(skipped: NDArray[np.integer[Any]]) -> tuple[int, int]:
    """Return the base that stores the gaps in the fewest bytes, and its number of digits."""
    best, least = (GAP_BASES[0], 0), -1
    for base in GAP_BASES:
        digits = len(skipped) + int((skipped // (base - 1)).sum())
        length = _count_bytes(digits, base)
        if least < 0 or length < least:
            best, least = (base, digits), length
        elif length > 2 * least:  # Higher bases only get longer.
            break
    return best


def _encode_values(values: Whole) -> tuple[list[Bytes], int]:
    """Return table and codes of ``values``, or their own bytes where these are no longer."""
    own = np.ascontiguousarray(values).view(np.uint8)
    # Of a large tensor of many values, a part tells.
    if len(values) == 0 or len(np.unique(values[: 4 * MAX_LEVELS])) > MAX_LEVELS:
        return [own], 0
    table, codes = np.unique(values, return_inverse=True)
    if table.nbytes + _count_bytes(len(values), len(table)) >= own.nbytes:
        return [own], 0
    if len(table) > MAX_LEVELS:
        return [own], 0
    return [table.view(np.uint8), _pack(codes, len(table))], len(table)


def _make_gaps(skipped: NDArray[np.integer[Any]], base: int) -> NDArray[np.integer[Any]]:
    """Return the digits of gaps of ``skipped`` entries before each stored one."""
    ends = np.cumsum(skipped // (base - 1) + 1) - 1
    digits = np.full(int(ends[-1]) + 1 if len(ends) else 0, base - 1, np.uint16)
    digits[ends] = skipped % (base - 1)
    return digits


def _find_places(digits: NDArray[np.uint16], base: int) -> NDArray[np.int64]:
    """Return the places of the stored entries, rising; the inverse of :func:`_make_gaps`."""
    ends = digits != base - 1
    places: NDArray[np.int64] = np.cumsum(digits + ends.astype(np.int64))[ends] - 1
    return places


@cache
def _choose_group(base: int) -> tuple[int, int]:
    """Return how many digits of ``base`` go into how many bytes, at most 8, wasting least."""
    groups = []
    for size in range(1, 9):
        digits = 0
        while base ** (digits + 1) <= 256**size:
            digits += 1
        groups.append((digits, size))
    return max(groups, key=lambda group: (group[0] / group[1], -group[1]))


def _count_bytes(digits: int, base: int) -> int:
    """Return how long the digits are once packed; those of base 1 need nothing."""
    if base == 1:
        return 0
    each, size = _choose_group(base)
    return -(-digits // each) * size


def _pack(digits: NDArray[np.integer[Any]], base: int) -> Bytes:
    """Return digits below ``base``, 1..2^16, as bytes; the first digit counts least."""
    if base == 1:
        return np.empty(0, np.uint8)
    each, size = _choose_group(base)
    groups = -(-len(digits) // each)
    table = np.zeros((groups, each), np.uint16)
    table.reshape(-1)[: len(digits)] = digits
    words = np.zeros(groups, "<u8")
    for place in reversed(range(each)):
        words = words * np.uint64(base) + table[:, place]
    return np.ascontiguousarray(words.view(np.uint8).reshape(groups, 8)[:, :size]).reshape(-1)


def _split(data: Bytes, count: int, base: int) -> tuple[NDArray[np.uint16], Bytes]:
    """Return ``count`` digits from the beginning of ``data``, and the rest of it.

    Raises:
        ArtifactError: The bytes are too few, or not what :func:`_pack` makes.
    """
    if base == 1:
        return np.zeros(count, np.uint16), data
    length = _count_bytes(count, base)
    if len(data) < length:
        raise ArtifactError(f"want {length:,} bytes of digits, got {len(data):,}")
    each, size = _choose_group(base)
    words = np.zeros((length // size, 8), np.uint8)
    words[:, :size] = data[:length].reshape(-1, size)
    left = words.reshape(-1).view("<u8")
    table = np.empty((len(left), each), np.uint16)
    for place in range(each):
        table[:, place] = left % np.uint64(base)
        left = left // np.uint64(base)
    digits = table.reshape(-1)
    if left.any() or digits[count:].any():
        raise ArtifactError("digits: want nothing but zeros after the last one")
    return digits[:count], data[length:]
