"""Bytes of quantised layers in the papers' formats and in ours: run.py OUT.jsonl --data ROOT.

    python experiments/storage/run.py experiments/storage/grid.jsonl --data ROOT \
        --resnet20 FILE --lenet5 FILE --vgg19 FILE

Each line is one layer, pruned and quantised. Lines that OUT holds already are not measured again.
``collect.py`` makes the tables.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from layers import list_layers
from safetensors.torch import save as write_tensors
from torch import Tensor

from autocompress.quantize.sharing import (
    Constrained,
    Means,
    Quantiles,
    Sharing,
    Steps,
    share_values,
)
from autocompress.store.pack.books import split_tensor, write_book
from autocompress.store.pack.header import open_header
from autocompress.store.pack.reference.formats import FORMATS
from autocompress.store.pack.state import pack_state
from autocompress.store.pack.survey import measure_entropy_bytes

PRUNED = (0.6, 0.8, 0.9, 0.95, 0.99)
LEVELS = (16, 32, 256)  # Distinct values in all, zero among them.
COMPARED = ("vgg19 fc1", "lenet5 fc1")  # Also by the other quantisers, at 90 % and k = 32.


def list_sharings(name: str, pruned: float) -> list[Sharing]:
    """Return the quantisers of one pruned layer."""
    found: list[Sharing] = [Means(levels=levels - 1) for levels in LEVELS]
    if name in COMPARED and pruned == 0.9:
        found += [Quantiles(levels=31), Steps(levels=31), Constrained(levels=31, rate=3.0)]
    return found


def measure(weight: Tensor) -> dict[str, Any]:
    """Return the bytes of one tensor in every format.

    The papers' formats take the matrix inputs by outputs, a convolution as one column a filter.
    """
    matrix = np.ascontiguousarray(weight.reshape(len(weight), -1).T.numpy())
    plain = write_tensors({"weight": weight})
    started = time.perf_counter()
    data = pack_state({"weight": weight}, {})
    seconds = time.perf_counter() - started
    header, sections = open_header(data)
    split = split_tensor(weight)
    assert split is not None
    indices, values = split
    references = {name: form.compress(matrix) for name, form in FORMATS.items()}
    counts = (weight != 0).reshape(len(weight), -1).float()
    return {
        "entries": weight.numel(),
        "kept": int(np.count_nonzero(indices.codes)),
        "k": indices.levels,
        "spread": [round(float(counts.mean(dim=axis).std()), 4) for axis in (1, 0)],
        "dense": 4 * weight.numel(),
        "safetensors": len(plain),
        "zstd": len(zstandard.ZstdCompressor(level=19).compress(plain)),
        **{name: one.nbytes_without_starts for name, one in references.items()},
        "starts": 4 * matrix.shape[1],
        "entropy": round(measure_entropy_bytes(indices), 1),
        "codebook": 4 * indices.levels,
        "book": len(write_book(values, weight.dtype)),
        "blob": len(sections[2]),
        "codec": header.blobs[0][0],
        "ours": len(data),
        "seconds": round(seconds, 2),
    }


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", required=True)
    for net in ("resnet20", "lenet5", "vgg19"):
        parser.add_argument(f"--{net}", type=Path)
    flags = parser.parse_args()
    folders = {net: getattr(flags, net) for net in ("resnet20", "lenet5", "vgg19")}
    done = set()
    if flags.out.exists():
        rows = [json.loads(line) for line in flags.out.read_text().splitlines()]
        done = {(row["layer"], row["pruned"], row["by"], row["asked"]) for row in rows}
    for layer in list_layers({n: f for n, f in folders.items() if f}, flags.data):
        for pruned in PRUNED:
            keys = [
                ((layer.name, pruned, one.kind, one.levels + 1), one)
                for one in list_sharings(layer.name, pruned)
            ]
            keys = [one for one in keys if one[0] not in done]
            if not keys:
                continue
            weight, head = layer.prune(pruned)
            for key, sharing in keys:
                shared = share_values([weight], sharing, kept=[weight != 0]).values[0]
                row = dict(zip(("layer", "pruned", "by", "asked"), key, strict=True))
                row |= {"shape": list(weight.shape), **measure(shared)}
                if layer.head is not None and head is not None:
                    row["accuracy"] = [
                        layer.head.score(head, weight),
                        layer.head.score(head, shared),
                    ]
                with flags.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
