"""One model of a tool that users would pick instead, fine-tuned as ours are: one JSON line.

python -m experiments.peers.run SETTINGS.toml --arm ARM --share 0.5 --seed N --data ROOT
    --runs DIR --out OUT.jsonl

SETTINGS is a study file: its task gives the dense model and the data, ``evaluate.full.retrain``
and ``evaluate.distill`` the fine-tuning. A row that stands in OUT already is not run again, and is
refused with other settings; a run that was killed goes on from the folder beside OUT. README.md
beside this file has the arms.
"""

import argparse
import copy
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autocompress.evaluate.base import make_base
from autocompress.evaluate.prune import make_retrain_loss
from autocompress.evaluate.settings import EvaluateSettings
from autocompress.evaluate.task import Task, key_dense, open_task, train_dense
from autocompress.graph.trace import measure_macs
from autocompress.jobs import hash_json
from autocompress.search.compare import Compared
from autocompress.settings import read_settings, settings_to_json
from autocompress.store.run_folder import RunFolder
from autocompress.train.checkpoint import Keeper
from autocompress.train.effort import TRAINING, count_effort
from autocompress.train.loop import Hooks, score_model, train_model_
from experiments.peers.effort import Effort
from experiments.peers.rows import find_row
from experiments.peers.torch_pruning_peer import WAYS, Way, add_gradients_, prune_to_share

PRUNING = {f"tp-{name}": way for name, way in WAYS.items()}
LONGER = "tp-uniform-longer"
FASTNAS = {"fastnas": "metric", "fastnas-loss": "loss"}
ARMS = (*PRUNING, LONGER, *FASTNAS)


