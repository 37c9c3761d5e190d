"""Several studies of one search, such as of three seeds: their mean, and a band around it."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from autocompress.report.frames import OBJECTIVES, Direction, find_best
from autocompress.report.plots import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    label_axes,
    make_figure,
    say_nothing,
    scale_by_range,
)

Frames = Mapping[str, pd.DataFrame]
Floats = NDArray[np.float64]

STEPS = 400  # Points of a mean front.


def trace_best(frame: pd.DataFrame) -> Floats:
    """Return the lowest energy of the round so far, by fast evaluations in order of decision.

    Each base model begins anew: energies of different rounds are not comparable. NaN until the
    round has a finite one.
    """
    rows = frame[(frame["stage"] == "fast") & frame["seq"].notna()].sort_values("seq")
    energy = rows["energy"].where(np.isfinite(rows["energy"]), np.inf)
    best = energy.groupby([rows["round"], rows["base"]]).cummin().to_numpy(np.float64)
    return np.where(np.isfinite(best), best, np.nan)


def make_band(traces: Sequence[Floats]) -> pd.DataFrame:
    """Return mean, lowest and highest of ``traces`` as far as the shortest goes.

    Returns:
        A row for each evaluation, from 1: ``evaluations``, ``mean``, ``low``, ``high``.
    """
    length = min((len(trace) for trace in traces), default=0)
    values = np.stack([trace[:length] for trace in traces]) if length else np.zeros((1, 0))
    return pd.DataFrame(
        {
            "evaluations": np.arange(1, length + 1),
            "mean": values.mean(axis=0),
            "low": values.min(axis=0),
            "high": values.max(axis=0),
        }
    )


def make_front_band(
    frames: Sequence[pd.DataFrame],
    objectives: Sequence[str] = OBJECTIVES,
    *,
    direction: Direction = "maximize",
    stage: str | None = None,
) -> pd.DataFrame:
    """Return what the first objective reaches within each amount of the second.

    Args:
        frames: Of each study, from ``trials_frame``.
        objectives: What is traded against each other; two, the second better when less.
        direction: In which direction the task's metric is better.
        stage: As for ``find_best``.

    Returns:
        The second objective, where every study has something, and ``mean``, ``low`` and
        ``high`` of the best values of the first.
    """
    fronts = [find_best(one, objectives, direction=direction, stage=stage) for one in frames]
    fronts = [one for one in fronts if len(one)]
    columns = [objectives[1], "mean", "low", "high"]
    if not fronts:
        return pd.DataFrame(columns=columns, dtype="float64")
    ends = [one[objectives[1]].to_numpy(np.float64) for one in fronts]
    start, end = max(one[0] for one in ends), max(one[-1] for one in ends)
    grid = np.unique(np.concatenate([np.linspace(start, end, STEPS), *ends]))
    grid = grid[grid >= start]
    # Fronts are ordered by the second objective, so the first one only gets better along them.
    values = [
        one[objectives[0]].to_numpy(np.float64)[x.searchsorted(grid, side="right") - 1]
        for one, x in zip(fronts, ends, strict=True)
    ]
    stacked = np.stack(values)
    table = (grid, stacked.mean(axis=0), stacked.min(axis=0), stacked.max(axis=0))
    return pd.DataFrame(dict(zip(columns, table, strict=True)))


def draw_band(frames: Frames) -> Figure:
    """Return the best energy so far of each study, by evaluations, and their mean and range."""
    figure, axes = make_figure()
    traces = {name: trace_best(frame) for name, frame in frames.items()}
    traces = {name: trace for name, trace in traces.items() if len(trace)}
    if not traces:
        say_nothing(axes, "no decision yet")
        return figure
    for place, trace in enumerate(traces.values()):
        label = None if place else "each study"
        axes.step(np.arange(1, len(trace) + 1), trace, where="post", color=GREY, lw=1, label=label)
    band = make_band(list(traces.values()))
    _fill(axes, band, "evaluations", BLUE)
    scale_by_range(axes, np.concatenate(list(traces.values())), "y")
    axes.set_xlabel("evaluations")
    axes.set_ylabel("best energy of the round")
    axes.legend(frameon=False, fontsize=8.5, loc="best")
    return figure


def draw_fronts(
    frames: Frames,
    *,
    objectives: Sequence[str] = OBJECTIVES,
    direction: Direction = "maximize",
    stage: str | None = None,
) -> Figure:
    """Return the fronts of all studies over each other, with their mean and range.

    Args:
        frames: By name of the study, from ``trials_frame``.
        objectives: The columns on the y and on the x axis.
        direction: In which direction the task's metric is better.
        stage: Whose front, as for ``find_best``; finished models are drawn beside it.
    """
    name_y, name_x = objectives
    figure, axes = make_figure()
    for place, frame in enumerate(frames.values()):
        front = find_best(frame, objectives, direction=direction, stage=stage)
        if len(front):
            label = None if place else "each study"
            axes.step(
                front[name_x], front[name_y], where="post", color=GREY, lw=1, marker=".", ms=4,
                label=label,
            )  # fmt: skip
    band = make_front_band(list(frames.values()), objectives, direction=direction, stage=stage)
    _fill(axes, band, name_x, ORANGE)
    finished = [
        find_best(one, objectives, direction=direction, stage="full") for one in frames.values()
    ]
    models = pd.concat(finished)
    axes.scatter(
        models[name_x], models[name_y], s=110, marker="*", color=GREEN, lw=0, zorder=4,
        label="finished model" if len(models) else None,
    )  # fmt: skip
    label_axes(axes, name_x, name_y)
    scale_by_range(axes, np.concatenate([models[name_x], band[name_x]]).astype(np.float64), "x")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8.5, loc="best")
    else:
        say_nothing(axes, "no feasible trial yet")
    return figure


def _fill(axes: Axes, band: pd.DataFrame, name_x: str, color: str) -> None:
    """Draw the mean of ``band`` and fill between its lowest and highest values."""
    if len(band):
        x = band[name_x]
        axes.fill_between(x, band["low"], band["high"], step="post", color=color, alpha=0.2, lw=0)
        axes.step(
            x, band["mean"], where="post", color=color, lw=1.8, label="mean, lowest to highest"
        )
