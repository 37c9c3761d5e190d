"""Turn the lines of this folder's experiments into the tables of RESULTS.md.

collect.py [models.jsonl] [layers.jsonl] [equal.jsonl] [fronts.jsonl]: by the names of the files.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np

Row = dict[str, Any]
PROTOTYPE = "prototype_speedup"
LATENCIES = (0.7, 0.8)
REFERENCE = (0.1, 1.0)  # Chance, and the latency of the dense model.


def main() -> None:
    """Print the tables of the files named."""
    tables = {"models": show_models, "layers": show_layers}
    tables |= {"equal": show_equal, "fronts": show_fronts}
    for name in sys.argv[1:]:
        path = Path(name)
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        tables[path.stem.split("-")[0]](rows)


def show_models(rows: Sequence[Row]) -> None:
    """Print the speed-ups of whole models."""
    head = ["model", "batch", "removed", "MACs", "ours over dense", "share of the MAC ratio"]
    head += ["over masked", "over dense onnxruntime", "way"]
    lines = []
    for row in sorted(rows, key=lambda r: (r["model"], r["batch"], r["kind"], -r["share"])):
        ms, ratio = row["ms"], row["speedup"][0]
        masked = min(ms["masked NCHW"], ms["masked channels_last"])
        spread = f"{row['speedup'][1]:.2f} to {row['speedup'][2]:.2f}"
        lines.append(
            [
                *(row["model"], row["batch"], row["kind"], f"1/{1 / row['reached']:.1f}"),
                *(f"**{ratio:.2f}** ({spread})", f"{ratio * row['reached']:.0%}"),
                *(
                    f"{masked / ms['ours']:.2f}",
                    f"{ms['dense onnx'] / ms['ours']:.2f}",
                    row["way"],
                ),
            ]
        )
    show_table(head, lines)
    slower = [row for row in rows if compare_masked(row) < 1]
    print(
        f"\nslower than plain masked convolutions: {len(slower)} of {len(rows)}; the least ratio"
    )
    print(f"is {min(map(compare_masked, rows)):.2f}\n")


def compare_masked(row: Row) -> float:
    """Return how many times faster a model is than with plain masked convolutions."""
    ms = row["ms"]
    return min(ms["masked NCHW"], ms["masked channels_last"]) / ms["ours"]


def show_layers(rows: Sequence[Row]) -> None:
    """Print the speed-ups of column layers: ours, and the prototype's in brackets.

    Each cell is the median over the seeds, the last line the median of each seed's over shapes.
    """
    cases = list(dict.fromkeys((row["batch"], row["part"]) for row in rows))
    seeds = sorted({row["seed"] for row in rows})
    lines = []
    for shape in dict.fromkeys(row["shape"] for row in rows):
        some = [row for row in rows if row["shape"] == shape]
        cells = [[row for row in some if (row["batch"], row["part"]) == case] for case in cases]
        pairs = [(pick_median(one, "speedup"), pick_median(one, PROTOTYPE)) for one in cells]
        lines.append([shape, *(f"{ours:.2f} ({other:.2f})" for ours, other in pairs)])
    last = []
    for case in cases:
        some = [row for row in rows if (row["batch"], row["part"]) == case]
        by_seed = [
            pick_median([row for row in some if row["seed"] == seed], "speedup") for seed in seeds
        ]
        spread = f"{min(by_seed):.2f} to {max(by_seed):.2f}"
        last.append(f"**{median(by_seed):.2f}**, {spread} ({pick_median(some, PROTOTYPE):.2f})")
    head = ["shape", *(f"batch {batch}, 1/{part}" for batch, part in cases)]
    show_table(head, [*lines, ["median", *last]])


def pick_median(rows: Sequence[Row], name: str) -> float:
    """Return the median of a figure."""
    return median(row[name] for row in rows)


def show_equal(rows: Sequence[Row]) -> None:
    """Print accuracy and latency of all arms, the mean of the seeds."""
    groups: dict[tuple[str, float], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["arm"], row["share"]].append(row)
    head = ["arm", "asked", "n", "MACs", "test accuracy, %", "latency as it is"]
    head += ["optimised, over dense", "over dense optimised"]
    lines = []
    for (arm, share), some in sorted(groups.items(), key=lambda one: (one[0][0], -one[0][1])):
        names = ("latency_as_is", "latency", "latency_of_optimised")
        lines.append(
            [
                *(arm, share, len(some), f"{mean(r['macs_share'] for r in some):.3f}"),
                show_mean([100 * r["test_accuracy"] for r in some], 2),
                *(show_mean([r[name] for r in some], 3) for name in names),
            ]
        )
    show_table(head, lines)


def show_fronts(rows: Sequence[Row]) -> None:
    """Print the hypervolumes of the searches."""
    groups: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["variant"], row["seed"]].append(row)
    seeds = sorted({seed for _, seed in groups})
    variants = list(dict.fromkeys(variant for variant, _ in groups))
    lines = []
    for name in ("latency", "latency_as_is"):
        for variant in variants:
            values = [
                measure_volume((r["val_accuracy"], r[name]) for r in groups[variant, seed])
                for seed in seeds
            ]
            lines.append([variant, name, *(f"{one:.4f}" for one in values), show_mean(values, 4)])
    show_table(["search by", "volume over", *(f"seed {one}" for one in seeds), "mean"], lines)
    print()
    lines = []
    for variant in variants:
        at = [[interpolate(groups[variant, seed], one) for seed in seeds] for one in LATENCIES]
        lines.append([variant, *(show_mean([100 * one for one in some], 2) for some in at)])
    show_table(["accuracy, %, at latency", *LATENCIES], lines)


def interpolate(rows: Sequence[Row], latency: float) -> float:
    """Return the accuracy at a latency, on straight lines between models; flat beyond them."""
    points = sorted((row["latency"], row["val_accuracy"]) for row in rows)
    return float(np.interp(latency, *zip(*points, strict=True)))


def measure_volume(points: Iterable[tuple[float, float]]) -> float:
    """Return the area that (accuracy, latency) points dominate within :data:`REFERENCE`."""
    floor, most = REFERENCE
    volume, best = 0.0, floor
    for accuracy, latency in sorted(points, key=lambda one: one[1]):
        if latency < most and accuracy > best:
            volume += (accuracy - best) * (most - latency)
            best = accuracy
    return volume


def show_mean(values: Sequence[float], digits: int) -> str:
    """Return the mean and its standard error."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ± {stdev(values) / len(values) ** 0.5:.{digits}f}"


def show_table(head: Sequence[object], lines: Iterable[Sequence[object]]) -> None:
    """Print a table in Markdown."""
    print("| " + " | ".join(map(str, head)) + " |")
    print("|" + "---|" * len(head))
    for line in lines:
        print("| " + " | ".join(map(str, line)) + " |")


if __name__ == "__main__":
    main()
