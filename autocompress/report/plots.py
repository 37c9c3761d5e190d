"""Figures of a study, drawn with matplotlib without a display; the caller closes them."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

from autocompress.report.frames import OBJECTIVES, Direction, find_best

BLUE, ORANGE, GREEN = "#3b6fb6", "#d9742b", "#2f8f5b"
VIOLET, GREY, INK = "#7b5ea7", "#b3bac4", "#28323f"
STAGES: Mapping[str, tuple[str, str, str]] = {
    "fast": ("fast estimate", "o", BLUE),
    "round": ("retrained after a round", "D", VIOLET),
    "full": ("finished model", "*", GREEN),
}
LABELS = {
    "val_metric": "validation metric",
    "val_loss": "validation loss",
    "test_metric": "test metric",
    "test_loss": "test loss",
    "weights": "weights",
    "params": "parameters",
    "macs": "MACs per sample",
    "bytes": "bytes",
    "coded_bytes": "entropy-coded bytes",
    "latency": "latency (us)",
    "energy": "energy",
}
WIDTH_INCH, HEIGHT_INCH = 6.0, 3.9
PERCENT_METRICS = ("val_metric", "test_metric")
MOST_BARS = 16
WIDE_RANGE = 4.0  # A quotient from which a logarithmic axis reads better.


def draw_front(
    frame: pd.DataFrame,
    *,
    objectives: Sequence[str] = OBJECTIVES,
    direction: Direction = "maximize",
    dense: Mapping[str, float] | None = None,
) -> Figure:
    """Return a scatter of two objectives: all feasible trials, the front as a line.

    Args:
        frame: What ``trials_frame`` gave, or rows of it.
        objectives: The columns on the y and on the x axis.
        direction: In which direction the task's metric is better.
        dense: Figures of the dense model by column name, to mark where it stands.
    """
    name_y, name_x = objectives
    figure, axes = make_figure()
    seen = frame[frame["feasible"].fillna(value=False).astype(bool)]
    points = seen[[name_y, name_x, "stage"]].dropna()
    front = find_best(frame, objectives, direction=direction, stage="models")
    if len(front):
        axes.plot(front[name_x], front[name_y], color=ORANGE, lw=1.6, zorder=2, label="front")
    for stage, (label, marker, color) in STAGES.items():
        rows = points[points["stage"] == stage]
        if len(rows):
            size = {"fast": 14, "round": 36, "full": 150}[stage]
            axes.scatter(
                rows[name_x], rows[name_y], s=size, marker=marker, color=color, label=label,
                alpha=0.45 if stage == "fast" else 1.0, lw=0, zorder=3,
            )  # fmt: skip
    if dense and {name_x, name_y} <= set(dense):
        axes.scatter(
            dense[name_x],
            dense[name_y],
            s=60,
            marker="s",
            color=INK,
            label="dense model",
            zorder=4,
        )
    label_axes(axes, name_x, name_y)
    _focus_y(axes, points, front, name_y, direction)
    if len(points):
        axes.legend(frameon=False, fontsize=8.5, loc="best")
    else:
        say_nothing(axes, "no feasible trial yet")
    return figure


def draw_annealing(frame: pd.DataFrame) -> Figure:
    """Return the walk of the search: energies in order of decision above the temperature."""
    figure = Figure(figsize=(WIDTH_INCH, HEIGHT_INCH), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1)}, squeeze=True
    )
    rows = frame[(frame["stage"] == "fast") & frame["seq"].notna()].sort_values("seq")
    rows = rows[np.isfinite(rows["energy"])]
    for axes in (top, bottom):
        _style_axes(axes)
    if len(rows) == 0:
        say_nothing(top, "no decision yet")
        return figure
    seq = rows["seq"].to_numpy(dtype=np.float64)
    accepted = rows["accepted"].fillna(value=False).to_numpy(dtype=np.bool_)
    energy = rows["energy"].to_numpy()
    top.scatter(seq[~accepted], energy[~accepted], s=12, color=GREY, lw=0, label="rejected")
    top.scatter(seq[accepted], energy[accepted], s=16, color=BLUE, lw=0, label="accepted")
    rounds = list(rows.groupby(rows["round"].fillna(value=0)))
    for place, (_, part) in enumerate(rounds):
        label = None if place else "best of the round"
        best = np.minimum.accumulate(part["energy"].to_numpy())
        top.plot(part["seq"], best, color=ORANGE, lw=1.6, drawstyle="steps-post", label=label)
    bottom.plot(seq, rows["temperature"], color=INK, lw=1.4)
    for axes in (top, bottom):
        for _, part in rounds[1:]:
            axes.axvline(float(part["seq"].iloc[0]) - 0.5, color=GREY, lw=1, ls=":")
    for axes, values in ((top, energy), (bottom, rows["temperature"].to_numpy())):
        scale_by_range(axes, values, "y")
    top.set_ylabel(LABELS["energy"])
    figure.legend(frameon=False, fontsize=8.5, ncols=3, loc="outside upper right")
    bottom.set_ylabel("temperature")
    bottom.set_xlabel("decision")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def draw_densities(densities: Mapping[str, float], title: str) -> Figure:
    """Return bars of what a model keeps, one row per layer.

    Args:
        densities: Kept shares by ``filters/<group>``, ``columns/<layer>`` and
            ``weights/<layer>``, in (0, 1]; widths by ``bits/<layer>``.
        title: Which model this is.
    """
    names = list(dict.fromkeys(name.split("/", 1)[1] for name in densities))
    height_inch = max(2.0, 0.9 + 0.34 * len(names))
    figure, axes = make_figure(height_inch)
    rows = np.arange(len(names))
    kinds = [("filters", BLUE), ("columns", ORANGE)]
    kinds += [("weights", GREEN)] if any(one.startswith("weights/") for one in densities) else []
    size = 0.76 / len(kinds)
    for place, (kind, color) in enumerate(kinds):
        offset = (place - (len(kinds) - 1) / 2) * size
        values = np.array([densities.get(f"{kind}/{name}", np.nan) for name in names])
        there = ~np.isnan(values)
        axes.barh(rows[there] + offset, values[there], height=0.95 * size, color=color, label=kind)
        for row, value in zip(rows[there], values[there], strict=True):
            text = f"{value:.1%}" if value < 0.1 else f"{value:.0%}"
            axes.text(value + 0.01, row + offset, text, va="center", fontsize=7.5, color=INK)
    bits = {name: densities.get(f"bits/{name}", np.nan) for name in names}
    axes.set_yticks(
        rows,
        [name if np.isnan(width) else f"{name}, {width:.0f} bits" for name, width in bits.items()],
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("kept share of the dense model")
    axes.set_title(title, fontsize=10, loc="left", color=INK)
    figure.legend(frameon=False, fontsize=8.5, ncols=3, loc="outside upper right")
    return figure


def draw_slopes(sensitivity: pd.DataFrame, most: int = MOST_BARS) -> Figure:
    """Return bars of what halving each density does to the energy, the most harmful first.

    Args:
        sensitivity: What ``measure_sensitivity`` gave.
        most: Densities to draw.
    """
    rows = sensitivity[sensitivity["per_halving"].notna()].head(most)
    figure, axes = make_figure(max(2.0, 0.9 + 0.24 * len(rows)))
    if len(rows) == 0:
        say_nothing(axes, "too few evaluations yet")
        axes.set_yticks([])
        return figure
    parts = [str(name).split("/", 1) for name in rows["density"]]
    places = np.arange(len(rows))
    values = rows["per_halving"].to_numpy(dtype=np.float64)
    kinds = {"filters": BLUE, "columns": ORANGE, "weights": GREEN, "bits": VIOLET}
    for kind, color in kinds.items():
        own = np.array([part[0] == kind for part in parts])
        if kind in ("weights", "bits") and not own.any():
            continue
        axes.barh(places[own], values[own], height=0.7, color=color, label=kind)
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_yticks(places, [part[1] for part in parts])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("change of the energy when the density is halved")
    figure.legend(frameon=False, fontsize=8.5, ncols=2, loc="outside upper right")
    return figure


def make_figure(height_inch: float = HEIGHT_INCH) -> tuple[Figure, Axes]:
    """Return a figure in our style, which no display shows, and its axes."""
    figure = Figure(figsize=(WIDTH_INCH, height_inch), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    _style_axes(axes)
    return figure, axes


def _style_axes(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#e7eaee", lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", labelsize=9, colors=INK)


def label_axes(axes: Axes, name_x: str, name_y: str) -> None:
    """Name both axes, and scale the one across by what was drawn."""
    axes.set_xlabel(LABELS.get(name_x, name_x))
    axes.set_ylabel(LABELS.get(name_y, name_y))
    drawn = [np.asarray(points.get_offsets())[:, 0] for points in axes.collections]
    xs = np.concatenate([np.zeros(0), *drawn])
    scale_by_range(axes, xs, "x")
    if axes.get_xscale() == "linear":
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))


def scale_by_range(axes: Axes, values: np.ndarray, axis: str) -> None:
    """Make an axis logarithmic when its positive values spread over a wide range."""
    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() > 0 and finite.max() > WIDE_RANGE * finite.min():
        (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
        which = axes.xaxis if axis == "x" else axes.yaxis
        which.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
        few_decades = finite.max() < (100 if axis == "x" else 10) * finite.min()
        which.set_minor_formatter(FuncFormatter(_label_some) if few_decades else NullFormatter())


def _label_some(value: float, _: int | None) -> str:
    digit = round(value / 10 ** np.floor(np.log10(value)))
    return short_count(value) if digit in (2, 5) else ""


def _focus_y(
    axes: Axes, points: pd.DataFrame, front: pd.DataFrame, name: str, direction: Direction
) -> None:
    """Leave the worst tenth of the points outside, unless the front is there."""
    values = points[name].to_numpy(dtype=np.float64)
    if len(values) < 20:
        return
    if name in PERCENT_METRICS and direction == "maximize":
        low = min(float(np.quantile(values, 0.1)), float(front[name].min()))
        axes.set_ylim(bottom=low - 0.05 * (axes.get_ylim()[1] - low))
    elif name not in PERCENT_METRICS:
        high = max(float(np.quantile(values, 0.9)), float(front[name].max()))
        axes.set_ylim(top=high + 0.05 * (high - axes.get_ylim()[0]))


def say_nothing(axes: Axes, text: str) -> None:
    """Write why there is nothing to see."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=INK)


def short_count(value: float) -> str:
    """Return ``value`` with at most three digits and k, M or G, such as ``1.25M``."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"
