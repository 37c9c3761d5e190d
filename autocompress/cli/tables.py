"""Tables of trials for a terminal; loads pandas."""

from collections.abc import Sequence
from pathlib import Path

import optuna
import pandas as pd

from autocompress.cli.screen import print_table
from autocompress.errors import SettingError
from autocompress.report.frames import (
    OBJECTIVES,
    Direction,
    find_best,
    list_figures,
    read_direction,
    trials_frame,
)
from autocompress.report.page import format_count, format_metric
from autocompress.report.plots import draw_front

SHOWN = 20
HEAD = ("trial", "stage", "round", "val_metric", "test_metric", "weights", "MACs", "bytes")


def find_front_rows(
    study: optuna.Study, objectives: Sequence[str] = OBJECTIVES, stage: str | None = None
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


def write_rows(rows: pd.DataFrame, path: Path) -> None:
    """Write ``rows`` as CSV, Parquet or JSON, as the name of ``path`` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        rows.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        rows.to_parquet(path, index=False)
    else:
        rows.to_json(path, orient="records", indent=1)


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
