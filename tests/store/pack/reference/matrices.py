"""Matrices that a format may find hard."""

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]


def draw(rows: int, columns: int, *, levels: int = 32, kept: float = 0.3, seed: int = 0) -> Matrix:
    """Return a pruned and quantised matrix; ``levels`` are those beside zero."""
    random = np.random.default_rng(seed)
    values = np.sort(random.normal(size=levels)).astype(np.float32)
    codes = random.normal(levels / 2, levels / 6, size=(rows, columns)).astype(np.int64)
    found = values[np.clip(codes, 0, levels - 1)]
    found[random.random(found.shape) >= kept] = 0
    return found


def list_hard() -> dict[str, Matrix]:
    """Return shapes, values and counts at the ends of their ranges, by name."""
    patterns = (
        "00000000 80000000 7fc00000 7fc00001 ffc01234 7f800001 "
        "7f800000 ff800000 00000001 807fffff 3f800000 3f800000"
    )
    special = np.frombuffer(bytes.fromhex(patterns), dtype=">u4").astype(np.uint32)
    many = np.arange(1, 65_536, dtype=np.uint32).view(np.float32)
    return {
        "no rows": np.zeros((0, 3), np.float32),
        "no columns": np.zeros((3, 0), np.float32),
        "nothing": np.zeros((0, 0), np.float32),
        "one zero": np.zeros((1, 1), np.float32),
        "one value": np.full((1, 1), 2.5, np.float32),
        "only zeros": np.zeros((5, 7), np.float32),
        "one value everywhere": np.full((33, 2), -1.5, np.float32),
        "one row": draw(1, 100),
        "one column": draw(100, 1),
        "full last row": draw(255, 3, kept=1.0),
        "256 rows, full": draw(256, 2, kept=1.0),
        "257 rows": draw(257, 2, kept=0.9),
        "65,536 rows": draw(65_536, 2, kept=0.001),
        "special values": special.view(np.float32).reshape(3, 4),
        "65,535 values": many.reshape(5, -1),
        "65,536 values": np.append(many, np.float32(0)).reshape(256, 256),
        "transposed": draw(6, 5).T,
        "sliced": draw(12, 10)[::2, 1::3],
    }
