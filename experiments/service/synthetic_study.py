"""Write a long study into SQLite within seconds: what a search leaves behind, without the search.

Optuna creates trials one by one, 25 ms or more each; here the first one shows the rows which
Optuna makes of a trial, and the others are inserted by SQL. Only for measurements.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import optuna
import torch
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from torch import nn

from autocompress.graph.layers import LayerGraph
from autocompress.graph.trace import trace_graph
from autocompress.jobs import Candidate, hash_json
from autocompress.search.bounds import Bounds, Logits, make_bounds
from autocompress.search.budget import measure_excess
from autocompress.search.counts import count_cost, measure_densities, name_counts, round_counts
from autocompress.search.spec import Settings, make_spec, resolve_settings
from autocompress.search.storage import find_file, make_storage
from autocompress.search.study import VERSION

DENSITY = FloatDistribution(0.0, 1.0)
STEP = 0.15  # Of the random walk, in logits.
TABLES = {
    "trials": "(trial_id, number, study_id, state, datetime_start, datetime_complete)",
    "trial_values": "(trial_id, objective, value, value_type)",
    "trial_params": "(trial_id, param_name, param_value, distribution_json)",
    "trial_user_attributes": '(trial_id, "key", value_json)',
    "trial_system_attributes": '(trial_id, "key", value_json)',
}


@dataclass(frozen=True, kw_only=True)
class Fast:
    """One decided fast trial.

    Attributes:
        energy: What was minimised.
        densities: Its parameters.
        attrs: Its user attributes.
        constraints: ``cost / limit - 1`` by resource.
    """

    energy: float
    densities: dict[str, float]
    attrs: dict[str, Any]
    constraints: dict[str, float]


def make_big_study(
    url: str,
    graph: LayerGraph,
    *,
    trials: int = 10_000,
    seed: int = 0,
    settings: Settings | None = None,
) -> optuna.Study:
    """Return a new study of ``trials`` decided fast trials of one chain in round 0.

    The candidates are valid for ``graph``; some exceed the budget, as penalised ones do.

    Args:
        url: Of a SQLite database that exists or not.
        graph: The dense model.
        trials: How many.
        seed: Of the walk.
        settings: Of the study; it goes on with these.
    """
    settings = resolve_settings(Settings(name="big") if settings is None else settings)
    study = optuna.create_study(study_name=settings.name, storage=make_storage(url))
    spec = make_spec(settings)
    attrs = {
        "version": VERSION,
        "spec": json.dumps(spec, sort_keys=True),
        "spec_hash": hash_json(spec),
        "dense_energy": 0.1,
        "run_dir": settings.run_dir,
    }
    for name, value in attrs.items():
        study.set_user_attr(name, value)
    rows = list(walk(settings, graph, trials=trials, seed=seed))
    add_first(study, rows[0])
    path = find_file(url)
    assert path is not None
    with closing(sqlite3.connect(path)) as connection, connection:
        copy_trials(connection, rows)
    return optuna.load_study(study_name=settings.name, storage=make_storage(url))


def make_chain(convolutions: int = 20) -> nn.Module:
    """Return a model of 32x32 images with ``2 * convolutions + 1`` densities to choose."""
    widths = [3, *[16 + 8 * (place // 4) for place in range(convolutions)]]
    layers: list[nn.Module] = []
    for place, (before, after) in enumerate(pairwise(widths)):
        stride = 2 if place in (convolutions // 4, convolutions // 2) else 1
        layers += [nn.Conv2d(before, after, 3, padding=1, stride=stride), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


def trace_chain(convolutions: int = 20) -> LayerGraph:
    """Return the graph of :func:`make_chain`."""
    return trace_graph(make_chain(convolutions).eval(), torch.zeros(1, 3, 32, 32))


def walk(settings: Settings, graph: LayerGraph, *, trials: int, seed: int) -> Iterator[Fast]:
    """Give the trials of an annealing walk whose energy is a sum over the densities."""
    bounds = make_bounds(settings.space, graph, graph, Candidate(filters={}, columns={}))
    full = round_counts(bounds, flat_logits(graph), 80.0)
    limits = settings.budget.limits(count_cost(bounds, full))
    draws = np.random.default_rng(seed)
    matters = draws.uniform(0.0, 1.0, len(graph.groups) + len(graph.layers))
    place, energy, parent = draws.normal(0.0, 1.5, len(matters)), np.inf, -1
    for seq in range(trials):
        moved = place + STEP * draws.standard_normal(len(place))
        scored = float(0.1 + 0.05 * matters @ np.abs(moved) + 0.02 * draws.random())
        temperature = float(0.1 * np.exp(-4 * seq / trials))
        accepted = bool(draws.random() < np.exp(min(0.0, (energy - scored) / temperature)))
        state = {
            "index": seq, "after": seq, "parent": parent, "seed": seed, "seq": seq,
            "accepted": accepted, "temperature": temperature,
        }  # fmt: skip
        yield make_fast(bounds, moved, scored, state, limits)
        if accepted:
            place, energy, parent = moved, scored, seq


def flat_logits(graph: LayerGraph) -> Logits:
    """Return the point of equal densities."""
    return Logits(np.zeros(len(graph.groups)), np.zeros(len(graph.layers)))


def make_fast(
    bounds: Bounds,
    place: np.ndarray,
    energy: float,
    state: dict[str, Any],
    limits: dict[str, float],
) -> Fast:
    """Return the trial at ``place``."""
    groups = len(bounds.graph.groups)
    counts = round_counts(bounds, Logits(place[:groups], place[groups:]), 0.0)
    candidate = name_counts(bounds, counts)
    costs = {name: float(value) for name, value in count_cost(bounds, counts).list_known().items()}
    excess = measure_excess(costs, limits)
    metrics = {**costs, "val_loss": energy, "val_metric": float(np.exp(-energy)), "seconds": 1.0}
    verdict = {
        **{name: state[name] for name in ("seq", "accepted", "temperature")},
        "energy": energy, "metrics": metrics, "artifact": "", "error": "", "cached": False,
        "values": [energy], "excess": excess,
    }  # fmt: skip
    attrs = {
        "stage": "fast", "round": 0, "chain": 0, "base": "", "attempt": 1, "losses": 0,
        "origin": -1, "key": candidate.key(), "verdict": json.dumps(verdict, sort_keys=True),
        "candidate": json.dumps(candidate.to_json(), sort_keys=True),
        **{name: state[name] for name in ("index", "after", "parent", "seed")},
    }  # fmt: skip
    densities = measure_densities(bounds, candidate)
    return Fast(energy=energy, densities=densities, attrs=attrs, constraints=excess)


def add_first(study: optuna.Study, row: Fast) -> None:
    """Add one trial by Optuna's own way: the pattern of all others."""
    study.add_trial(
        create_trial(
            state=TrialState.COMPLETE,
            values=[row.energy],
            params=row.densities,
            distributions=dict.fromkeys(row.densities, DENSITY),
            user_attrs=row.attrs,
            constraints=row.constraints,
        )
    )


