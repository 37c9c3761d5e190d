"""Correlate fast scores with full results: run.py SETTINGS.toml OUT.jsonl [--set a.b=c ...].

Draws feasible candidates at one budget from the dense model, scores each with every rung of
the ladder and prunes each in full. One JSON line per candidate; a second call goes on after
the last one. `collect.py` turns the lines into the table of RESULTS.md.
"""

import json
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from autocompress.evaluate.base import make_base
from autocompress.evaluate.fast import evaluate_fast
from autocompress.evaluate.full import evaluate_full
from autocompress.evaluate.settings import EvaluateSettings, FastSettings
from autocompress.evaluate.task import TaskSettings, open_task, train_dense
from autocompress.search.bounds import Logits, make_bounds
from autocompress.search.budget import Budget
from autocompress.search.counts import make_candidate, name_counts, read_counts
from autocompress.search.space import SpaceSettings
from autocompress.settings import read_settings
from autocompress.store.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One correlation.

    Attributes:
        task: What is learned.
        evaluate: The full evaluation; ``fast`` gives optimiser and batch size.
        budget: What every candidate may cost.
        rungs: Epochs of fast ADMM and as many of retraining; 0 is the one-shot projection.
        repeats: Full evaluations of each candidate, by other seeds: how well they agree is the
            most that a fast score can reach.
        candidates: How many.
        spread: Standard deviation of the candidates' logits around uniform.
        seed: Of the candidates.
    """

    task: TaskSettings
    evaluate: EvaluateSettings
    budget: Budget
    rungs: tuple[float, ...] = (0.0, 0.1, 0.25, 1.0)
    repeats: int = 2
    candidates: int = 24
    spread: float = 0.7
    seed: int = 0
    run_dir: str = "runs/fast_score"
    space: SpaceSettings = field(default_factory=SpaceSettings)


def set_rung(evaluate: EvaluateSettings, epochs: float) -> EvaluateSettings:
    """Return ``evaluate`` with a fast score of so many epochs."""
    if epochs == 0:
        return replace(evaluate, fast=replace(evaluate.fast, fidelity="one_shot"))
    fast = FastSettings(
        fidelity="admm",
        prune=replace(evaluate.fast.prune, epochs=epochs),
        retrain=replace(evaluate.fast.retrain, epochs=epochs),
    )
    return replace(evaluate, fast=fast)


def main(settings: Path, out: Path, overrides: list[str]) -> None:
    """Evaluate every candidate that ``out`` does not hold yet."""
    experiment = read_settings(Experiment, settings, overrides)
    task = open_task(experiment.task)
    model, _, metrics = train_dense(task, RunFolder(Path(experiment.run_dir)))
    print("dense", metrics, flush=True)
    base = make_base(model, task)
    bounds = make_bounds(experiment.space, base.graph, base.graph, base.count())
    full = name_counts(bounds, read_counts(bounds, base.count()))
    dense_cost = bounds.model.count_candidate(full)
    limits = experiment.budget.limits(dense_cost)
    done = len(out.read_text().splitlines()) if out.exists() else 0
    for number in range(done, experiment.candidates):
        rng = np.random.default_rng([experiment.seed, number])
        logits = Logits(
            rng.normal(0, experiment.spread, len(base.graph.groups)),
            rng.normal(0, experiment.spread, len(base.graph.layers)),
        )
        candidate = make_candidate(bounds, logits, limits)
        record: dict[str, object] = {"number": number, "candidate": candidate.to_json()}
        for epochs in experiment.rungs:
            start = time.perf_counter()
            evaluate = set_rung(experiment.evaluate, epochs)
            scores = evaluate_fast(base, candidate, task, evaluate, seed=number)
            scores["seconds"] = time.perf_counter() - start
            record[f"fast_{epochs:g}"] = scores
        for repeat in range(experiment.repeats):
            start = time.perf_counter()
            finished = evaluate_full(
                base,
                candidate,
                task,
                experiment.evaluate,
                teacher=base,
                seed=1000 * repeat + number,
            )
            record[f"full_{repeat}"] = {**finished.metrics, "seconds": time.perf_counter() - start}
        with out.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), [text for text in sys.argv[3:] if text != "--set"])
