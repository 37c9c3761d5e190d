"""Measure what a search costs beside its evaluations, in studies that have grown long.

python experiments/service/overhead.py [--trials 100 1000 10000] [--repeats 5]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import optuna
from synthetic_study import make_big_study, trace_chain

from autocompress.graph.layers import LayerGraph
from autocompress.jobs import Candidate, Job, Outcome
from autocompress.search.budget import Budget
from autocompress.search.controller import Wiring, hold_controller
from autocompress.search.settings import SearchSettings
from autocompress.search.spec import Settings, resolve_settings


@dataclass
class Instant:
    """Evaluates in no time, and notes when it was asked."""

    graph: LayerGraph
    dense_key: str = "dense"
    dense_metrics: Mapping[str, float] = field(default_factory=lambda: {"val_metric": 0.9})
    asked_s: list[float] = field(default_factory=list)

    def has(self, key: str) -> bool:
        """Return True: there are no models that could be gone."""
        return True

    def describe(self, base: str) -> tuple[LayerGraph, Candidate]:
        """Return the dense graph."""
        return self.graph, Candidate(filters={}, columns={})

    def run(self, job: Job) -> Outcome:
        """Return an energy at once."""
        self.asked_s.append(time.perf_counter())
        keep = sum(job.candidate.filters.values()) % 97
        return Outcome(energy=0.1 + 0.01 * keep, metrics={"val_loss": 0.1, "seconds": 1.0})


def measure(trials: int, repeats: int) -> dict[str, float]:
    """Return milliseconds from one evaluation to the next, and seconds to resume."""
    graph = trace_chain()
    with tempfile.TemporaryDirectory() as folder:
        settings = resolve_settings(
            Settings(
                name="big",
                run_dir=folder,
                budget=Budget(macs=0.5),
                search=SearchSettings(evaluations=trials + repeats + 1, chains=1),
            )
        )
        make_big_study(settings.storage, graph, trials=trials, settings=settings)
        evaluator = Instant(graph)
        begun = time.perf_counter()
        try:
            with hold_controller(settings, Wiring(make_evaluator=lambda: evaluator)) as controller:
                controller.run()
        finally:
            asked = evaluator.asked_s
    steps = [1e3 * (after - before) for before, after in pairwise(asked)]
    fast = steps[:repeats]
    return {
        "trials": trials,
        "median_ms": statistics.median(fast),
        "slowest_ms": max(fast),
        "resume_s": asked[0] - begun,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print("| stored trials | per trial, median of 5 | slowest | resume |")
    print("|---|---|---|---|")
    for trials in asked.trials:
        found = measure(trials, asked.repeats)
        print(
            f"| {trials:,} | {found['median_ms']:.0f} ms | {found['slowest_ms']:.0f} ms "
            f"| {found['resume_s']:.1f} s |"
        )


if __name__ == "__main__":
    main()
