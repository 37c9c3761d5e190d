"""A study as pandas frames: one row per trial, fixed columns; the rows on the Pareto front.

The columns of every frame are those of :data:`COLUMNS`, in their order, also when the study is
empty. After them come ``filters/<group>`` and ``columns/<layer>``, float64: the kept share of a
group's filters and of a layer's columns, relative to the dense model, in (0, 1]. Where they are
chosen, ``weights/<layer>``, the kept share of a layer's weights, and ``bits/<layer>``, its bit
width, follow.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray

from autocompress.pareto import find_front

Direction = Literal["maximize", "minimize"]
Kind = Literal["count", "flag", "float", "text"]

DTYPES: dict[Kind, str] = {"count": "Int64", "flag": "boolean", "float": "float64", "text": "str"}
RAISED = ("val_metric", "test_metric")  # These follow the direction of the task's metric.
OBJECTIVES = ("val_metric", "weights")
VERDICT = "verdict"  # The attribute with all that a decision says, as JSON.


@dataclass(frozen=True)
class Column:
    """One fixed column of a frame.

    Attributes:
        name: Name of the column; but for the first ones, also of the trial's user attribute, of
            what its verdict says, or of a metric in that.
        kind: Which type it has, see ``DTYPES``.
        meaning: What it says, with its unit; one line.
    """

    name: str
    kind: Kind
    meaning: str


OWN_COLUMNS = (
    Column("number", "count", "number of the trial in the study, from 0"),
    Column("state", "text", "complete, fail, pruned, running or waiting"),
    Column("feasible", "flag", "finished, finite and within every budget"),
)
PLACE_COLUMNS = (
    Column("stage", "text", "fast (estimate), round (retrained base) or full (finished model)"),
    Column("round", "count", "progressive round, from 0"),
    Column("attempt", "count", "attempt at this evaluation, from 1"),
    Column("parent", "count", "trial whose candidate was moved; -1 without any"),
    Column("chain", "count", "annealing chain, from 0"),
    Column("index", "count", "place in the order of the round's proposals; -1 outside a search"),
    Column("after", "count", "decisions known when it was proposed"),
    Column("losses", "count", "times that a stopped controller lost it; those are no attempts"),
)
DECISION_COLUMNS = (
    Column("seq", "count", "place in the order of decisions, from 0"),
    Column("accepted", "flag", "whether the chain moved to this candidate"),
    Column("temperature", "float", "annealing temperature at the decision, unit of energy"),
    Column("cached", "flag", "whether its result was there already"),
)
FIGURE_COLUMNS = (
    Column("energy", "float", "what the search minimises; validation loss of a fast trial"),
    Column("val_loss", "float", "loss on the validation split"),
    Column("val_metric", "float", "metric on the validation split; accuracies are 0 to 1"),
    Column("test_loss", "float", "loss on the test set; finished models only"),
    Column("test_metric", "float", "metric on the test set; finished models only"),
    Column("test_se", "float", "standard error of test_metric"),
    Column("weights", "count", "kept weights of convolutions and linear layers"),
    Column("params", "count", "all parameters; of weights, those that are kept"),
    Column("macs", "count", "multiply-accumulates of one sample, physically there"),
    Column("bytes", "count", "bytes of parameters, statistics and indices"),
    Column("coded_bytes", "count", "bytes of kept weights at their bits, entropy coded, and all"),
    Column("masked_weights", "count", "weights that are not zero"),
    Column("masked_macs", "count", "multiply-accumulates of weights that are not zero"),
    Column(
        "speedup", "float", "dense model's time over this one's, 64 samples, measured in turns"
    ),
    Column("latency", "float", "microseconds of one batch: measured of models, else predicted"),
    Column("latency_low", "float", "first quartile of the measured latency, microseconds"),
    Column("latency_high", "float", "third quartile of the measured latency, microseconds"),
    Column("latency_share", "float", "measured latency over the dense model's, side by side"),
    Column("predicted_latency", "float", "microseconds of one batch by the study's table"),
    Column("seconds", "float", "seconds that the evaluation took"),
    Column("cpu_s", "float", "CPU seconds that it took, of all threads"),
    Column("samples", "count", "samples sent through the network: forward 1, training 3"),
)
TEXT_COLUMNS = (
    Column("key", "text", "key of the evaluation's result; equal for equal evaluations"),
    Column("base", "text", "key of the stored model it started from; empty for the dense one"),
    Column("artifact", "text", "key of the stored model; empty when none was stored"),
    Column("error", "text", "one sentence when the evaluation failed; else empty"),
)
ATTR_COLUMNS = PLACE_COLUMNS + DECISION_COLUMNS + FIGURE_COLUMNS + TEXT_COLUMNS
COLUMNS = OWN_COLUMNS + ATTR_COLUMNS


def trials_frame(study: optuna.Study) -> pd.DataFrame:
    """Return every trial of ``study`` as one row, in order of their numbers.

    Counts and flags that a trial does not have are ``<NA>``, floats are NaN, texts are empty.
    """
    trials = study.get_trials(deepcopy=False)
    attrs = [read_trial(trial.user_attrs) for trial in trials]
    complete = np.array([trial.state.name == "COMPLETE" for trial in trials], dtype=np.bool_)
    data = {column.name: read_column(column, attrs) for column in ATTR_COLUMNS}
    sound = complete & np.isfinite(data["energy"].to_numpy()) & (data["error"] == "").to_numpy()
    # A NaN constraint is not met: "<= 0" is False for it.
    within = [all(value <= 0 for value in trial.constraints.values()) for trial in trials]
    own = {
        "number": pd.Series([trial.number for trial in trials], dtype="Int64"),
        "state": pd.Series([trial.state.name.lower() for trial in trials], dtype="str"),
        "feasible": pd.Series(sound & np.array(within, dtype=np.bool_), dtype="boolean"),
    }
    params = [trial.params for trial in trials]
    names = dict.fromkeys(name for row in params for name in row)
    densities = {
        name: np.array([row.get(name, np.nan) for row in params], dtype=np.float64)
        for name in sorted(names, key=lambda name: not name.startswith("filters/"))
    }
    return pd.DataFrame({**own, **data, **densities})


def pareto_frame(
    study: optuna.Study,
    objectives: Sequence[str] = OBJECTIVES,
    *,
    stage: str | None = None,
) -> pd.DataFrame:
    """Return the trials on the Pareto front of ``study``, ordered by the last objective.

    Args:
        study: A study of this package.
        objectives: Columns to trade against each other. ``val_metric`` and ``test_metric`` are
            better in the direction of the task's metric, everything else is better when less.
        stage: ``fast``, ``round`` or ``full`` looks at these trials only, ``models`` at those that
            left a model (``round`` and ``full``), or at all while there is none: estimates may
            look better than what they become, and would hide it.

    Raises:
        ValueError: An objective is no figure, or there is none.
    """
    return find_best(trials_frame(study), objectives, direction=read_direction(study), stage=stage)


def find_best(
    frame: pd.DataFrame,
    objectives: Sequence[str] = OBJECTIVES,
    *,
    direction: Direction = "maximize",
    stage: str | None = None,
) -> pd.DataFrame:
    """Return the rows of ``frame`` on the Pareto front, ordered by the last objective.

    Infeasible and failed rows and rows with a missing objective are never on it; of rows with
    equal objectives the first is.

    Args:
        frame: What :func:`trials_frame` gave, or rows of it.
        objectives: As for :func:`pareto_frame`.
        direction: In which direction the task's metric is better.
        stage: As for :func:`pareto_frame`.

    Raises:
        ValueError: An objective is no figure, or there is none.
    """
    known = [column.name for column in FIGURE_COLUMNS]
    for name in objectives:
        if name not in known:
            raise ValueError(f"objectives: want some of {', '.join(known)}, got {name!r}")
    if not objectives:
        raise ValueError(f"objectives: want some of {', '.join(known)}, got none")
    chosen = frame["feasible"].fillna(value=False).to_numpy(dtype=np.bool_)
    if stage == "models":
        models = (frame["stage"] != "fast").to_numpy()
        chosen = chosen & models if (chosen & models).any() else chosen
    elif stage is not None:
        chosen = chosen & (frame["stage"] == stage).to_numpy()
    rows = frame[chosen]
    costs = np.stack([_read_costs(rows, name, direction) for name in objectives], axis=1)
    return rows[find_front(costs)].sort_values(objectives[-1], kind="stable")


def find_finished(frame: pd.DataFrame, direction: Direction) -> pd.DataFrame:
    """Return the rows of finished models, the best validation metric first."""
    rows = frame[(frame["stage"] == "full") & (frame["state"] == "complete")]
    rows = rows[(rows["artifact"] != "") & (rows["error"] == "")]
    return rows.sort_values("val_metric", ascending=direction == "minimize", kind="stable")


def list_figures(frame: pd.DataFrame) -> list[dict[str, float]]:
    """Return the numeric columns of each row, densities too, as floats; NaN where missing."""
    texts = [column.name for column in COLUMNS if column.kind == "text"]
    # Rows of several studies also name theirs.
    figures = frame.drop(columns=[*texts, "study"], errors="ignore")
    rows = figures.astype("float64").to_dict(orient="records")
    return [{str(name): float(value) for name, value in row.items()} for row in rows]


def read_trial(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a trial says by column name: its place, its verdict, the metrics in that."""
    verdict = json.loads(attrs[VERDICT]) if VERDICT in attrs else {}
    return {**attrs, **verdict.get("metrics", {}), **verdict}


