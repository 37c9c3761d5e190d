"""Times of column layers on VGG-16's CIFAR shapes: layers.py --batch 1 32 --density 4 8 16.

Every shape is measured dense (oneDNN, NCHW and channels_last), as a 10-line prototype of pad,
index_select and matmul, and in the form that we choose for either layout; all take turns. The
speed-up is over the faster dense layout.

Tensors of 8 MB and more can be slow for another reason: glibc gives their memory back after each
call, and every page is mapped anew. What is measured then is that, for all alike. So run with
MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_MMAP_THRESHOLD_=33554432 (the largest that is taken).
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress.deploy.choose import choose_form
from autocompress.deploy.measure import measure_models, pin_threads
from autocompress.shrink.columns import ColumnConv2d, make_column_layer

Row = dict[str, object]
SHAPES = (  # channels, filters, height and width
    (3, 64, 32),
    (64, 64, 32),
    (64, 128, 16),
    (128, 128, 16),
    (128, 256, 8),
    (256, 256, 8),
    (256, 512, 4),
    (512, 512, 4),
    (512, 512, 2),
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Prototype(nn.Module):
    """The layer in ten lines, with its index computed once."""

    def __init__(self, layer: ColumnConv2d, size: int) -> None:
        """Compute the index for padded maps of ``size``."""
        super().__init__()
        self.weight, self.bias, self.size = layer.weight, layer.bias, size
        channel, y, x = layer.columns // 9, layer.columns // 3 % 3, layer.columns % 3
        corner = (channel * (size + 2) + y) * (size + 2) + x
        place = torch.arange(size)[:, None] * (size + 2) + torch.arange(size)
        self.index = (corner[:, None] + place.flatten()).flatten()

    def forward(self, maps: Tensor) -> Tensor:
        """Return the product with what was gathered."""
        flat = functional.pad(maps, (1, 1, 1, 1)).flatten(1)
        gathered = flat.index_select(1, self.index).unflatten(1, (-1, self.size**2))
        product = self.weight @ gathered + self.bias[:, None]
        return product.unflatten(2, (self.size, self.size))


class Last(nn.Module):
    """A layer that is called with its maps in channels_last."""

    def __init__(self, layer: nn.Module, maps: Tensor) -> None:
        """Hold both."""
        super().__init__()
        self.layer, self.maps = layer, maps

    def forward(self, _maps: Tensor) -> Tensor:
        """Return the layer's output for its own maps."""
        return self.layer(self.maps)


def measure_shape(
    shape: tuple[int, int, int], batch: int, part: int, options: argparse.Namespace
) -> Row:
    """Return the times of one shape with one of ``part`` columns kept, in microseconds."""
    channels, filters, size = shape
    generator = torch.Generator().manual_seed(options.seed)
    conv = nn.Conv2d(channels, filters, 3, padding=1).to(DTYPES[options.dtype]).eval()
    columns = channels * 9
    kept = torch.zeros(columns, dtype=torch.bool)
    kept[torch.randperm(columns, generator=generator)[: max(columns // part, 1)]] = True
    layer = make_column_layer(conv, kept)
    assert isinstance(layer, ColumnConv2d)
    maps = torch.randn(batch, channels, size, size, generator=generator).to(conv.weight.dtype)
    last = maps.contiguous(memory_format=torch.channels_last)
    ours = choose_form(layer, maps)
    ours_last = choose_form(layer, last)
    dense_last = nn.Conv2d(channels, filters, 3, padding=1).to(last.dtype)
    dense_last.load_state_dict(conv.state_dict())
    models = {
        "dense": conv,
        "dense_last": Last(dense_last.to(memory_format=torch.channels_last), last),
        "prototype": Prototype(layer, size),
        "plain": layer,
        "ours": ours.module,
        "ours_last": Last(ours_last.module, last),
    }
    timings = measure_models(models, maps, turns=options.turns)
    row: Row = {"shape": f"{channels}->{filters}@{size}", "batch": batch, "part": part}
    row |= {"dtype": options.dtype, "threads": options.threads, "seed": options.seed}
    row |= {f"{name}_us": round(one.median_s * 1e6, 1) for name, one in timings.items()}
    medians = {name: one.median_s for name, one in timings.items()}
    dense = min(medians["dense"], medians["dense_last"])
    best = min(("ours", "ours_last"), key=lambda name: medians[name])
    row |= {"form": ours.name, "form_last": ours_last.name, "best": best}
    ratios = {name: dense / medians[name] for name in ("prototype", "plain", "ours", "ours_last")}
    row |= {f"{name}_speedup": round(ratio, 2) for name, ratio in ratios.items()}
    row["speedup"] = round(ratios[best], 2)
    return row


def print_row(row: Row) -> None:
    """Print one line of the table."""
    names = ("batch", "part", "shape", "dense_us", "dense_last_us", "prototype_speedup")
    names += ("plain_speedup", "ours_speedup", "form", "ours_last_speedup", "form_last")
    print("  ".join(f"{row[name]!s:>11}" for name in names), flush=True)


def main() -> None:
    """Measure all shapes, batches and densities."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--density", type=int, nargs="+", default=[4, 8, 16], help="1/N kept")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--out", type=Path, help="JSONL file that rows are added to")
    options = parser.parse_args()
    print("batch, 1/density, shape, dense and dense channels_last in us; speed-ups: prototype,")
    print("plain column layer, ours in NCHW and its form, ours in channels_last and its form")
    found: dict[tuple[int, int], list[Row]] = defaultdict(list)
    with pin_threads(options.threads):
        for batch in options.batch:
            for part in options.density:
                for shape in SHAPES:
                    row = measure_shape(shape, batch, part, options)
                    found[batch, part].append(row)
                    print_row(row)
                    if options.out is not None:
                        with options.out.open("a", encoding="utf-8") as file:
                            file.write(json.dumps(row) + "\n")
    for (batch, part), rows in found.items():
        names = ("prototype_speedup", "plain_speedup", "ours_speedup", "ours_last_speedup")
        medians = {name: median(float(str(row[name])) for row in rows) for name in names}
        medians["speedup"] = median(float(str(row["speedup"])) for row in rows)
        shown = ", ".join(f"{name} {value:.2f}" for name, value in medians.items())
        print(f"median at batch {batch}, density 1/{part}: {shown}")


if __name__ == "__main__":
    sys.exit(main())
