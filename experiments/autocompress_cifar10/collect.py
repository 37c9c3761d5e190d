"""Add the finished model of a search to results.jsonl, and print the table of RESULTS.md.

python -m experiments.autocompress_cifar10.collect [RUN_DIR STUDY --data ROOT]
    [--finish full.final.epochs=16 ...]

The best model by validation is copied to artifacts/STUDY-SEED. With --finish its candidate is
finished again with other settings, from the same base, and that model is taken; killed and called
again it goes on. The line's cost is that of the search and of both finishes. The dense model's
test accuracy is read here, once.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from autocompress.evaluate.evaluator import save_finished
from autocompress.evaluate.full import read_test
from autocompress.graph.trace import trace_graph
from autocompress.jobs import Candidate
from autocompress.masks.cost import CostModel
from experiments.finish import finish_again, open_search

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
COSTS = ("samples", "cpu_s")
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
    search = open_search(run_dir, name, root)
    whole = CostModel(trace_graph(search.dense, search.task.example())).count_candidate(
        Candidate(filters={}, columns={})
    )
    best, spent = search.best, search.records
    place = HERE / "artifacts" / f"{name}-{search.settings.seed}"
    draft = place.with_suffix(".draft")
    shutil.rmtree(draft, ignore_errors=True)
    costs = {key: sum(one.metrics.get(key, 0.0) for one in spent) for key in COSTS}
    if changes:
        values = {key: json.loads(value) for key, value in changes.items()}
        finished = finish_again(search, best, values)
        save_finished(draft, finished, search.task)
        kept = finished.metrics
        # What the first finish spent is in as well: the choice of candidate rests on it.
        costs = {key: costs[key] + kept[key] for key in COSTS}
    else:
        shutil.copytree(search.folder.path(best.artifact), draft)
        kept = dict(best.metrics)
    shutil.rmtree(place, ignore_errors=True)
    draft.rename(place)
    line: dict[str, Any] = {
        "name": name,
        "seed": search.settings.seed,
        "weights": kept["weights"],
        "weights_fewer": whole.weights / kept["weights"],
        "macs": kept["macs"],
        "macs_fewer": whole.macs / kept["macs"],
        "dense_val": search.known["val_metric"],
        "val": kept["val_metric"],
        "dense_test": read_test(search.dense, search.task)["test_metric"],
        "test": kept["test_metric"],
        "retrained_val": kept["retrained_val_metric"],
        "retrained_weights": kept["retrained_weights"],
        "evaluations": sum(one.stage == "fast" for one in search.records),
        **costs,
        "finished_again": changes,
        "date": time.strftime("%F"),
    }
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
