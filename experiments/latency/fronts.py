"""A search by latency against one by MACs: fronts.py OUT.jsonl --data ROOT --runs DIR.

Each search has the same evaluations and ends in a front of its own: validation loss against what
it was told to lower. Some models of that front are fine-tuned alike and measured alike; the
hypervolume is that of their validation accuracy and measured latency. Rows that stand in OUT
already are not run again.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
from equal import HERE, measure

from autocompress.evaluate.base import make_base
from autocompress.evaluate.prune import prune_base, retrain_base_, score_base
from autocompress.evaluate.task import open_task, train_dense
from autocompress.pareto import find_front
from autocompress.search.controller import run_search
from autocompress.search.records import Record
from autocompress.search.spec import Settings
from autocompress.settings import read_settings
from autocompress.shrink.compact import compact_model
from autocompress.store.run_folder import RunFolder
from autocompress.train.objective import make_task_loss

POINTS = 4


def main() -> None:
    """Run all searches and fine-tune their fronts."""
    options = read_options()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for seed in options.seeds:
        for variant in options.variants:
            run(variant, seed, options)


def run(variant: str, seed: int, options: argparse.Namespace) -> None:
    """Search once, then fine-tune and measure some models of its front."""
    settings = read_search(variant, seed, options)
    task = open_task(settings.task)
    start = time.time()
    records = [one for one in run_search(settings).records if one.stage == "fast"]
    seconds = time.time() - start
    dense = train_dense(task, RunFolder(Path(settings.run_dir)))[0].eval()
    base = make_base(dense, task)
    train = replace(settings.evaluate.full.retrain, epochs=options.epochs)
    for place, record in enumerate(pick_points(records, variant)):
        if is_done(options.out, (variant, seed, place)):
            continue
        tuned, _ = prune_base(
            base, record.candidate, task, settings.evaluate, train=train, seed=seed
        )
        retrain_base_(tuned, task, train, loss=make_task_loss(task.loss), seed=seed + 1)
        model = compact_model(tuned.model, tuned.graph, tuned.masks).eval()
        row = {
            "variant": variant,
            "seed": seed,
            "place": place,
            "evaluations": len(records),
            "search_seconds": seconds,
            "fast_accuracy": record.metrics["val_metric"],
            "val_accuracy": score_base(tuned, task).metric,
            **measure(dense, model, task, settings),
            "filters": dict(record.candidate.filters),
            "date": time.strftime("%F"),
        }
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def read_search(variant: str, seed: int, options: argparse.Namespace) -> Settings:
    """Return the settings of one search."""
    changes = [
        f"task.data.root={options.data}",
        f"run_dir={options.runs}/seed{seed}",
        f"name=front-{variant}-{seed}",
        f"seed={seed}",
        f"task.seed={seed}",
        f"search.evaluations={options.evaluations}",
        f'search.objectives=["energy", "{variant}"]',
        "evaluate.full.retrain.epochs=0.01",  # its one finished model is not used here
        *options.changes,
    ]
    settings = read_settings(Settings, HERE / "search.toml", changes)
    shares = {"latency": None, "macs": None, variant: options.most}
    return replace(settings, budget=replace(settings.budget, **shares))


def pick_points(records: list[Record], variant: str) -> list[Record]:
    """Return a few records of the front, evenly spread over the resource on a log scale."""
    some = [one for one in records if np.isfinite(one.energy)]
    points = np.array([[one.energy, one.metrics[variant]] for one in some])
    front = sorted(
        (some[i] for i in np.flatnonzero(find_front(points))), key=lambda one: one.metrics[variant]
    )
    costs = np.log([one.metrics[variant] for one in front])
    wanted = np.linspace(costs[0], costs[-1], POINTS)
    places = sorted({int(np.abs(costs - one).argmin()) for one in wanted})
    return [front[place] for place in places]


def is_done(path: Path, key: tuple[str, int, int]) -> bool:
    """Return whether a row stands in the file."""
    rows = path.read_text("utf-8").splitlines() if path.exists() else []
    done = [json.loads(line) for line in rows]
    return key in {(row["variant"], row["seed"], row["place"]) for row in done}


def read_options() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=["latency", "macs"])
    parser.add_argument("--evaluations", type=int, default=30)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--most", type=float, default=0.9, help="most of the resource")
    parser.add_argument("--set", dest="changes", action="append", default=[])
    return parser.parse_args()


if __name__ == "__main__":
    main()
