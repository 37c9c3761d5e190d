"""Add the finished model of a search to results.jsonl, and print the table of RESULTS.md.

python experiments/autocompress_cifar10/collect.py [RUN_DIR STUDY --data ROOT]
    [--finish full.final.epochs=16 ...]

The best model by validation is copied to artifacts/STUDY-SEED. With --finish its candidate is
finished again with other settings, from the same base, and that model is taken; killed and called
again it goes on. The dense model's test accuracy is read here, once.
"""

import argparse
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from autocompress.evaluate.base import load_base, make_base
from autocompress.evaluate.evaluator import save_finished
from autocompress.evaluate.full import evaluate_full, read_test
from autocompress.evaluate.task import open_task, train_dense
from autocompress.graph.trace import trace_graph
from autocompress.jobs import Candidate
from autocompress.masks.cost import CostModel
from autocompress.search.controller import SearchResult
from autocompress.search.ledger import read_records
from autocompress.search.spec import read_study_settings
from autocompress.search.study import open_study
from autocompress.settings import change_settings
from autocompress.store.run_folder import RunFolder
from autocompress.train.checkpoint import Keepers

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
COLUMNS = ("name", "seed", "weights_fewer", "macs_fewer", "dense_val", "val", "dense_test", "test")


def main() -> None:
    """Add a line, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", nargs="?")
    parser.add_argument("study", nargs="?")
    parser.add_argument("--data", default="")
    parser.add_argument("--finish", nargs="*", default=[])
    asked = parser.parse_args()
    if asked.run_dir:
        torch.set_num_threads(1)
        changes = dict(one.split("=") for one in asked.finish)
        add_line(asked.run_dir, asked.study, asked.data, changes)
    frame = pd.DataFrame([json.loads(line) for line in RESULTS.read_text("utf-8").splitlines()])
    print("|", " | ".join((*COLUMNS, "minus dense, points")), "|")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for row in frame.to_dict("records"):
        values = [row[key] for key in COLUMNS]
        cells = [f"{one:.4g}" if isinstance(one, float) else str(one) for one in values]
        lost = f"{100 * (row['test'] - row['dense_test']):+.2f}"
        print("|", " | ".join((*cells, lost)), "|")


def add_line(run_dir: str, name: str, root: str, changes: dict[str, str]) -> None:
    """Store the best finished model of a study beside this file, and its line."""
    storage = f"sqlite:///{run_dir}/study.db"
    study = open_study(name, storage)
    settings = read_study_settings(study, storage)
    data = replace(settings.task.data, root=root or settings.task.data.root)
    task = open_task(replace(settings.task, data=data, device="auto"))
    folder = RunFolder(Path(run_dir))
    dense, _, known = train_dense(task, folder)
    records = tuple(read_records(study))
    best = SearchResult(settings=settings, evaluated=0, records=records, done=True).finished[0]
    graph = trace_graph(dense, task.example())
    whole = CostModel(graph).count_candidate(Candidate(filters={}, columns={}))
    place = HERE / "artifacts" / f"{name}-{settings.seed}"
    kept = dict(best.metrics)
    shutil.rmtree(place, ignore_errors=True)
    if changes:
        trial = next(one for one in study.trials if one.number == best.number)
        key = trial.user_attrs["base"]
        base = load_base(folder.path(key), task) if key else make_base(dense, task)
        evaluate = change_settings(
            settings.evaluate, {key: json.loads(value) for key, value in changes.items()}
        )
        keepers = Keepers(folder.checkpoints, f"finish-{name}-{settings.seed}")
        finished = evaluate_full(
            base,
            best.candidate,
            task,
            evaluate,
            teacher=make_base(dense, task),
            seed=settings.seed,
            keepers=keepers,
        )
        save_finished(place, finished, task)
        keepers.clear()
        kept = finished.metrics
    else:
        shutil.copytree(folder.path(best.artifact), place)
    line: dict[str, Any] = {
        "name": name,
        "seed": settings.seed,
        "weights": kept["weights"],
        "weights_fewer": whole.weights / kept["weights"],
        "macs": kept["macs"],
        "macs_fewer": whole.macs / kept["macs"],
        "dense_val": known["val_metric"],
        "val": kept["val_metric"],
        "dense_test": read_test(dense, task)["test_metric"],
        "test": kept["test_metric"],
        "retrained_val": kept["retrained_val_metric"],
        "retrained_weights": kept["retrained_weights"],
        "evaluations": sum(one.stage == "fast" for one in records),
        "samples": sum(one.metrics.get("samples", 0.0) for one in records),
        "cpu_s": sum(one.metrics.get("cpu_s", 0.0) for one in records),
        "finished_again": changes,
        "date": time.strftime("%F"),
    }
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
