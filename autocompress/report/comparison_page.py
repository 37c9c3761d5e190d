"""The tables and the picture of a comparison."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autocompress.report.comparison import (
    average,
    describe_standing,
    find_excess,
    format_difference,
    has_one_resource,
    measure_hypervolumes,
    summarize_runs,
)
from autocompress.report.frames import Direction
from autocompress.report.page import format_metric
from autocompress.report.plots import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    VIOLET,
    make_figure,
    say_nothing,
    short_count,
)
from autocompress.search.compare import Comparison, find_resource
from autocompress.train.loop import TrainSettings

COLORS = (ORANGE, BLUE, GREEN, VIOLET, "#c2476b", "#3a9aa8", "#8a6d3b", INK)
DASHES = ("-", "--", ":")
HEAD = (
    "arm", "seeds", "evaluations", "search samples", "all samples", "wall s", "CPU s",
    "validation {metric}", "test {metric}", "test less {reference}", "share of {resource}",
)  # fmt: skip
SHORT_HEAD = (*HEAD[:7], "validation", "test", "test less reference", "share")
LEGEND = (
    "Means over seeds ± their standard error. Samples went through the network: a forward pass "
    "counts 1, a training pass 3; those of the search are of its fast evaluations, all samples "
    "also of the models of rounds and the finished ones, but not of the dense model. Wall and CPU "
    "seconds are of the evaluations of one run, added up; one that several runs share counts in "
    "each. The difference is of seeds that both have. The share is what the finished model has "
    "of the dense one's {resource}."
)


def list_tables(
    frame: pd.DataFrame, comparison: Comparison
) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Return for each budget the head and the rows of its table.

    Args:
        frame: All runs, see ``make_runs_frame``.
        comparison: What they are of.
    """
    summary = summarize_runs(frame, comparison.reference)
    tables = {}
    for budget, rows in summary.groupby("budget", sort=False):
        words = {
            "metric": comparison.settings.task.metric,
            "reference": comparison.reference,
            "resource": find_resource(comparison.budgets[str(budget)], comparison.dense),
        }
        head = [one.format(**words) for one in HEAD]
        tables[str(budget)] = head, [_list_cells(row) for row in rows.to_dict(orient="records")]
    return tables


