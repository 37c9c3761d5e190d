"""Runs of a comparison as a frame, one row each; their means, and differences paired by seed."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autocompress.errors import SettingError
from autocompress.masks.cost import Cost
from autocompress.pareto import measure_hypervolume
from autocompress.report.frames import Column, Direction, read_column
from autocompress.search.budget import Budget
from autocompress.search.compare import Comparison, Run, find_resource
from autocompress.search.controller import SearchResult
from autocompress.search.records import Record

RUN_COLUMNS = (
    Column("budget", "text", "name of the budget"),
    Column("arm", "text", "what was searched and how"),
    Column("seed", "count", "of the search and its evaluations"),
    Column("study", "text", "name of the study; empty for a peer"),
    Column("evaluations", "count", "fast evaluations"),
    Column("search_samples", "count", "samples that they sent through the network"),
    Column("samples", "count", "samples of all evaluations; the dense model's training is not in"),
    Column("seconds", "float", "seconds of all evaluations, added up"),
    Column("cpu_s", "float", "CPU seconds of all evaluations"),
    Column("val_metric", "float", "validation metric of the best finished model"),
    Column("test_metric", "float", "its test metric"),
    Column("share", "float", "its share of the dense model's resource that the budget is about"),
    Column("weights", "count", "its kept weights"),
    Column("macs", "count", "its multiply-accumulates of one sample"),
)
COSTS = ("evaluations", "search_samples", "samples", "seconds", "cpu_s")
NEEDED = ("arm", "seed", "budget", "val_metric", "test_metric")
Row = dict[str, Any]


def describe_run(run: Run, result: SearchResult, dense: Cost) -> Row:
    """Return a row with what a run cost and what its best finished model is like.

    Args:
        run: Of a comparison.
        result: What it came to.
        dense: What the dense model costs.
    """
    fast = [one for one in result.records if one.stage == "fast"]
    row: Row = {
        "budget": run.budget,
        "arm": run.arm,
        "seed": run.seed,
        "study": run.settings.name,
        "evaluations": len(fast),
        "search_samples": add_up(fast, "samples"),
    }
    row |= {name: add_up(result.records, name) for name in ("samples", "seconds", "cpu_s")}
    if result.finished:
        best = dict(result.finished[0].metrics)
        row |= {name: best.get(name) for name in ("val_metric", "test_metric", "weights", "macs")}
        row["share"] = measure_share(best, run.settings.budget, dense)
    return row


def add_up(records: Sequence[Record], name: str) -> float:
    """Return what ``records`` spent; NaN where one that succeeded does not say it.

    A candidate that was asked for twice was evaluated once. Failures do not say what they spent.
    """
    # Of equal ones the last is taken: one that succeeded, if there is any.
    found = {one.key: one for one in sorted(records, key=lambda one: math.isfinite(one.energy))}
    return sum(
        one.metrics.get(name, math.nan if math.isfinite(one.energy) else 0.0)
        for one in found.values()
    )


def measure_share(metrics: Mapping[str, float], budget: Budget, dense: Cost) -> float:
    """Return a model's share of the dense one's resource that ``budget`` is about; or NaN."""
    resource = find_resource(budget, dense)
    if resource == "latency":
        return metrics.get("latency_share", math.nan)
    return metrics.get(resource, math.nan) / dense.list_known()[resource]


def make_runs_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Return a row for each run, fixed columns first, then what else some rows say."""
    known = [column.name for column in RUN_COLUMNS]
    others = dict.fromkeys(key for row in rows for key in row if key not in known)
    fixed = {column.name: read_column(column, rows) for column in RUN_COLUMNS}
    return pd.DataFrame({**fixed, **{key: [row.get(key) for row in rows] for key in others}})


