"""Compress LeNet-5 by the steps of a file: run.py SETTINGS.toml OUT.jsonl --data ROOT --seed N.

Each model that a `retrain` step or the last step leaves is finished and tested: its test set is
read once, and nothing is chosen by it. One JSON line per model; what a run folder holds already
is not trained again, so a second call goes on where the first was cut off, and arms that begin
with the same steps share them. `collect.py` turns the lines into the tables of RESULTS.md.
"""

import argparse
import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import torch

from autocompress.evaluate.compress import Compressed, CompressSettings, PhaseReport, compress
from autocompress.methods.steps import FreezePhase, Phase, RetrainStep, expand_steps
from autocompress.settings import read_settings


def list_prefixes(settings: CompressSettings) -> list[int]:
    """Return after how many steps there is a model to be tested."""
    steps = settings.method.steps
    return [
        count
        for count in range(1, len(steps) + 1)
        if count == len(steps) or isinstance(steps[count - 1], RetrainStep)
    ]


def count_epochs(phases: tuple[Phase, ...]) -> float:
    """Return the epochs that phases train, without the dense model's."""
    total = 0.0
    for phase in phases:
        if isinstance(phase, FreezePhase):
            total += phase.step.retrain.epochs if phase.share < 1 else 0.0
        elif isinstance(phase, RetrainStep) or phase.by != "one_shot":
            total += phase.train.epochs
    return total


def describe(
    done: Compressed, settings: CompressSettings, *, arm: str, seconds: float
) -> dict[str, object]:
    """Return the line of a finished model."""
    figures = done.weights
    layers = {
        layer.name: {
            "kept": layer.kept,
            "distinct": layer.distinct,
            "bits": round(layer.bits_per_weight, 3),
            "levels": list(layer.levels)[:16],
        }
        for layer in figures.layers
    }
    return {
        "arm": arm,
        "seed": settings.seed,
        "epochs": settings.task.train.epochs + count_epochs(expand_steps(settings.method.steps)),
        "kept": figures.kept,
        "with_biases": figures.kept_with_others,
        "dead": figures.dead,
        "layers": layers,
        "units": [figures.layers[k].weights for k in range(len(figures.layers))],
        "val": done.metrics["val_metric"],
        "test": done.metrics["test_metric"],
        "value_bytes": figures.value_bytes,
        "table_bytes": figures.table_bytes,
        "position_bytes": figures.position_bytes,
        "folder": str(done.folder),
        "threads": torch.get_num_threads(),
        "device": settings.task.device,
        "seconds": round(seconds, 1),
        "date": time.strftime("%Y-%m-%d"),
        "commit": read_commit(),
    }


def read_commit() -> str:
    """Return the commit of this checkout; empty where there is none."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(  # noqa: S603 - a fixed command
        command, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def show(report: PhaseReport) -> None:
    """Print what came of a phase."""
    if not report.metrics:
        return
    kept = int(report.metrics.get("weights", 0))
    seconds = report.metrics.get("seconds", 0.0)
    print(
        f"  {report.number}/{report.phases} {report.title}: {kept} weights, validation "
        f"{report.metrics['val_metric']:.4f}, {seconds:.0f} s",
        flush=True,
    )


def main() -> None:
    """Run one arm with one seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("settings", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", default="runs/lenet5_weights")
    parser.add_argument("--set", dest="changes", action="append", default=[])
    given = parser.parse_args()
    changes = [f"seed={given.seed}", f"task.seed={given.seed}", *given.changes]
    changes += [f"task.data.root={given.data}", f"run_dir={given.runs}/seed{given.seed}"]
    settings = read_settings(CompressSettings, given.settings, changes)
    for count in list_prefixes(settings):
        begun = time.monotonic()
        method = replace(settings.method, steps=settings.method.steps[:count])
        part = replace(settings, method=method)
        done = compress(part, watch=show)
        arm = given.settings.stem
        line = describe(done, part, arm=arm, seconds=time.monotonic() - begun)
        print(f"{arm} seed {given.seed}: {line['kept']} kept, test {line['test']}", flush=True)
        with given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