def list_hypervolumes(
    frame: pd.DataFrame, comparison: Comparison
) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of hypervolumes.

    No rows where budgets make no front, or while there is no run of some.
    """
    head = ["arm", "seeds", "hypervolume", f"less {comparison.reference}"]
    if not has_one_resource(comparison) or {*comparison.budgets} > {*frame["budget"]}:
        return head, []
    areas = measure_hypervolumes(frame, read_direction(comparison))
    by_arm = {
        str(arm): rows.set_index("seed")["hypervolume"]
        for arm, rows in areas.groupby("arm", sort=False)
    }
    base = by_arm.get(comparison.reference, pd.Series(dtype="float64"))
    rows = []
    for arm, values in by_arm.items():
        pairs = (values - base).dropna()
        same = arm == comparison.reference
        difference = "-" if same else format_difference(*average(pairs))
        rows.append([arm, str(len(values)), format_metric(*average(values)), difference])
    return head, rows


def list_sentences(frame: pd.DataFrame, comparison: Comparison) -> dict[str, str]:
    """Return for each budget where the reference stands."""
    summary = summarize_runs(frame, comparison.reference)
    said = describe_standing(summary, frame, comparison.reference, read_direction(comparison))
    for budget, arms in find_excess(frame, comparison).items():
        if arms:
            said[budget] += f" Beyond this budget: {', '.join(arms)}."
    return said


def read_direction(comparison: Comparison) -> Direction:
    """Return in which direction the metric is better."""
    return comparison.settings.task.metric_direction


def write_markdown(frame: pd.DataFrame, comparison: Comparison, picture: str = "") -> str:
    """Return a page with all tables.

    Args:
        frame: All runs.
        comparison: What they are of.
        picture: File beside the page with the figure; empty for none.
    """
    full = comparison.settings.evaluate.full
    lengths = {"method": full.prune, "retraining": full.retrain, "at the end": full.final}
    resources = {find_resource(one, comparison.dense) for one in comparison.budgets.values()}
    parts = [
        f"# Comparison {comparison.settings.name}",
        f"Seeds {', '.join(map(str, comparison.seeds))}. Models are finished with "
        f"{_name_epochs(lengths)}, unless an arm says otherwise.",
    ]
    sentences = list_sentences(frame, comparison)
    for budget, (head, rows) in list_tables(frame, comparison).items():
        parts += [f"## Budget {budget}", _make_table(head, rows), sentences[budget]]
    head, rows = list_hypervolumes(frame, comparison)
    if rows:
        parts += [
            "## All budgets",
            _make_table(head, rows),
            "The hypervolume is the area under the front of share and test metric.",
        ]
    if picture:
        parts.append(f"![One line per arm, one standard error on either side]({picture})")
    parts.append(LEGEND.format(resource=" or ".join(sorted(resources))))
    return "\n\n".join(parts) + "\n"


def draw_comparison(frame: pd.DataFrame, comparison: Comparison) -> Figure:
    """Return a line for each arm over the budgets; for one budget a point for each arm."""
    is_front = has_one_resource(comparison)
    arms = list(dict.fromkeys(frame["arm"]))
    figure, axes = make_figure(max(3.9 if is_front else 2.4, 1.2 + 0.3 * len(arms)))
    finished = frame[frame["test_metric"].notna()]
    if not len(finished):
        say_nothing(axes, "no finished model yet")
        return figure
    name = f"test {comparison.settings.task.metric}"
    if is_front:
        figure.set_figwidth(8.4)
        _draw_lines(axes, finished, arms, comparison.reference)
        resource = find_resource(next(iter(comparison.budgets.values())), comparison.dense)
        axes.set_xlabel(f"share of the dense model's {resource}")
        axes.set_ylabel(name)
        figure.legend(frameon=False, fontsize=8.5, loc="outside right upper")
    else:
        _draw_points(axes, finished, arms, comparison)
        axes.set_xlabel(name)
    return figure


def _draw_lines(axes: Axes, frame: pd.DataFrame, arms: Sequence[str], reference: str) -> None:
    for place, arm in enumerate(arms):
        runs = frame[frame["arm"] == arm]
        points = [
            (rows["share"].mean(), *average(rows["test_metric"]))
            for _, rows in runs.groupby("budget", sort=False)
        ]
        if not points:
            continue
        x, mean, error = np.array(sorted(points)).T
        color = COLORS[place % len(COLORS)]
        dash = DASHES[place // len(COLORS) % len(DASHES)]
        is_reference = arm == reference
        axes.plot(
            x, mean, color=color, ls=dash, lw=2.4 if is_reference else 1.3, marker="o", ms=4,
            label=arm, zorder=4 if is_reference else 3,
        )  # fmt: skip
        spread = np.nan_to_num(error)
        axes.fill_between(x, mean - spread, mean + spread, color=color, alpha=0.13, lw=0)


def _draw_points(
    axes: Axes, frame: pd.DataFrame, arms: Sequence[str], comparison: Comparison
) -> None:
    """Draw each arm's runs, and its mean with one standard error; budgets below each other."""
    labels, place = [], 0
    for budget in comparison.budgets:
        for arm in arms:
            rows = frame[(frame["arm"] == arm) & (frame["budget"] == budget)]
            if not len(rows):
                continue
            values = rows["test_metric"]
            mean, error = average(values)
            axes.scatter(values, [place] * len(values), s=14, color=GREY, lw=0, zorder=2)
            color = ORANGE if arm == comparison.reference else BLUE
            axes.errorbar(
                mean, place, xerr=None if np.isnan(error) else error, fmt="o", ms=5, color=color,
                capsize=3, zorder=3,
            )  # fmt: skip
            labels.append(arm if len(comparison.budgets) == 1 else f"{arm}, {budget}")
            place += 1
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_title("each run, and means ± one standard error", fontsize=10, loc="left", color=INK)


def _list_cells(row: Mapping[Hashable, Any]) -> list[str]:
    def count(name: str) -> str:
        return "-" if np.isnan(row[name]) else short_count(row[name])

    def seconds(name: str) -> str:
        value = row[name]
        if np.isnan(value):
            return "-"
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

    share = "-" if np.isnan(row["share"]) else f"{row['share']:.1%}"
    return [
        str(row["arm"]),
        f"{row['seeds']:.0f}",
        "-" if np.isnan(row["evaluations"]) else f"{row['evaluations']:.4g}",
        *(count(name) for name in ("search_samples", "samples")),
        *(seconds(name) for name in ("seconds", "cpu_s")),
        format_metric(row["val_metric"], row["val_se"]),
        format_metric(row["test_metric"], row["test_se"]),
        format_difference(row["difference"], row["difference_se"]),
        share,
    ]


def _make_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _name_epochs(lengths: Mapping[str, TrainSettings]) -> str:
    words = {name: "epoch" if one.epochs == 1 else "epochs" for name, one in lengths.items()}
    return ", ".join(f"{one.epochs:g} {words[name]} ({name})" for name, one in lengths.items())
