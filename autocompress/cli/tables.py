"""Tables of trials for a terminal; loads pandas."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
import pandas as pd

from autocompress.cli.find import Found
from autocompress.cli.screen import print_pairs, print_table
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


def print_trials(title: str, rows: pd.DataFrame) -> None:
    """Print the most telling columns of ``rows``, ``SHOWN`` of them at most."""
    shown = rows.head(SHOWN)
    cells = [
        (
            f"{row['number']:.0f}",
            stage,
            f"{row['round']:.0f}",
            format_metric(row["val_metric"]),
            format_metric(row["test_metric"], row["test_se"]),
            format_count(row["weights"]),
            format_count(row["macs"]),
            format_count(row["bytes"]),
        )
        for row, stage in zip(list_figures(shown), shown["stage"], strict=True)
    ]
    more = "" if len(rows) <= SHOWN else f", the first {SHOWN} of {len(rows)}"
    print_table(f"{title}{more}", HEAD, cells)


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
        command = f"autocompress finalize {name} --storage {url} --trial {number}"
        print_pairs({"an estimate; finish it with": command})


def rank_candidates(study: optuna.Study) -> list[int]:
    """Return the numbers of the last round's scored candidates, each once, best first."""
    frame = trials_frame(study)
    rows = frame[(frame["stage"] == "fast") & frame["feasible"]]
    rows = rows[rows["round"] == rows["round"].max()].sort_values("energy", kind="stable")
    return [int(number) for number in rows.drop_duplicates("key")["number"]]


def list_status(found: Found) -> dict[str, str]:
    """Return how far a study is, by what it says."""
    frame = trials_frame(found.study)
    states = frame["state"].value_counts()
    fast = frame[(frame["stage"] == "fast") & (frame["state"] == "complete")]
    finished = find_finished(frame, read_direction(found.study))
    pairs = {
        "study": found.settings.name,
        "storage": found.settings.storage,
        "run folder": str(found.folder.root),
        "trials": ", ".join(f"{count} {state}" for state, count in states.items()) or "none",
        "candidates scored": f"{len(fast)}",
        "moves accepted": f"{fast['accepted'].mean():.0%}" if len(fast) else "-",
        "round": f"{frame['round'].max() + 1}" if frame["round"].notna().any() else "-",
        "best energy": f"{fast['energy'].min():.4g}" if len(fast) else "-",
        "finished models": f"{len(finished)}",
    }
    for row in list_figures(finished):
        metric = format_metric(row["test_metric"], row["test_se"])
        pairs[f"model of trial {row['number']:.0f}"] = (
            f"test {found.settings.task.metric} {metric}, {format_count(row['weights'])} weights"
        )
    return pairs


def write_plot(
    path: Path, frame: pd.DataFrame, objectives: Sequence[str], direction: Direction
) -> None:
    """Write a figure of the front.

    Raises:
        SettingError: There are not two objectives.
    """
    if len(objectives) != 2:
        raise SettingError(f"--png: want two objectives, got {len(objectives)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_front(frame, objectives=objectives, direction=direction).savefig(path, dpi=160)
