"""Finish candidates of the comparison again: longer, or chosen by another score.

python -m experiments.resnet20_search.again RUN_DIR --data ROOT --arm ARM --budget macs0.25
    --seeds 0,1,2 --name NAME [--by val_metric] [--set full.retrain.epochs=5 ...] --out OUT.jsonl

RUN_DIR is what `autocompress compare` ran in, and `compare --with OUT.jsonl` sets the rows beside
its own. The search is the one of ARM, its cost counts. A row that OUT has is not run again.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from autocompress.search.records import Record
from experiments.finish import Search, finish_again, open_search

TAKEN = ("val_metric", "test_metric", "macs", "weights")
COSTS = ("samples", "seconds", "cpu_s")


def main() -> None:
    """Add a row for each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir")
    for name in ("data", "arm", "budget", "name", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--by", choices=("best", "val_metric"), default="best")
    parser.add_argument("--set", nargs="*", default=[])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    changes = {key: json.loads(text) for key, text in (one.split("=") for one in asked.set)}
    out = Path(asked.out)
    for seed in map(int, asked.seeds.split(",")):
        place = {"arm": asked.name, "seed": seed, "budget": asked.budget}
        asks = {"of": asked.arm, "by": asked.by, "changes": changes}
        lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
        known = [row for row in map(json.loads, lines) if place.items() <= row.items()]
        if any(row["asks"] != asks for row in known):
            raise SystemExit(f"{out}: {place} was run otherwise; take another --name or --out")
        if known:
            continue
        search = open_search(
            asked.run_dir, f"resnet20-{asked.budget}-{asked.arm}-{seed}", asked.data
        )
        row = {**place, **finish(search, asked.by, changes), "asks": asks}
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{time.strftime('%T')} {asked.name} {seed}: {row['test_metric']:.4f}", flush=True)


def finish(search: Search, by: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of the chosen candidate's model, the cost of the search counted in."""
    fast = [one for one in search.records if one.stage == "fast"]
    chosen = search.best if by == "best" else max(fast, key=lambda one: read_score(one, by))
    is_same = chosen.candidate == search.best.candidate and not changes
    metrics = search.best.metrics if is_same else finish_again(search, chosen, changes).metrics
    spent = {key: sum(one.metrics.get(key, 0.0) for one in fast) for key in COSTS}
    return {
        **{key: metrics[key] for key in TAKEN},
        **{key: spent[key] + metrics[key] for key in COSTS},
        "search_samples": spent["samples"],
        "evaluations": len(fast),
        "date": time.strftime("%F"),
    }


def read_score(record: Record, name: str) -> float:
    """Return a figure of a fast evaluation; the lowest there is where it failed."""
    return record.metrics.get(name, float("-inf"))


if __name__ == "__main__":
    main()
