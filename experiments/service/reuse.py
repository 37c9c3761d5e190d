"""Compare a new budget that starts from a stored study with one that starts cold.

`python experiments/service/reuse.py FOLDER SEED...` prints one JSON line per search. The first
study has the settings of the quickstart; the second halves its budget. It begins once from the
first study, once cold with the same evaluations per round, and once cold with about as many new
evaluations in all as the warm one had.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from autocompress.search.budget import Budget
from autocompress.search.controller import run_search
from autocompress.search.spec import Settings
from autocompress.search.study import open_study
from autocompress.settings import read_settings

QUICKSTART = Path(__file__).parents[1] / "quickstart" / "settings.toml"
TIGHT = Budget(weights=0.05, macs=0.125)
LOOSE = Budget(weights=0.2, macs=0.5)


def main(folder: Path, seed: int) -> None:
    """Run all searches of one seed."""
    first = replace(read_settings(Settings, QUICKSTART), seed=seed)
    run(first, folder, "first")
    source = f"sqlite:///{folder}/first{seed}/study.db#first"
    for name, budget in (("tight", TIGHT), ("loose", LOOSE)):
        settings = replace(first, budget=budget)
        new = run(settings, folder, f"{name}-warm", source)
        if name == "tight":
            short = replace(settings.search, evaluations=max(1, round(new / 5)))
            run(replace(settings, search=short), folder, f"{name}-cold-equal")
        run(settings, folder, f"{name}-cold")


def run(settings: Settings, folder: Path, name: str, source: str = "") -> int:
    """Search, print what came of it, and return the number of new evaluations."""
    run_dir = f"{folder}/{name}{settings.seed}"
    settings = replace(settings, name=name, run_dir=run_dir)
    start = time.process_time()
    result = run_search(settings, source=source)
    seconds = time.process_time() - start
    trials = open_study(name, f"{run_dir}/study.db").get_trials(deepcopy=False)
    rows = [
        (trial.user_attrs, json.loads(trial.user_attrs["verdict"]))
        for trial in trials
        if "verdict" in trial.user_attrs
    ]
    fast = [(attrs, one) for attrs, one in rows if attrs["stage"] == "fast"]
    last = max(attrs["round"] for attrs, _ in rows)
    asked = [(attrs, one) for attrs, one in fast if "source" not in attrs]
    new = sum(not one["cached"] for _, one in asked)
    best = result.finished[0]
    record: dict[str, Any] = {
        "search": name,
        "seed": settings.seed,
        "rounds": last + 1,
        "taken_over": len(fast) - len(asked),
        "asked": len(asked),
        "new": new,
        "models_new": sum(not one["cached"] for attrs, one in rows if attrs["stage"] != "fast"),
        "best_energy": min(one["energy"] for attrs, one in fast if attrs["round"] == last),
        "val_metric": best.metrics["val_metric"],
        "test_metric": best.metrics["test_metric"],
        "weights": best.metrics["weights"],
        "macs": best.metrics["macs"],
        "cpu_s": round(seconds, 1),
    }
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()
    return new


if __name__ == "__main__":
    torch.set_num_threads(1)
    for one in sys.argv[2:]:
        main(Path(sys.argv[1]), int(one))