def read_direction(study: optuna.Study) -> Direction:
    """Return in which direction the metric of the study's task is better."""
    spec = read_spec(study)
    return "minimize" if spec.get("task", {}).get("metric_direction") == "minimize" else "maximize"


def read_spec(study: optuna.Study) -> dict[str, Any]:
    """Return the settings with which ``study`` was begun, as plain values; empty without any."""
    spec = study.user_attrs.get("spec", {})
    return dict(json.loads(spec) if isinstance(spec, str) else spec)


def read_column(column: Column, attrs: Sequence[Mapping[str, Any]]) -> pd.Series:
    """Return the values of a column in ``attrs``, with its type."""
    values = [row.get(column.name) for row in attrs]
    if column.kind == "text":
        return pd.Series(["" if value is None else str(value) for value in values], dtype="str")
    if column.kind == "flag":
        return pd.Series(values, dtype="boolean")
    floats = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    if column.kind == "count":
        floats[~np.isfinite(floats)] = np.nan
        return pd.Series(np.rint(floats)).astype("Int64")
    return pd.Series(floats)


def _read_costs(rows: pd.DataFrame, name: str, direction: Direction) -> NDArray[np.float64]:
    values = rows[name].to_numpy(dtype=np.float64, na_value=np.nan)
    return -values if name in RAISED and direction == "maximize" else values
