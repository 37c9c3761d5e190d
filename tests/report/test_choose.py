import pytest

from autocompress.report.choose import select_rows
from autocompress.report.frames import trials_frame
from tests.synthetic import make_study


def test_a_finished_model_within_the_limits_is_preferred() -> None:
    frame = trials_frame(make_study())

    rows = select_rows(frame, limits={"macs": 200_000})

    assert rows["number"].tolist() == [60, 61]


def test_estimates_are_taken_when_no_finished_model_qualifies() -> None:
    frame = trials_frame(make_study())

    rows = select_rows(frame, limits={}, worst_metric=0.5).head(1)
    none = select_rows(frame[frame["stage"] == "fast"], limits={}, worst_metric=0.5)

    assert rows["stage"].tolist() == ["full"]
    assert set(none["stage"]) == {"fast"}
    assert none["val_metric"].is_monotonic_decreasing


@pytest.mark.parametrize("limits", [{"macs": 1.0}, {"weights": 0.0}])
def test_out_of_reach_selects_nothing(limits: dict[str, float]) -> None:
    assert len(select_rows(trials_frame(make_study()), limits=limits)) == 0


def test_a_metric_to_lower_is_selected_lowest_first() -> None:
    frame = trials_frame(make_study(direction="minimize"))

    rows = select_rows(frame, limits={}, worst_metric=0.7, direction="minimize", stage="fast")

    assert (rows["val_metric"] <= 0.7).all()
    assert rows["val_metric"].is_monotonic_increasing
