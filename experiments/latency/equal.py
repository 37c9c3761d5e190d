"""Latency at equal accuracy: Torch-Pruning's uniform L2, or ours searched by latency.

equal.py OUT.jsonl --data ROOT --runs DIR --arm torch-pruning|torch-pruning-8|ours --share S
    [--seed N]

Every arm starts from one dense model, is fine-tuned for the same epochs in the same way, and is
measured beside it, as it is and optimised. ``--share`` is of the MACs for Torch-Pruning, of the
latency for ours. A row that stands in OUT already is not run again.
"""

import argparse
import copy
import json
import math
import sys
import time
from pathlib import Path

import optuna
import torch
from torch import nn

from autocompress.deploy.measure import compare_times, measure_together, pin_threads
from autocompress.deploy.optimize import optimize
from autocompress.evaluate.base import make_base
from autocompress.evaluate.prune import prune_base, retrain_base_
from autocompress.evaluate.task import Task, open_task, train_dense
from autocompress.graph.trace import measure_macs
from autocompress.jobs import Candidate
from autocompress.search.controller import run_search
from autocompress.search.spec import Settings
from autocompress.settings import read_settings
from autocompress.shrink.compact import compact_model
from autocompress.store.run_folder import RunFolder
from autocompress.train.loop import score_model, train_model_
from autocompress.train.objective import make_task_loss

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "peers"))

from torch_pruning_uniform import prune_uniform  # noqa: E402 - lies beside this folder

MULTIPLES = {"torch-pruning": None, "torch-pruning-8": 8}
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def main() -> None:
    """Run one row."""
    options = read_options()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows = options.out.read_text("utf-8").splitlines() if options.out.exists() else []
    key = (options.arm, options.share, options.seed)
    if key in {(row["arm"], row["share"], row["seed"]) for row in map(json.loads, rows)}:
        return
    changes = [
        f"task.data.root={options.data}",
        f"run_dir={options.runs}/seed{options.dense_seed}",
        f"name=equal-{options.share}-{options.seed}",
        f"budget.latency={options.share}",
        f"seed={options.seed}",
        f"task.seed={options.dense_seed}",
        *options.changes,
    ]
    settings = read_settings(Settings, HERE / "search.toml", changes)
    start = time.time()
    task = open_task(settings.task)
    dense = train_dense(task, RunFolder(Path(settings.run_dir)))[0].eval()
    if options.arm == "ours":
        records = [one for one in run_search(settings).records if one.stage == "fast"]
        best = min(records, key=lambda one: one.energy if one.energy == one.energy else math.inf)
        model = tune(dense, best.candidate, task, settings)
        predicted = best.metrics["latency"]
    else:
        model = finish(dense, task, settings, options)
        predicted = 0.0
    row = {
        "arm": options.arm,
        "share": options.share,
        "seed": options.seed,
        "dense_seed": options.dense_seed,
        "predicted": predicted,
        **score(model, task),
        **measure(dense, model, task, settings),
        "widths": [len(one.weight) for one in model.modules() if isinstance(one, nn.Conv2d)],
        "seconds": time.time() - start,
        "date": time.strftime("%F"),
    }
    with options.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def tune(dense: nn.Module, candidate: Candidate, task: Task, settings: Settings) -> nn.Module:
    """Return a candidate's model, its largest filters fine-tuned."""
    train = settings.evaluate.full.retrain
    base = make_base(dense, task)
    seed = settings.seed
    tuned, _ = prune_base(base, candidate, task, settings.evaluate, train=train, seed=seed)
    retrain_base_(tuned, task, train, loss=make_task_loss(task.loss), seed=seed + 1)
    return compact_model(tuned.model, tuned.graph, tuned.masks).eval()


def finish(
    dense: nn.Module, task: Task, settings: Settings, options: argparse.Namespace
) -> nn.Module:
    """Return Torch-Pruning's model, fine-tuned as ours is."""
    example = task.example()
    multiple = MULTIPLES[options.arm]
    pruned, _ = prune_uniform(dense.cpu(), example.cpu(), options.share, multiple=multiple)
    train = settings.evaluate.full.retrain
    loss = make_task_loss(task.loss)
    train_model_(pruned, task.data.train, train, loss=loss, seed=options.seed + 1)
    return pruned.eval()


def score(model: nn.Module, task: Task) -> dict[str, float]:
    """Return the accuracy on both splits."""
    splits = {"val": task.data.validation, "test": task.data.open_test()}
    scores = {
        name: score_model(model, split, loss=task.loss, metric=task.metric)
        for name, split in splits.items()
    }
    return {f"{name}_accuracy": one.metric for name, one in scores.items()}


def measure(
    dense: nn.Module, model: nn.Module, task: Task, settings: Settings
) -> dict[str, object]:
    """Return MACs and times beside the dense model, all taking turns."""
    timed = settings.evaluate.latency
    example = torch.randn(timed.batch, *task.example().shape[1:])
    with pin_threads(timed.threads):
        models = {"dense": optimize(dense, example), "optimised": optimize(model, example)}
        for name, one in {"dense": dense, "as is": model}.items():
            for layout, form in LAYOUTS.items():
                models[f"{name} {layout}"] = copy.deepcopy(one).to(memory_format=form)
        images = {form: example.contiguous(memory_format=form) for form in LAYOUTS.values()}

        def make_call(name: str) -> object:
            form = LAYOUTS["channels_last" if name.endswith("channels_last") else "NCHW"]
            return lambda: models[name](images[form])

        with torch.inference_mode():
            times = measure_together({name: make_call(name) for name in models}, turns=41)
    best = {
        name: min((times[one] for one in times if one.startswith(name)), key=lambda t: t.median_s)
        for name in ("dense ", "as is ")
    }
    return {
        "macs_share": measure_macs(model, example[:1]) / measure_macs(dense, example[:1]),
        "ms": {name: 1000 * one.median_s for name, one in times.items()},
        "latency_as_is": 1 / compare_times(best["dense "], best["as is "]).factor,
        "latency": 1 / compare_times(best["dense "], times["optimised"]).factor,
        "latency_of_optimised": 1 / compare_times(times["dense"], times["optimised"]).factor,
        "way": models["optimised"].plan.name,
    }


def read_options() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", required=True)
    parser.add_argument("--arm", choices=[*MULTIPLES, "ours"], required=True)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dense-seed", type=int, default=0)
    parser.add_argument("--set", dest="changes", action="append", default=[])
    return parser.parse_args()


if __name__ == "__main__":
    main()
