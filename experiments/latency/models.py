"""How fast pruned models run beside the dense one: models.py OUT.jsonl [--models ...].

Every row is one model: a share of the MACs, removed in one way. All calls of a row take turns. A
row that stands in OUT already is not measured again. ``collect.py`` makes the tables.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from shapes import KINDS, make_dense, make_example, shrink_to
from torch import Tensor, nn

from autocompress.deploy.choose import FormCache
from autocompress.deploy.fold import fold_norms
from autocompress.deploy.measure import compare_times, measure_together, pin_threads
from autocompress.deploy.optimize import optimize
from autocompress.shrink.expand import expand_columns
from autocompress.store.export import make_onnx

SHARES = (1 / 2, 1 / 4, 1 / 8, 1 / 16)
SESSIONS: dict[nn.Module, bytes] = {}
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def main() -> None:
    """Measure what is not in the file yet."""
    options = read_options()
    torch.set_grad_enabled(mode=False)
    done = {
        (row["model"], row["kind"], row["share"], row["batch"], row["dtype"])
        for row in read_rows(options.out)
    }
    cache = FormCache()
    with pin_threads(options.threads):
        for name in options.models:
            dense = make_dense(name, options.seed)
            for batch in options.batch:
                for kind in options.kinds:
                    for share in SHARES:
                        if (name, kind, share, batch, options.dtype) in done:
                            continue
                        row = measure_row(dense, kind, share, batch, options, cache)
                        row |= {"model": name, "dtype": options.dtype, "date": time.strftime("%F")}
                        with options.out.open("a", encoding="utf-8") as file:
                            file.write(json.dumps(row) + "\n")
                        print_row(row)


def measure_row(
    dense: nn.Module,
    kind: str,
    share: float,
    batch: int,
    options: argparse.Namespace,
    cache: FormCache,
) -> dict[str, object]:
    """Return the times of one pruned model, the dense one and others, measured together."""
    dtype = getattr(torch, options.dtype)
    compact, reached = shrink_to(dense, kind, share)
    example = make_example(batch, options.seed).to(dtype)
    compact = compact.to(dtype)
    if dtype != torch.float32:
        dense = copy.deepcopy(dense).to(dtype)
    fast = optimize(compact, example, cache=cache, compiled=options.compiled)
    calls = list_layouts("dense", dense, example)
    calls |= list_layouts("masked", fold_norms(expand_columns(compact), example), example)
    calls |= list_layouts("compact", compact, example)
    calls["ours"] = lambda: fast(example)
    if options.onnx:
        calls["dense onnx"] = open_session(dense, example, options.threads)
    if options.compact_onnx:
        calls["compact onnx"] = open_session(compact, example, options.threads)
    with torch.inference_mode():
        timings = measure_together(calls, turns=options.turns, warm_up=3)
    base = min(
        (one for one in calls if one.startswith("dense ") and "onnx" not in one),
        key=lambda one: timings[one].median_s,
    )
    speedup = compare_times(timings[base], timings["ours"])
    return {
        "kind": kind,
        "share": share,
        "batch": batch,
        "threads": options.threads,
        "seed": options.seed,
        "reached": reached,
        "way": fast.plan.name,
        "forms": dict(fast.plan.forms),
        "gap": fast.plan.gap,
        "speedup": [speedup.factor, speedup.low, speedup.high],
        "ms": {one: 1000 * timing.median_s for one, timing in timings.items()},
        "spread_ms": {one: [1000 * x for x in timing.spread_s] for one, timing in timings.items()},
    }


def list_layouts(name: str, model: nn.Module, example: Tensor) -> dict[str, Callable[[], object]]:
    """Return calls of ``model`` in both layouts."""

    def make_call(layout: torch.memory_format) -> Callable[[], object]:
        arranged = copy.deepcopy(model).to(memory_format=layout)
        images = example.contiguous(memory_format=layout)
        return lambda: arranged(images)

    return {f"{name} {label}": make_call(layout) for label, layout in LAYOUTS.items()}


def open_session(model: nn.Module, example: Tensor, threads: int) -> Callable[[], object]:
    """Return a call of ``model`` in onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if model not in SESSIONS:
        SESSIONS[model] = make_onnx(copy.deepcopy(model), example)[0]
    session = onnxruntime.InferenceSession(
        SESSIONS[model], options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: np.ascontiguousarray(example.numpy())}
    return lambda: session.run(None, feed)


def print_row(row: dict[str, object]) -> None:
    """Show one row."""
    ms = row["ms"]
    print(
        f"{row['model']} {row['kind']} {row['share']:.4f} batch {row['batch']}: "
        f"{row['speedup'][0]:.2f}x of {1 / row['reached']:.2f}x, {row['way']}; "
        + ", ".join(f"{name} {value:.2f}" for name, value in ms.items()),
        flush=True,
    )


def read_rows(path: Path) -> list[dict[str, object]]:
    """Return the rows measured before."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_options() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", nargs="+", default=["resnet20", "vgg16"])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=21)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--onnx", action="store_true", help="also the dense model in onnxruntime")
    parser.add_argument("--compact-onnx", action="store_true", help="and the compact one")
    parser.add_argument("--compiled", action="store_true", help="also torch.compile")
    return parser.parse_args()


if __name__ == "__main__":
    main()
