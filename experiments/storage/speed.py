"""Sizes and decoding speeds of the codecs beside zstd and xz: speed.py [ROWS] [COLUMNS] [TURNS].

Normal weights, the smallest pruned, the others in equal steps: nothing that a context could use.
"""

import lzma
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import zstandard

from autocompress.store.pack.bits import PackedBits
from autocompress.store.pack.codec import Codec, Codes, Indices
from autocompress.store.pack.density import Density
from autocompress.store.pack.gaps import Gaps
from autocompress.store.pack.rans import Rans

CODECS: tuple[Codec, ...] = (Rans(), Gaps(), Density(), PackedBits())
PRUNED = (0.0, 0.6, 0.9, 0.99)
LEVELS = (16, 32, 256)


@dataclass
class Row:
    """One way to store a tensor, and how long it took to read, in seconds."""

    name: str
    size: int
    read: Callable[[], Codes]
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def main() -> None:
    """Print a table per share of pruned weights and number of levels."""
    rows, columns, turns = (*map(int, sys.argv[1:]), *(4096, 4096, 5)[len(sys.argv) - 1 :])
    print(f"{rows} x {columns} weights, medians of {turns} turns, all ways in each turn\n")
    for levels in LEVELS:
        for pruned in PRUNED:
            indices = draw((rows, columns), levels, pruned)
            print_table(indices, levels, pruned, turns)


def draw(shape: tuple[int, int], levels: int, pruned: float) -> Indices:
    """Return codes of ``levels`` values, 0 the most frequent."""
    values = np.random.default_rng(levels).normal(size=shape[0] * shape[1]).astype(np.float32)
    sizes = np.abs(values)
    threshold = np.quantile(sizes, pruned) if pruned else 0.0
    highest = np.quantile(sizes, 1 - (1 - pruned) / 1000)
    # With pruning, zero is one of the levels.
    steps = levels - 1 if pruned else levels
    position = (np.clip(values, -highest, highest) + highest) / (2 * highest) * (steps - 1)
    codes = np.round(position).astype(np.int64) + 1
    codes[sizes < threshold] = 0
    _, codes, counts = np.unique(codes, return_inverse=True, return_counts=True)
    ranks = np.empty(len(counts), np.uint16)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return Indices(shape=shape, codes=ranks[codes], levels=len(counts))


def print_table(indices: Indices, levels: int, pruned: float, turns: int) -> None:
    """Print what each way takes, in bytes and in time."""
    shares = np.bincount(indices.codes) / len(indices.codes)
    entropy = float(-(shares * np.log2(shares)).sum()) * len(indices.codes) / 8
    rows = list_ways(indices)
    for _ in range(turns):
        for row in rows:
            wall, cpu = time.perf_counter(), time.process_time()
            codes = row.read()
            row.cpu.append(time.process_time() - cpu)
            row.wall.append(time.perf_counter() - wall)
            assert np.array_equal(codes, indices.codes)
    zstd = median(next(row for row in rows if row.name == "zstd -3").wall)
    print(f"{levels} levels, {pruned:.0%} pruned: order-0 entropy {entropy:,.0f} bytes\n")
    print("| way | bytes | of entropy | M weights/s | CPU | time of zstd -3 |")
    print("|---|---:|---:|---:|---:|---:|")
    for row in rows:
        wall, cpu = median(row.wall), median(row.cpu)
        million = len(indices.codes) / 1e6
        print(
            f"| {row.name} | {row.size:,} | {row.size / entropy:.4f} | {million / wall:.0f} "
            f"| {million / max(cpu, 1e-9):.0f} | {wall / zstd:.2f}x |"
        )
    print(flush=True)


def list_ways(indices: Indices) -> list[Row]:
    """Return the ways that apply."""
    rows = []
    for codec in CODECS:
        data = codec.encode(indices)
        if data is not None:
            rows.append(Row(codec.name, len(data), make_reader(codec, data, indices)))
    plain = indices.codes.astype(np.uint8 if indices.levels <= 256 else "<u2")
    for level in (3, 19):
        packed = zstandard.ZstdCompressor(level=level).compress(plain.tobytes())
        rows.append(Row(f"zstd -{level}", len(packed), make_unzipper(packed, plain.dtype)))
    packed = lzma.compress(plain.tobytes())
    rows.append(Row("xz", len(packed), lambda: widen(lzma.decompress(packed), plain.dtype)))
    return rows


def make_reader(codec: Codec, data: bytes, indices: Indices) -> Callable[[], Codes]:
    """Return what decodes ``data``."""
    return lambda: codec.decode(memoryview(data), indices.shape, indices.levels)


def make_unzipper(data: bytes, dtype: np.dtype[np.generic]) -> Callable[[], Codes]:
    """Return what unpacks ``data``."""
    return lambda: widen(zstandard.ZstdDecompressor().decompress(data), dtype)


def widen(data: bytes, dtype: np.dtype[np.generic]) -> Codes:
    """Return codes from their bytes."""
    return np.frombuffer(data, dtype).astype(np.uint16)


if __name__ == "__main__":
    main()
