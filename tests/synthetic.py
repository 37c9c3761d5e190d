"""A study as the search writes it, without any search."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

DENSE_WEIGHTS = 40_000
DENSE_MACS = 1_000_000
PLACE = (
    "stage", "round", "chain", "index", "parent", "key", "base", "seed", "attempt", "losses",
    "origin", "after", "candidate",
)  # fmt: skip
EVERYTHING = '{"columns": {}, "filters": {}}'
DECISION = ("seq", "accepted", "temperature", "energy", "artifact", "error", "cached")


def make_study(
    trials: int = 60,
    *,
    layers: int = 3,
    finished: int = 2,
    direction: str = "maximize",
    storage: str | optuna.storages.BaseStorage | None = None,
    name: str = "synthetic",
    spec: Mapping[str, Any] | None = None,
) -> optuna.Study:
    """Return a study of ``trials`` fast trials in two rounds and ``finished`` full ones."""
    study = optuna.create_study(study_name=name, storage=storage, direction="minimize")
    study.set_user_attr("spec", json.dumps(spec or make_spec(name, direction)))
    draws = np.random.default_rng(0)
    rows = [make_fast(seq, trials, layers, draws) for seq in range(trials)]
    rows += [make_full(rank, trials + rank, layers) for rank in range(finished)]
    study.add_trials(rows)
    return study


def make_spec(name: str, direction: str) -> dict[str, Any]:
    """Return the least of a spec that reports read."""
    return {"name": name, "task": {"metric_direction": direction, "metric": "accuracy"}}


def make_fast(seq: int, trials: int, layers: int, draws: np.random.Generator) -> FrozenTrial:
    """Return a finished fast trial whose energy falls while the search goes on."""
    progress = seq / max(trials, 1)
    energy = float(0.3 + 0.8 * math.exp(-3 * progress) + 0.15 * draws.random())
    density = (0.5 if 2 * seq < trials else 0.25) * float(draws.uniform(0.7, 1.0))
    attrs: dict[str, Any] = {
        "stage": "fast",
        "round": 0 if 2 * seq < trials else 1,
        "seq": seq,
        "chain": 0,
        "accepted": bool(draws.random() < math.exp(-2 * progress)),
        "temperature": 0.2 * math.exp(-4 * progress),
        "key": f"{seq:064d}",
        "val_loss": energy,
        "val_metric": max(0.1, 1 - energy / 2),
    }
    attrs |= make_costs(density)
    return make_trial(energy, attrs, make_densities(layers, draws))


def make_full(rank: int, seq: int, layers: int) -> FrozenTrial:
    """Return a trial of a finished model."""
    density = 0.2 / (rank + 1)
    metric = 0.985 - 0.01 * rank
    attrs: dict[str, Any] = {
        "stage": "full",
        "round": 1,
        "seq": seq,
        "accepted": True,
        "val_loss": 0.1,
        "val_metric": metric,
        "test_loss": 0.11,
        "test_metric": metric - 0.002,
        "test_se": 0.004,
        "artifact": f"{rank:02d}" + "ab" * 31,
    }
    attrs |= make_costs(density)
    attrs["masked_weights"] = attrs["weights"] * 0.9
    attrs["masked_macs"] = attrs["macs"] * 0.9
    return make_trial(-metric, attrs, make_densities(layers, np.random.default_rng(rank)))


def make_costs(density: float) -> dict[str, float]:
    """Return the costs of a model that keeps ``density`` of its weights."""
    weights = round(DENSE_WEIGHTS * density)
    return {
        "weights": float(weights),
        "params": float(weights + 60),
        "macs": float(round(DENSE_MACS * density)),
        "bytes": 4.0 * (weights + 60),
        "seconds": 0.5,
    }


def make_densities(layers: int, draws: np.random.Generator) -> dict[str, float]:
    """Return one filter and one column density for each of ``layers`` layers."""
    names = [f"{kind}/conv{i}" for kind in ("filters", "columns") for i in range(1, layers + 1)]
    return dict(zip(names, draws.uniform(0.1, 1.0, 2 * layers).tolist(), strict=True))


def make_trial(
    energy: float,
    attrs: dict[str, Any],
    densities: dict[str, float],
    *,
    constraints: dict[str, float] | None = None,
    state: TrialState = TrialState.COMPLETE,
) -> FrozenTrial:
    """Return a trial in ``state`` within its budgets, unless ``constraints`` says otherwise.

    Args:
        energy: What the search minimises.
        attrs: Columns of its place, of its decision and of its metrics.
        densities: Its parameters.
        constraints: ``cost / limit - 1`` by resource.
        state: Of the trial.
    """
    finite = state == TrialState.COMPLETE and not math.isnan(energy)
    decision = {name: one for name, one in attrs.items() if name in DECISION}
    metrics = {name: one for name, one in attrs.items() if name not in PLACE + DECISION}
    verdict = {"energy": energy, "metrics": metrics, "artifact": "", **decision}
    place = {name: one for name, one in attrs.items() if name in PLACE}
    everywhere = {
        "key": "",
        "candidate": EVERYTHING,
        "base": "",
        "seed": 0,
        "index": -1,
        "chain": 0,
    }
    return create_trial(
        state=state,
        values=[energy] if finite else None,
        params=densities,
        distributions={name: FloatDistribution(1e-6, 1.0) for name in densities},
        user_attrs={**everywhere, **place, "verdict": json.dumps(verdict)},
        constraints={"weights": -0.1} if constraints is None else constraints,
    )
