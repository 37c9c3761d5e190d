"""Tables of trials for a terminal; loads pandas."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import optuna
import pandas as pd

from autocompress.cli.find import Found, open_found, place_study
from autocompress.cli.place import make_again, name_storage, warn_of_network
from autocompress.cli.screen import print_pairs, print_table
from autocompress.cli.sights import list_head, list_view, view_study
from autocompress.errors import SettingError, StudyError
from autocompress.report.choose import select_rows
from autocompress.report.frames import (
    OBJECTIVES,
    Direction,
    find_best,
    find_finished,
    list_figures,
    read_direction,
    trials_frame,
)
from autocompress.report.page import format_count, format_metric
from autocompress.report.plots import draw_front
from autocompress.report.seeds import draw_fronts

SHOWN = 20
HEAD = ("trial", "stage", "round", "val_metric", "test_metric", "weights", "MACs", "bytes")


def find_front_rows(
    study: optuna.Study, objectives: Sequence[str] = OBJECTIVES, stage: str | None = "models"
) -> tuple[pd.DataFrame, pd.DataFrame, Direction]:
    """Return all trials of ``study``, those on its front, and the direction of the metric.

    Raises:
        SettingError: An objective is unknown.
    """
    frame, direction = trials_frame(study), read_direction(study)
    try:
        return frame, find_best(frame, objectives, direction=direction, stage=stage), direction
    except ValueError as error:
        raise SettingError(f"--{error}") from error


def find_studies(names: Sequence[str], storage: str = "") -> dict[str, Found]:
    """Return stored studies by name, in the order given, each once.

    Args:
        names: Of studies, or settings files.
        storage: Of all of them; empty for that of each.

    Raises:
        StudyError: One is missing.
        SettingError: Two differ in the direction of their metric.
    """
    found: dict[str, Found] = {}
    places = {name: place_study(name, storage) for name in names}
    for url in dict.fromkeys(one.storage for one in places.values()):
        warn_of_network(url)
    for name, place in places.items():
        one = open_found(place)
        # Two settings files may give different studies one name.
        found[name if one.settings.name in found else one.settings.name] = one
    directions = {name: read_direction(one.study) for name, one in found.items()}
    if len(set(directions.values())) > 1:
        each = ", ".join(f"{name}: {direction}" for name, direction in directions.items())
        raise SettingError(f"studies: want one direction of the metric, got {each}")
    return found


def list_fronts(
    found: Mapping[str, Found], objectives: Sequence[str], stage: str | None
) -> pd.DataFrame:
    """Return the rows on the front of each study; of several, ``study`` names it.

    Raises:
        SettingError: An objective is unknown.
    """
    parts = []
    for name, one in found.items():
        rows = find_front_rows(one.study, objectives, stage)[1]
        if len(found) > 1:
            rows.insert(0, "study", name)
        parts.append(rows)
    return pd.concat(parts, ignore_index=True)


def print_sensitivity(name: str, rows: pd.DataFrame) -> None:
    """Print what :func:`autocompress.report.sensitivity.sensitivity_frame` found."""
    head = ("density", "energy if halved", "rank correlation", "lowest", "highest")
    cells = [
        (
            str(row["density"]),
            *(
                "-" if math.isnan(row[key]) else f"{row[key]:+.3g}"
                for key in ("per_halving", "correlation")
            ),
            *(f"{row[key]:.3g}" for key in ("lowest", "highest")),
        )
        for _, row in rows.iterrows()
    ]
    trials = int(rows["trials"].max()) if len(rows) else 0
    where = f", round {rows['round'].iloc[0]}" if trials else ""
    print_table(f"Energy of {name} by density: {trials} evaluations{where}", head, cells)
    explained = float(rows["explained"].iloc[0]) if len(rows) else math.nan
    trust = (
        "too few evaluations for slopes"
        if math.isnan(explained)
        else f"the slopes predict {explained:.0%} of the variance of stretches left out"
    )
    print_pairs({"seen where the search went, not measured layer by layer": trust})


def print_trials(title: str, rows: pd.DataFrame) -> None:
    """Print the most telling columns of ``rows``, ``SHOWN`` of them at most."""
    shown = rows.head(SHOWN)
    named = ["" for _ in shown.index] if "study" not in shown else [*shown["study"]]
    is_fine = any(str(name).startswith(("weights/", "bits/")) for name in shown)
    is_timed = bool(shown["latency"].notna().any())
    head = (*HEAD, *(["coded bytes"] if is_fine else []), *(["latency (us)"] if is_timed else []))
    cells = [
        (
            f"{name} {row['number']:.0f}".strip(),
            stage,
            f"{row['round']:.0f}",
            format_metric(row["val_metric"]),
            format_metric(row["test_metric"], row["test_se"]),
            format_count(row["weights"]),
            format_count(row["macs"]),
            format_count(row["bytes"]),
            *([format_count(row["coded_bytes"])] if is_fine else []),
            *([format_count(row["latency"])] if is_timed else []),
        )
        for name, row, stage in zip(named, list_figures(shown), shown["stage"], strict=True)
    ]
    more = "" if len(rows) <= SHOWN else f", the first {SHOWN} of {len(rows)}"
    print_table(f"{title}{more}", head, cells)


def write_rows(rows: pd.DataFrame, path: Path, kind: str) -> None:
    """Write ``rows`` as ``csv``, ``parquet`` or ``json``; a folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "csv":
        rows.to_csv(path, index=False)
    elif kind == "parquet":
        rows.to_parquet(path, index=False)
    else:
        rows.to_json(path, orient="records", indent=1)


