"""Compare searchers at one budget and equal numbers of evaluations.

python experiments/search_quality/run.py SETTINGS --out DIR [--data ROOT] [--seeds 0 1 2]
    [--variants guided random ...] [--set KEY=VALUE]

Every run is a study in DIR/study.db; what is there already is not run again. All of them share
one run folder, so that the dense model is one and equal candidates are evaluated once; each run
still counts its own evaluations. Prints one JSON line per run.
"""

import argparse
import json
import logging
from dataclasses import replace
from pathlib import Path

import optuna

from autocompress.search.controller import run_search
from autocompress.search.spec import Settings
from autocompress.settings import read_settings

VARIANTS = {
    "guided": ["search.chains=1"],
    "prior": ["search.chains=1", "search.drafts=1"],
    "unguided": ["search.chains=1", "search.drafts=1", "search.prior=0.0"],
    "tempering": ["search.chains=4"],
    "random": ["search.searcher=random"],
    "tpe": ["search.searcher=tpe"],
    "nsga2": ["search.searcher=nsga2"],
    "uniform": ["search.searcher=uniform"],
}


def run(settings: Settings, variant: str) -> dict[str, object]:
    """Return what one search came to."""
    result = run_search(settings)
    last = max(record.round for record in result.records)
    fast = [one for one in result.records if one.stage == "fast" and one.round == last]
    best = result.finished[0]
    names = ("val_metric", "val_loss", "test_metric", "test_loss", "weights", "macs")
    return {
        "variant": variant,
        "seed": settings.seed,
        "evaluations": sum(one.stage == "fast" for one in result.records),
        "rounds": last + 1,
        "best_fast": min(one.energy for one in fast if one.energy == one.energy),
        **{name: best.metrics[name] for name in names},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--set", dest="changes", action="append", default=[])
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.basicConfig(level=logging.WARNING)
    data = [f"task.data.root={asked.data}"] if asked.data else []
    for seed in asked.seeds:
        for variant in asked.variants:
            changes = [*data, *VARIANTS[variant], *asked.changes, f"seed={seed}"]
            settings = read_settings(Settings, asked.settings, changes)
            settings = replace(
                settings,
                name=f"{asked.settings.stem}-{variant}-{seed}",
                run_dir=str(asked.out),
            )
            print(json.dumps(run(settings, variant)), flush=True)


if __name__ == "__main__":
    main()