@dataclass(frozen=True)
class Run:
    """What a run works with.

    Attributes:
        options: Of the command line.
        task: Data, loss and metric.
        dense: The dense model.
        evaluate: How ours are evaluated.
        kept: The folder that a killed run goes on from.
        effort: What it took.
    """

    options: argparse.Namespace
    task: Task
    dense: nn.Module
    evaluate: EvaluateSettings
    kept: Path
    effort: Effort


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one row."""
    options = read_options(arguments)
    settings = read_study(options)
    asked = {
        **make_key(options),
        "dense_seed": settings.task.seed,
        "settings_hash": hash_causes(options, settings),
    }
    standing = find_row(options.out, asked)
    if standing:
        print(standing, file=sys.stderr)
        return
    torch.set_num_threads(options.threads)
    task = open_task(settings.task)
    dense = train_dense(task, RunFolder(options.runs))[0].eval()
    kept = options.out.with_suffix(".kept") / hash_json(asked)
    effort = Effort(kept / "effort.json")
    run = Run(options, task, dense, settings.evaluate, kept, effort)
    searched = effort.search_samples
    model, figures = prune(run)
    if effort.prune_s:  # Killed while it was fine-tuned, and pruned again from stored scores.
        effort.search_samples = searched
    effort.prune_s = effort.prune_s or effort.measure()
    effort.write()
    with count_effort() as finishing:  # Ours count their last scores too.
        tune_(model, run)
        scores = score(model, task)
    effort.write()
    row = {
        **asked,
        **scores,
        **measure(model, run),
        "search_samples": effort.search_samples,
        "samples": effort.search_samples + finishing.samples,
        "evaluations": effort.evaluations,
        "prune_s": effort.prune_s,
        "seconds": effort.seconds,
        "cpu_s": effort.cpu_s,
        **figures,
        "widths": [len(one.weight) for one in model.modules() if isinstance(one, nn.Conv2d)],
        "versions": list_versions(options.arm),
        "device": task.device.type,
        "date": time.strftime("%F"),
    }
    with options.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    shutil.rmtree(kept)
    print(json.dumps(row), flush=True)


def read_study(options: argparse.Namespace) -> Compared:
    """Return the settings file, changed as the options say."""
    dense_seed = options.seed if options.dense_seed is None else options.dense_seed
    changes = [f"task.data.root={options.data}", f"task.seed={dense_seed}", *options.changes]
    return read_settings(Compared, options.settings, changes)


def make_key(options: argparse.Namespace) -> dict[str, Any]:
    """Return what a row is called, and the samples that were given to it."""
    key = {"arm": options.arm, "seed": options.seed, "budget": f"macs={options.share:g}"}
    if options.arm == LONGER:
        key["extra_samples"] = options.extra_samples
    if options.arm in FASTNAS:
        key["asked_samples"] = options.search_samples
    return key


def hash_causes(options: argparse.Namespace, settings: Compared) -> str:
    """Return what all that a row follows from hashes to: 16 hexadecimal digits.

    Not what it does not follow from: where files and runs are, the device, threads, the search,
    and options of other arms.
    """
    evaluate, arm = settings.evaluate, options.arm
    causes = {
        **make_key(options),
        "dense": key_dense(settings.task),
        "retrain": settings_to_json(evaluate.full.retrain),
        "distill": settings_to_json(evaluate.distill) if evaluate.distill.share else None,
    }
    if arm in FASTNAS:
        causes["width_steps"] = options.width_steps
        causes["calibration"] = count_calibration(evaluate)
    elif find_way(arm).is_taylor:
        causes["taylor_batches"] = options.taylor_batches
    return hash_json(causes)[:16]


def find_way(arm: str) -> Way:
    """Return how an arm of Torch-Pruning ranks."""
    return PRUNING[arm.removesuffix("-longer")]


def count_calibration(evaluate: EvaluateSettings) -> int:
    """Return the samples that a fast evaluation re-estimates batch norms on."""
    return evaluate.fast.norm_batches * evaluate.fast.retrain.batch_size


def prune(run: Run) -> tuple[nn.Module, dict[str, Any]]:
    """Return the arm's model on the task's device, not yet fine-tuned, and figures of its own."""
    options, task, effort = run.options, run.task, run.effort
    if options.arm in FASTNAS:
        peer = import_module("experiments.peers.fastnas")  # ModelOpt is not everywhere.
        asked = peer.FastNas(
            score=FASTNAS[options.arm],
            steps=options.width_steps,
            samples=options.search_samples,
            calibration=count_calibration(run.evaluate),
        )
        model, figures = peer.search_fastnas(
            run.dense,
            task,
            options.share,
            options=asked,
            effort=effort,
            checkpoint=run.kept / "scores.pth",
            seed=options.seed,
        )
    else:
        way = find_way(options.arm)
        work = copy.deepcopy(run.dense)
        if way.is_taylor:
            size = run.evaluate.full.retrain.batch_size
            batches = task.data.train.batches(size, seed=options.seed, augment=True)
            seen = add_gradients_(work, batches, task.loss, options.taylor_batches)
            effort.search_samples = TRAINING * seen
        # On the CPU, so that ties and sums are the same everywhere.
        fill, example = way.scope == "layer", task.example().cpu()
        model, _ = prune_to_share(work.cpu(), example, options.share, way=way, fill=fill)
        figures = {}
    return model.to(task.device), figures


def tune_(model: nn.Module, run: Run) -> None:
    """Fine-tune ``model`` as the study says."""
    train, source, effort = run.evaluate.full.retrain, run.task.data.train, run.effort
    if run.options.arm == LONGER:
        more = run.options.extra_samples / TRAINING / len(source)
        train = replace(train, epochs=train.epochs + more)
    loss = make_retrain_loss(run.task, make_base(run.dense, run.task), run.evaluate)
    due = effort.seconds + 30

    def count_time(_: int) -> None:
        nonlocal due
        if effort.measure() > due:
            effort.write()
            due = effort.seconds + 30

    keeper = Keeper(run.kept / "training.kept", seconds=30)
    seed = run.options.seed + 1
    hooks = Hooks(on_step=count_time)
    train_model_(model, source, train, loss=loss, seed=seed, hooks=hooks, keeper=keeper)
    effort.write()


def score(model: nn.Module, task: Task) -> dict[str, float]:
    """Return loss and metric on the validation split and, once, on the test set."""
    splits = {"val": task.data.validation, "test": task.data.open_test()}
    figures: dict[str, float] = {}
    for name, split in splits.items():
        scores = score_model(model, split, loss=task.loss, metric=task.metric)
        figures |= {f"{name}_metric": scores.metric, f"{name}_loss": scores.loss}
    if not math.isfinite(figures["val_loss"]):
        raise ValueError(f"the fine-tuned model has a loss of {figures['val_loss']}")
    return figures


def measure(model: nn.Module, run: Run) -> dict[str, float]:
    """Return MACs and weights, and their shares of the dense model's."""
    example = run.task.example()
    counts = {
        name: {
            "macs": measure_macs(one, example),
            "weights": sum(p.numel() for p in one.parameters() if p.ndim > 1),
        }
        for name, one in {"dense": run.dense, "made": model}.items()
    }
    made, dense = counts["made"], counts["dense"]
    return {**made, **{f"{name}_share": made[name] / dense[name] for name in made}}


def list_versions(arm: str) -> dict[str, str]:
    """Return the versions of what made a model."""
    peers = ["nvidia-modelopt", "torchprofile"] if arm in FASTNAS else ["torch-pruning"]
    return {name: version(name) for name in (*peers, "torch")}


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the arguments of the command line; those of this process when None."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", type=Path)
    parser.add_argument("--arm", choices=ARMS, required=True)
    parser.add_argument("--share", type=float, default=0.5, help="of the dense model's MACs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dense-seed", type=int, help="of the dense model; --seed if left out")
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the dense model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--extra-samples", type=int, default=0, help=f"of {LONGER}")
    parser.add_argument("--search-samples", type=int, default=0, help="most of FastNAS; 0: all")
    parser.add_argument("--width-steps", type=int, default=20, help="of FastNAS")
    parser.add_argument("--taylor-batches", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", dest="changes", action="append", default=[])
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
