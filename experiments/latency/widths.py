"""Time of a ResNet-20 of odd and of aligned widths, as they are and padded with zero filters.

Every form of one batch, type and layout takes turns with the dense model, so that a busy machine
slows all of them; what counts is the ratio. Norms are folded everywhere, also in the dense model.
"""

import argparse
import copy
import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from shapes import make_dense, make_example
from torch import nn

from autocompress.deploy.fold import fold_norms
from autocompress.deploy.measure import compare_times, measure_models, pin_threads
from autocompress.deploy.pad import pad_widths
from autocompress.graph.trace import measure_macs, trace_graph
from autocompress.masks.mask import Masks, close_masks, full_masks
from autocompress.shrink.compact import compact_model

MULTIPLES = (8, 16)
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def scale_widths(dense: nn.Module, sixteenths: int) -> nn.Module:
    """Return ``dense`` with that many 16ths of the filters of each group."""
    graph = trace_graph(dense, make_example(2, 0))
    full = full_masks(graph)
    for group in graph.groups:
        if group.prunable:
            kept = group.start + group.size * sixteenths // 16
            full.units[kept : group.start + group.size] = False
    return compact_model(dense, graph, close_masks(graph, Masks(full.units, full.columns)))


def list_forms(dense: nn.Module, sixteenths: list[int]) -> dict[str, nn.Module]:
    """Return the models to compare, folded, by name."""
    example = make_example(2, 0)
    forms = {"dense": fold_norms(dense, example)}
    for share in sixteenths:
        small = fold_norms(scale_widths(dense, share), example)
        forms[f"{share}/16"] = small
        for multiple in MULTIPLES:
            forms[f"{share}/16 to {multiple}"] = pad_widths(small, example, multiple)
    return forms


def measure(forms: dict[str, nn.Module], args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the times of all forms for each batch, type and layout."""
    # One thread is timed by its own clock, which stands while others have the core.
    clock = time.thread_time if args.threads == 1 else time.perf_counter
    macs = {name: measure_macs(model, make_example(1, 0)) for name, model in forms.items()}
    for batch in args.batch:
        for dtype, layout in ((one, other) for one in TYPES for other in LAYOUTS):
            inputs = make_example(batch, args.seed).to(TYPES[dtype])
            inputs = inputs.contiguous(memory_format=LAYOUTS[layout])
            models = {
                name: copy.deepcopy(one).to(TYPES[dtype]).to(memory_format=LAYOUTS[layout])
                for name, one in forms.items()
            }
            with pin_threads(args.threads):
                timings = measure_models(models, inputs, turns=args.turns, clock=clock)
            for name, timing in timings.items():
                share = compare_times(timing, timings["dense"])
                yield {
                    "form": name,
                    "batch": batch,
                    "dtype": dtype,
                    "layout": layout,
                    "threads": args.threads,
                    "macs": macs[name] / macs["dense"],
                    "median_ms": 1000 * timing.median_s,
                    "time": share.factor,
                    "low": share.low,
                    "high": share.high,
                }


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the time of each form over that of the dense model."""
    cells: defaultdict[str, list[str]] = defaultdict(list)
    heads: dict[tuple[Any, ...], None] = {}
    for row in rows:
        heads[row["batch"], row["dtype"], row["layout"]] = None
        cells[f"{row['form']} | {row['macs']:.0%}"].append(f"{row['time']:.2f}")
    names = " | ".join(f"{batch} {dtype} {layout}" for batch, dtype, layout in heads)
    print(f"| form | MACs | {names} |")
    print("|" + " --- |" * (len(heads) + 2))
    for form, times in cells.items():
        print(f"| {form} | {' | '.join(times)} |")


def main() -> None:
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON lines, one for each form and setting")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32, 128])
    parser.add_argument("--sixteenths", type=int, nargs="+", default=[11, 7, 8])
    args = parser.parse_args()
    forms = list_forms(make_dense(args.model, args.seed), args.sixteenths)
    rows = []
    for row in measure(forms, args):
        rows.append(row)
        if args.out:
            with args.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    print_table(rows)


if __name__ == "__main__":
    main()