def copy_trials(connection: sqlite3.Connection, rows: Sequence[Fast]) -> None:
    """Insert all ``rows`` but the first, which lies there as Optuna wrote it."""
    first, study, when = connection.execute(
        "SELECT trial_id, study_id, datetime_start FROM trials WHERE number = 0 "
        "ORDER BY trial_id DESC"
    ).fetchone()
    (distribution,) = connection.execute(
        "SELECT distribution_json FROM trial_params WHERE trial_id = ?", (first,)
    ).fetchone()
    lines: dict[str, list[tuple[Any, ...]]] = {name: [] for name in TABLES}
    for number, row in enumerate(rows[1:], start=1):
        trial = first + number
        lines["trials"].append((trial, number, study, "COMPLETE", when, when))
        lines["trial_values"].append((trial, 0, row.energy, "FINITE"))
        lines["trial_params"] += [
            (trial, name, value, distribution) for name, value in row.densities.items()
        ]
        lines["trial_user_attributes"] += [
            (trial, name, json.dumps(value)) for name, value in row.attrs.items()
        ]
        lines["trial_system_attributes"] += [
            (trial, f"constraints:{name}", json.dumps(value))
            for name, value in row.constraints.items()
        ]
    for table, columns in TABLES.items():
        marks = ", ".join("?" for _ in columns.split(","))
        connection.executemany(f"INSERT INTO {table} {columns} VALUES ({marks})", lines[table])  # noqa: S608 - our own names
