"""Tensors of few distinct values as numbers and a book of those values, bit for bit.

Code 0 is the value that occurs most often: zero, in what was pruned. The others follow by rising
value, so that like codes mean like values.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autocompress.errors import FormatError
from autocompress.store.pack.codec import MAX_LEVELS, Indices
from autocompress.store.pack.rising import read_rising, write_rising
from autocompress.store.pack.wire import Reader, Writer
from autocompress.store.tensors import Whole, read_bits

_SAMPLE = 2**18  # Entries that tell whether there are too many values to number them.
_OWN, _GRID, _RISING = range(3)
_MOST_STEP = 2**20
_MOST_DIVISOR = 16  # The smallest level may be up to so many steps from 0.


def split_tensor(tensor: Tensor) -> tuple[Indices, Whole] | None:
    """Return the numbers of a tensor's values, and the values; None when they are too many.

    Args:
        tensor: Any shape, contiguous, on the CPU.

    Returns:
        The codes; and the bits of each level, shape (levels,), as whole numbers.
    """
    entries = read_bits(tensor)
    stride = max(1, len(entries) // _SAMPLE)
    if len(np.unique(entries[::stride][:_SAMPLE])) > min(MAX_LEVELS, _SAMPLE // 2):
        return None
    values, codes, counts = np.unique(entries, return_inverse=True, return_counts=True)
    if len(values) > MAX_LEVELS:
        return None
    shape = tuple(tensor.shape)
    if not len(values):
        return Indices(shape=shape, codes=np.zeros(0, np.uint16), levels=0), values
    order = np.argsort(_make_keys(values, tensor.dtype), kind="stable")
    first = int(counts.argmax())
    order = np.concatenate([[first], order[order != first]])
    numbers = np.empty(len(order), np.uint16)
    numbers[order] = np.arange(len(order), dtype=np.uint16)
    return Indices(shape=shape, codes=numbers[codes], levels=len(values)), values[order]


def is_few(indices: Indices) -> bool:
    """Return whether values are so few that a book can pay."""
    return 2 * indices.levels <= len(indices.codes)


def write_book(values: Whole, dtype: torch.dtype) -> bytes:
    """Return the values of a book as bytes, the shortest of three ways.

    Args:
        values: Bits of each level; shape (levels,).
        dtype: That the bits are of.
    """
    own = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"))
    found = [bytes([_OWN]) + own.tobytes()]
    steps = _find_grid(values) if dtype == torch.float32 else None
    if steps is not None:
        found.append(_write_grid(*steps))
    keys = _make_keys(values, dtype)
    # NumPy compares; the difference of unsigned numbers is never negative.
    if dtype.is_floating_point and len(keys) > 1 and bool((keys[2:] > keys[1:-1]).all()):
        found.append(_write_rising(own[:1].tobytes(), keys))
    return min(found, key=lambda book: (len(book), -book[0]))


def read_book(data: memoryview, levels: int, dtype: torch.dtype) -> Whole:
    """Return the values that :func:`write_book` was given.

    Raises:
        FormatError: The bytes are none of a book of so many levels.
    """
    reader = Reader(data)
    kind = reader.number(_RISING)
    word = np.dtype(f"<u{dtype.itemsize}")
    if kind == _OWN:
        values: Whole = np.frombuffer(reader.raw(levels * word.itemsize), word).copy()
        reader.end()
        if dtype == torch.bool and levels and values.max() > 1:
            raise FormatError("want truth values of 0 and 1")
        return values
    if kind == _RISING and dtype.is_floating_point and levels > 1:
        return _read_rising(reader, levels, dtype)
    if kind != _GRID or dtype != torch.float32:
        raise FormatError(f"a book of {dtype} has no form {kind}")
    return _read_grid(reader, levels)


def _write_grid(scale: np.float32, steps: NDArray[np.int64]) -> bytes:
    writer = Writer()
    writer.number(_GRID)
    writer.raw(scale.astype("<f4").tobytes())
    before = 0
    for step in steps.tolist():  # Most often neighbours.
        writer.signed(step - before)
        before = step
    return writer.finish()


def _read_grid(reader: Reader, levels: int) -> Whole:
    scale = np.frombuffer(reader.raw(4), "<f4")[0]
    steps, step = [], 0
    for _ in range(levels):
        step += reader.signed(2 * _MOST_STEP)
        if abs(step) > _MOST_STEP:
            raise FormatError(f"want steps up to {_MOST_STEP:,}, got {step:,}")
        steps.append(step)
    reader.end()
    if not 0 < scale < np.inf:
        raise FormatError(f"want a scale above 0, got {scale}")
    with np.errstate(over="ignore"):
        return (np.array(steps, np.float32) * scale).astype("<f4").view("<u4")


def _write_rising(first: bytes, keys: NDArray[np.unsignedinteger[Any]]) -> bytes:
    """Return the first value, in a byte if it is 0, and the others, which rise."""
    writer = Writer()
    writer.number(_RISING)
    writer.number(int(any(first)))
    if any(first):
        writer.raw(first)
    writer.raw(write_rising(keys[1:].tolist(), 1 << 8 * len(first)))
    return writer.finish()


def _read_rising(reader: Reader, levels: int, dtype: torch.dtype) -> Whole:
    word = np.dtype(f"<u{dtype.itemsize}")
    first = np.zeros(1, word)
    if reader.number(1):
        first = np.frombuffer(reader.raw(word.itemsize), word)
        if not first[0]:
            raise FormatError("want one byte for 0")
    keys = read_rising(reader.rest(), levels - 1, 1 << 8 * word.itemsize)
    values = _undo_keys(np.array(keys, word))
    if first[0] in values:
        raise FormatError("a value is in the book twice")
    return np.concatenate([first, values])


def _make_keys(values: Whole, dtype: torch.dtype) -> NDArray[np.unsignedinteger[Any]]:
    """Return numbers that rise as the values of these bits do."""
    size = values.dtype.itemsize * 8
    sign = values.dtype.type(1 << (size - 1))
    if dtype.is_floating_point:
        return np.where(values & sign, ~values, values | sign)
    if dtype.is_signed:
        return values ^ sign
    return values


def _undo_keys(keys: Whole) -> Whole:
    """Return the bits of floats whose keys these are."""
    sign = keys.dtype.type(1 << (keys.dtype.itemsize * 8 - 1))
    return np.where(keys & sign, keys ^ sign, ~keys)


def _find_grid(values: Whole) -> tuple[np.float32, NDArray[np.int64]] | None:
    """Return a scale and whole steps whose products in float32 are exactly these bits."""
    floats = values.astype("<u4").view("<f4")
    sizes = np.abs(floats[floats != 0])
    if not len(sizes) or not np.isfinite(sizes).all():
        return None
    least = sizes.min()
    for divisor in range(1, _MOST_DIVISOR + 1):
        middle = np.float32(least / np.float32(divisor))
        for scale in (middle, np.nextafter(middle, 0), np.nextafter(middle, np.float32(np.inf))):
            if not scale > 0 or sizes.max() / np.float64(scale) > _MOST_STEP:
                continue
            # Whole, as a reader finds them: -0.0 is on no grid.
            steps = np.rint(floats / np.float64(scale)).astype(np.int64)
            made = steps.astype(np.float32) * np.float32(scale)
            if np.array_equal(made.view("<u4"), values.astype("<u4")):
                return np.float32(scale), steps
    return None