def print_selected(
    found: Found, *, limits: Mapping[str, float], worst_metric: float | None, stage: str | None
) -> None:
    """Print the best trials within limits and where the first one's model lies.

    Raises:
        StudyError: No trial is within the limits.
    """
    rows = select_rows(
        trials_frame(found.study),
        limits=limits,
        worst_metric=worst_metric,
        direction=read_direction(found.study),
        stage=stage,
    )
    if len(rows) == 0:
        raise StudyError(
            f"study {found.settings.name!r}: no trial is within these limits; allow more, or "
            "search with a lower budget"
        )
    print_trials("Within the limits, best first", rows)
    number, artifact = int(rows["number"].iloc[0]), str(rows["artifact"].iloc[0])
    if rows["stage"].iloc[0] == "full" and artifact:
        print_pairs({f"model of trial {number}": str(found.folder.path(artifact))})
    else:
        name, url = found.settings.name, found.settings.storage
        command = f"autocompress finalize {name}{name_storage(url)} --trial {number}"
        print_pairs({"an estimate; finish it with": make_again(command)})


def rank_candidates(study: optuna.Study) -> list[int]:
    """Return the numbers of the last round's scored candidates, each once, best first."""
    frame = trials_frame(study)
    rows = frame[(frame["stage"] == "fast") & frame["feasible"]]
    rows = rows[rows["round"] == rows["round"].max()].sort_values("energy", kind="stable")
    return [int(number) for number in rows.drop_duplicates("key")["number"]]


def list_status(found: Found, now: datetime) -> dict[str, str]:
    """Return how far a study is at a moment with a time zone, by what it says."""
    frame = trials_frame(found.study)
    states = frame["state"].value_counts()
    fast = frame[(frame["stage"] == "fast") & (frame["state"] == "complete")]
    finished = find_finished(frame, read_direction(found.study))
    pairs = {
        **list_head(found),
        **list_view(view_study(found, now)),
        "trials": ", ".join(f"{count} {state}" for state, count in states.items()) or "none",
        "candidates scored": f"{len(fast)}",
        "moves accepted": f"{fast['accepted'].mean():.0%}" if len(fast) else "-",
        "finished models": f"{len(finished)}",
    }
    attrs = found.study.user_attrs
    if "source" in attrs:
        pairs["begun from"] = attrs["source"]["study"]
    if "extra_evaluations" in attrs:
        pairs["extended by"] = f"{attrs['extra_evaluations']} evaluations"
    if "finalize_top" in attrs:
        pairs["models wanted"] = f"{attrs['finalize_top']}"
    for row in list_figures(finished):
        metric = format_metric(row["test_metric"], row["test_se"])
        pairs[f"model of trial {row['number']:.0f}"] = (
            f"test {found.settings.task.metric} {metric}, {format_count(row['weights'])} weights"
        )
    return pairs


def write_plot(
    path: Path, found: Mapping[str, Found], objectives: Sequence[str], stage: str | None
) -> None:
    """Write a figure of the front, of several studies with their mean and range.

    Raises:
        SettingError: There are not two objectives.
    """
    if len(objectives) != 2:
        raise SettingError(f"--png: want two objectives, got {len(objectives)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = {name: trials_frame(one.study) for name, one in found.items()}
    direction = read_direction(next(iter(found.values())).study)
    if len(frames) == 1:
        (frame,) = frames.values()
        figure = draw_front(frame, objectives=objectives, direction=direction)
    else:
        figure = draw_fronts(frames, objectives=objectives, direction=direction, stage=stage)
    figure.savefig(path, dpi=160)
