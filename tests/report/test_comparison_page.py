import numpy as np
import pytest

from autocompress.report.comparison import make_runs_frame
from autocompress.report.comparison_page import (
    draw_comparison,
    list_hypervolumes,
    list_tables,
    write_markdown,
)
from autocompress.search.compare import Comparison
from tests.duels import plan_duel

ONE = ("budgets = [{ macs = 0.5 }, { macs = 0.3 }]", "budgets = [{ macs = 0.5 }]")
BUDGETS = {"macs0.5": (0.5, 0.9), "macs0.3": (0.3, 0.7)}
ARMS = {"random-magnitude": 0.0, "random-admm": 0.02, "peer": -0.02}
ROWS = [
    {
        "budget": budget, "arm": arm, "seed": seed, "share": share, "val_metric": metric,
        "test_metric": metric + gain + 0.01 * seed, "seconds": 1234.5, "samples": 25_000,
    }
    for budget, (share, metric) in BUDGETS.items()
    for arm, gain in ARMS.items()
    for seed in (0, 1)
]  # fmt: skip
FRAME = make_runs_frame(ROWS)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return plan_duel(tmp_path_factory.mktemp("duel"))


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return plan_duel(tmp_path_factory.mktemp("single"), ONE)


def test_a_table_has_a_row_for_each_arm_and_the_difference_its_sign(
    comparison: Comparison,
) -> None:
    tables = list_tables(FRAME, comparison)

    assert list(tables) == list(BUDGETS)
    head, rows = tables["macs0.5"]
    assert [row[0] for row in rows] == list(ARMS)
    cells = [dict(zip(head, row, strict=True)) for row in rows]
    assert [one["test less random-magnitude"] for one in cells] == [
        "-", "+0.0200 ± 0.0000", "-0.0200 ± 0.0000",
    ]  # fmt: skip
    assert cells[0]["test accuracy"] == "0.9050 ± 0.0050"
    assert (cells[0]["wall s"], cells[0]["all samples"], cells[0]["CPU s"]) == (
        "1,234",
        "25k",
        "-",
    )
    assert cells[0]["share of macs"] == "50.0%"


def test_hypervolumes_are_of_several_budgets_of_one_resource(
    comparison: Comparison, single: Comparison
) -> None:
    _, rows = list_hypervolumes(FRAME, comparison)

    assert [row[0] for row in rows] == list(ARMS)
    gain = 0.7 * 0.02  # On the whole front, from share 0.3 on.
    assert rows[1][3] == f"{gain:+.4f} ± 0.0000"
    assert list_hypervolumes(FRAME, single)[1] == []
    part = FRAME[FRAME["budget"] == "macs0.5"]  # As after the first budget of a comparison.
    assert list_hypervolumes(part, comparison)[1] == []


def test_the_page_holds_every_cell_and_says_where_the_reference_is(
    comparison: Comparison,
) -> None:
    page = write_markdown(FRAME, comparison, "compare.png")

    for head, rows in list_tables(FRAME, comparison).values():
        for cells in (head, *rows):
            assert f"| {' | '.join(cells)} |" in page
    assert page.count("random-magnitude is ahead of peer; behind random-admm.") == 2
    assert "Seeds 0, 1." in page
    assert "0 epochs (method), 1 epoch" in page
    assert "](compare.png)" in page


def test_each_arm_is_a_line_inside_a_band_of_one_standard_error(comparison: Comparison) -> None:
    axes = draw_comparison(FRAME, comparison).axes[0]

    assert [line.get_label() for line in axes.lines] == list(ARMS)
    for line, band, gain in zip(axes.lines, axes.collections, ARMS.values(), strict=True):
        drawn = np.array([line.get_xdata(), line.get_ydata()]).T
        assert drawn == pytest.approx(
            np.array([[0.3, 0.7 + gain + 0.005], [0.5, 0.9 + gain + 0.005]])
        )
        heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
        assert (min(heights), max(heights)) == pytest.approx((0.7 + gain, 0.91 + gain))


def test_with_one_budget_each_run_is_a_point(single: Comparison) -> None:
    frame = FRAME[FRAME["budget"] == "macs0.5"]

    axes = draw_comparison(frame, single).axes[0]

    assert [label.get_text() for label in axes.get_yticklabels()] == list(ARMS)
    points = [tuple(p) for one in axes.collections for p in np.asarray(one.get_offsets())]
    assert {(0.9, 0.0), (0.91, 0.0)} <= {(round(float(x), 6), float(y)) for x, y in points}


def test_nothing_finished_is_said(comparison: Comparison) -> None:
    frame = make_runs_frame([{**ROWS[0], "test_metric": None, "val_metric": None}])

    figure = draw_comparison(frame, comparison)

    assert [text.get_text() for text in figure.axes[0].texts] == ["no finished model yet"]
    assert "| - |" in write_markdown(frame, comparison)
