import io

import numpy as np
import pytest
from matplotlib.figure import Figure

from autocompress.report.frames import trials_frame
from autocompress.report.plots import draw_annealing, draw_densities, draw_front, short_count
from tests.synthetic import make_study


def render(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    return buffer.getvalue()


@pytest.mark.parametrize("trials", [0, 1, 2, 30])
def test_figures_of_any_number_of_trials_are_drawn(trials: int) -> None:
    frame = trials_frame(make_study(trials, finished=0))

    for figure in (draw_front(frame), draw_annealing(frame)):
        assert render(figure).startswith(b"\x89PNG")


def test_the_front_is_drawn_over_other_objectives() -> None:
    frame = trials_frame(make_study(30))

    figure = draw_front(frame, objectives=("val_loss", "macs"), direction="minimize")

    assert figure.axes[0].get_xlabel() == "MACs per sample"
    assert render(figure)


def test_a_missing_density_has_no_bar() -> None:
    figure = draw_densities({"filters/a": 0.5, "columns/a": 0.25, "columns/b": 1.0}, "model")

    widths = sorted(float(bar.get_width()) for bar in figure.axes[0].patches)  # type: ignore[attr-defined]
    np.testing.assert_allclose(widths, [0.25, 0.5, 1.0])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.05, "0.05"), (999, "999"), (1250, "1.25k"), (3.1e9, "3.1G")],
)
def test_short_counts_have_three_digits(value: float, text: str) -> None:
    assert short_count(value) == text