def read_peers(paths: Sequence[Path], comparison: Comparison) -> list[Row]:
    """Return the rows of other tools' runs, one JSON object a line.

    Each has an arm, a seed, a budget (its name, also as ``macs=0.5``, its table, or its number
    where it has one limit), a validation and a test metric. Where ``share`` is missing it
    follows from the resource.

    Raises:
        SettingError: A file cannot be read, or a row lacks a key or contradicts another one.
    """
    rows: list[Row] = []
    seen = set[tuple[str, str, int]]()
    for path in paths:
        for where, row in _read_lines(path):
            row["budget"] = _find_budget(row["budget"], comparison.budgets, where)
            place = (str(row["budget"]), str(row["arm"]), int(row["seed"]))
            if row["arm"] in comparison.arms or place in seen:
                raise SettingError(
                    f"{where}: want an arm of its own, and each seed and budget of it once, got "
                    f"{row['arm']!r} again"
                )
            seen.add(place)
            budget = comparison.budgets[row["budget"]]
            figures = {key: one for key, one in row.items() if isinstance(one, int | float)}
            rows.append({"share": measure_share(figures, budget, comparison.dense), **row})
    return rows


def summarize_runs(frame: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return a row for each budget and arm, in the order of their first runs.

    Means over seeds: ``evaluations``, ``search_samples``, ``samples``, ``seconds``, ``cpu_s``,
    ``share``, ``val_metric``, ``test_metric``, with the standard errors ``val_se``, ``test_se``.
    ``difference`` is the mean of the test metric less that of ``reference`` at the same seed,
    ``difference_se`` its standard error and ``pairs`` how many seeds both have. ``seeds`` counts
    runs with a finished model. What cannot be known is NaN.
    """
    rows = []
    for (budget, arm), runs in frame.groupby(["budget", "arm"], sort=False):
        base = _by_seed(frame, str(budget), reference)
        pairs = (_by_seed(frame, str(budget), str(arm)) - base).dropna()
        row: Row = {"budget": budget, "arm": arm, "seeds": int(runs["test_metric"].count())}
        row |= {name: runs[name].astype("float64").mean() for name in (*COSTS, "share")}
        for name in ("val", "test"):
            mean, error = average(runs[f"{name}_metric"].dropna())
            row |= {f"{name}_metric": mean, f"{name}_se": error}
        mean, error = (math.nan, math.nan) if arm == reference else average(pairs)
        row |= {"difference": mean, "difference_se": error, "pairs": len(pairs)}
        rows.append(row)
    return pd.DataFrame(rows)


def average(values: "pd.Series[float]") -> tuple[float, float]:
    """Return the mean and its standard error, which takes two values."""
    mean = float(values.mean()) if len(values) else math.nan
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return mean, error


def compare_with_mean(frame: pd.DataFrame, budget: str, reference: str) -> tuple[float, float]:
    """Return the mean of the other arms less ``reference``, paired by seed, and its error.

    Seeds that some arm has not are left out.
    """
    rows = frame[frame["budget"] == budget]
    table = rows.pivot_table(index="seed", columns="arm", values="test_metric", dropna=False)
    others = [arm for arm in table if arm != reference]
    if reference not in table or not others:
        return math.nan, math.nan
    table = table.dropna()
    return average(table[others].mean(axis=1) - table[reference])


def judge(difference: float, error: float, direction: Direction) -> str:
    """Return where the reference is against an arm: ahead, even, behind, or unknown.

    Even is within one standard error; with one seed there is none, and nothing can be said.
    """
    if math.isnan(difference) or math.isnan(error):
        return "unknown"
    if abs(difference) <= error:
        return "even"
    better = difference > 0 if direction == "maximize" else difference < 0
    return "behind" if better else "ahead"


def describe_standing(
    summary: pd.DataFrame, frame: pd.DataFrame, reference: str, direction: Direction
) -> dict[str, str]:
    """Return for each budget a few sentences about the reference against the others."""
    sentences = {}
    for budget, rows in summary.groupby("budget", sort=False):
        others = rows[rows["arm"] != reference]
        places: dict[str, list[str]] = {"ahead": [], "even": [], "behind": [], "unknown": []}
        for arm, difference, error in zip(
            others["arm"], others["difference"], others["difference_se"], strict=True
        ):
            places[judge(difference, error, direction)].append(str(arm))
        texts = {
            "ahead": "ahead of",
            "even": "within one standard error of",
            "behind": "behind",
            "unknown": "not to be told apart (fewer than two common seeds) from",
        }
        parts = [f"{texts[place]} {_join(names)}" for place, names in places.items() if names]
        text = f"{reference} is {'; '.join(parts)}." if parts else f"There is only {reference}."
        mean, error = compare_with_mean(frame, str(budget), reference)
        if not math.isnan(mean):
            text += (
                f" The mean of the others less {reference}, paired by seed: "
                f"{format_difference(mean, error)}."
            )
        sentences[str(budget)] = text
    return sentences


def measure_hypervolumes(frame: pd.DataFrame, direction: Direction) -> pd.DataFrame:
    """Return the hypervolume of each arm and seed that has a model at every budget.

    The area under the front of share and test metric: from share 0 to 1, and from the metric 0,
    or from the worst one of ``frame`` where less is better or a metric is below 0.

    Returns:
        Columns ``arm``, ``seed``, ``hypervolume``.
    """
    sign = -1.0 if direction == "maximize" else 1.0
    costs = sign * frame["test_metric"]
    worst = max(0.0, float(costs.max())) if direction == "maximize" else float(costs.max())
    budgets = frame["budget"].nunique()
    rows = []
    for (arm, seed), runs in frame.assign(cost=costs).groupby(["arm", "seed"], sort=False):
        points = runs[["share", "cost"]].dropna()
        if len(points) == budgets:
            area = measure_hypervolume(points.to_numpy(np.float64), (1.0, worst))
            rows.append({"arm": arm, "seed": seed, "hypervolume": area})
    return pd.DataFrame(rows, columns=["arm", "seed", "hypervolume"])


def find_excess(frame: pd.DataFrame, comparison: Comparison) -> dict[str, list[str]]:
    """Return for each budget the arms with a model that exceeds it, by more than rounding."""
    found: dict[str, list[str]] = {}
    for name, budget in comparison.budgets.items():
        resource = find_resource(budget, comparison.dense)
        limit = getattr(budget, resource) or np.inf
        dense = comparison.dense.list_known().get(resource, np.nan)
        most = limit / dense if limit > 1 else limit
        rows = frame[(frame["budget"] == name) & (frame["share"] > 1.0005 * most)]
        found[name] = [str(arm) for arm in dict.fromkeys(rows["arm"])]
    return found


def has_one_resource(comparison: Comparison) -> bool:
    """Return whether several budgets are all about one resource, so that they make a front."""
    budgets = comparison.budgets.values()
    return len(budgets) > 1 and len({find_resource(b, comparison.dense) for b in budgets}) == 1


def format_difference(value: float, error: float) -> str:
    """Return a difference with its sign and, when there is one, its standard error."""
    if math.isnan(value):
        return "-"
    return f"{value:+.4f}" if math.isnan(error) else f"{value:+.4f} ± {error:.4f}"


def _by_seed(frame: pd.DataFrame, budget: str, arm: str) -> "pd.Series[float]":
    rows = frame[(frame["budget"] == budget) & (frame["arm"] == arm)]
    return rows.set_index("seed")["test_metric"]


def _join(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _read_lines(path: Path) -> list[tuple[str, Row]]:
    """Return the rows of a file, each with where it stands."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"--with: cannot read {path}: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise SettingError(f"{where}: want a JSON object, got no JSON: {error}") from error
        if not isinstance(row, dict):
            raise SettingError(f"{where}: want a JSON object, got {row!r}")
        missing = [key for key in NEEDED if row.get(key) is None]
        if missing:
            raise SettingError(f"{where}: want {', '.join(NEEDED)}, got no {missing[0]}")
        row = {key: one for key, one in row.items() if one is not None}
        for key in {one.name for one in RUN_COLUMNS if one.kind != "text"} & row.keys():
            if not isinstance(row[key], int | float):
                raise SettingError(f"{where}: want a number for {key}, got {row[key]!r}")
        found.append((where, row))
    return found


def _find_budget(value: object, budgets: Mapping[str, Budget], where: str) -> str:
    """Return the name of the budget that a row means."""
    found = []
    for name, budget in budgets.items():
        said = {key: one for key, one in vars(budget).items() if one not in (None, "")}
        alone = [*said.values()] if len(said) == 1 else []
        written = value.replace("=", "") if isinstance(value, str) else value
        if written in (name, said) or [value] == alone:
            found.append(name)
    if len(found) != 1:
        raise SettingError(f"{where}: want one budget of {', '.join(budgets)}, got {value!r}")
    return found[0]
