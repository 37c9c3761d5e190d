import pytest

from autocompress.cli.progress import describe_progress, describe_time, list_figures, show_progress
from autocompress.search.progress import SearchProgress


def test_a_line_says_round_evaluations_best_share_and_time() -> None:
    now = SearchProgress(
        phase="search", round=1, rounds=3, done=12, total=40, best=0.123456, accepted_share=0.25,
        left_s=75.0,
    )  # fmt: skip

    assert describe_progress(now) == (
        "round 2 of 3, scoring candidates, 12 of 40 evaluations, best energy 0.1235, "
        "accepted 25%, about 75 s left"
    )


def test_what_is_unknown_is_left_out() -> None:
    assert describe_progress(SearchProgress(phase="dense")) == "training the dense model"
    assert "best" not in describe_progress(SearchProgress(phase="search"))


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (600, "10 min"), (7200, "2.0 h")])
def test_times_have_a_fitting_unit(seconds: float, text: str) -> None:
    assert describe_time(seconds) == text


def test_without_a_terminal_the_last_state_is_a_plain_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with show_progress() as update:
        update(SearchProgress(phase="search", done=1, total=4))
        update(SearchProgress(phase="done", done=4, total=4))

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "round 1 of 1, done, 4 of 4 evaluations\n"


def test_a_bar_has_the_same_figures_in_few_characters() -> None:
    now = SearchProgress(
        phase="search", done=120, total=400, best=0.12345, accepted_share=0.25, left_s=600.0
    )

    assert list_figures(now) == "120/400 best 0.123 acc 25% 10 min left"
    assert list_figures(SearchProgress(phase="dense")) == ""
