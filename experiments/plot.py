"""Draw the figures of the experiments from the rows beside them.

python -m experiments.plot [NAME ...]

Each goes to plot.png in the folder of its experiment. The figures of comparisons (compare.png)
are drawn by `autocompress compare` itself.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from autocompress.report.plots import BLUE, GREEN, GREY, INK, ORANGE, VIOLET, make_figure
from experiments.fast_score.collect import correlate

HERE = Path(__file__).parent
DPI = 130


def main() -> None:
    """Draw what was asked for, or all."""
    for name in sys.argv[1:] or FIGURES:
        path = HERE / name / "plot.png"
        FIGURES[name]().savefig(path, dpi=DPI)
        print(path.relative_to(HERE.parent))


def read_rows(path: str) -> pd.DataFrame:
    """Return the lines of a file of JSON lines."""
    lines = (HERE / path).read_text(encoding="utf-8").splitlines()
    return pd.DataFrame([json.loads(line) for line in lines])


def draw_ladder() -> Figure:
    """Return how well each rung of the ladder ranks candidates, with intervals of 95 %."""
    figure, axes = make_figure()
    titles = {
        "lenet5": ("LeNet-5, MNIST, 1/50 of the weights", BLUE),
        "digits_cnn": ("digits_cnn, 3 % of the weights", GREY),
        "resnet20": ("ResNet-20, CIFAR-10, 1/4 of the MACs", ORANGE),
    }
    labels: list[str] = []
    for model, (title, color) in titles.items():
        rows = read_rows(f"fast_score/{model}.jsonl")
        full = [one for one in rows.columns if one.startswith("full_")]
        target = np.array([[one["val_loss"] for one in rows[run]] for run in full]).mean(0)
        rungs = [one for one in rows.columns if one.startswith("fast_")]
        places = range(len(labels), len(labels) + len(rungs))
        for place, rung in zip(places, rungs, strict=True):
            rho, low, high = correlate(np.array([one["val_loss"] for one in rows[rung]]), target)
            axes.plot([low, high], [place, place], color=color, lw=2)
            axes.scatter([rho], [place], color=color, zorder=3, label=title)
            epochs = rung.removeprefix("fast_")
            labels.append("one shot" if epochs == "0" else f"{epochs} epochs")
        labels.append("")
    show_names(axes, labels)
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_xlabel("Spearman's correlation of fast and full loss (95 % interval)")
    name_once(figure, axes)
    return figure


def draw_searchers() -> Figure:
    """Return the finished models of each searcher, a point for each seed."""
    order = ("guided", "prior", "unguided", "tempering", "tpe", "nsga2", "random", "uniform")
    found = read_rows("search_quality/lenet5.jsonl")
    groups = {one: found[found["variant"] == one] for one in order}
    colors = [ORANGE, *[BLUE] * 3, *[GREY] * 4]
    return draw_strips(groups, colors, "test accuracy, %: LeNet-5 at 1/200 of the weights")


def draw_ablations() -> Figure:
    """Return LeNet-5 finished in several ways and searched over less, a point for each seed."""
    found = read_rows("lenet5_mnist/ablations.jsonl")
    found = found[found["variant"] != "columns only"]  # 95.4 %: off the scale, and said so.
    groups = {str(one): rows for one, rows in found.groupby("variant", sort=False)}
    colors = [ORANGE] + [GREEN if one == "filters only" else BLUE for one in [*groups][1:]]
    label = "test accuracy, %, at 1/150\nof the weights (columns only: 95.4)"
    return draw_strips(groups, colors, label)


def draw_strips(groups: dict[str, pd.DataFrame], colors: Sequence[str], label: str) -> Figure:
    """Return a row of points for each group, and a bar at its mean."""
    figure, axes = make_figure(1.2 + 0.34 * len(groups))
    for place, (rows, color) in enumerate(zip(groups.values(), colors, strict=True)):
        tests = 100 * rows["test_metric"]
        axes.scatter(tests, [place] * len(rows), color=color, alpha=0.75, zorder=3)
        axes.scatter([tests.mean()], [place], color=INK, marker="|", s=260, zorder=4)
    show_names(axes, [*groups])
    axes.set_xlabel(label)
    return figure


def draw_headline() -> Figure:
    """Return points lost over the weights left out: the paper's, ours, and what was wanted."""
    figure, axes = make_figure()
    paper = ((52.2, 0.5, "VGG-16"), (54.2, 0.1, "ResNet-18"))
    for fewer, lost, name in paper:
        axes.scatter([fewer], [-lost], marker="s", color=GREY, label="paper, full training")
        axes.annotate(name, (fewer, -lost), (6, 6), textcoords="offset points", fontsize=8)
    found = read_rows("autocompress_cifar10/results.jsonl")
    titles = {"vgg16_half": ("VGG-16, half width", BLUE), "resnet20": ("ResNet-20", ORANGE)}
    for name, (title, color) in titles.items():
        rows = found[found["name"] == name]
        last = rows.drop_duplicates("seed", keep="last")
        for shown, filled in ((rows.drop(last.index), "none"), (last, color)):
            lost = 100 * (shown["test"] - shown["dense_test"])
            words = f"{title}{', first finish' if filled == 'none' else ''}, ours"
            axes.scatter(
                shown["weights_fewer"], lost, color=color, facecolor=filled, label=words, zorder=3
            )
    for fewer in (20, 4):
        axes.plot([fewer, fewer * 1.35], [-1, -1], color=VIOLET, lw=1.5, label="wanted here")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.set_xticks([4, 10, 20, 50], minor=False)
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    axes.set_xlabel("times fewer weights of convolutions and linear layers")
    axes.set_ylabel("points against the dense model, test")
    name_once(figure, axes)
    return figure


def show_names(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of a figure, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def name_once(figure: Figure, axes: Axes) -> None:
    """Draw a legend that has each label once."""
    handles: dict[str, Any] = {}
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
        handles.setdefault(label, handle)
    figure.legend(
        handles.values(), handles.keys(), frameon=False, fontsize=8, ncols=2,
        loc="outside upper left",
    )  # fmt: skip


FIGURES: dict[str, Callable[[], Figure]] = {
    "autocompress_cifar10": draw_headline,
    "fast_score": draw_ladder,
    "lenet5_mnist": draw_ablations,
    "search_quality": draw_searchers,
}

if __name__ == "__main__":
    main()
