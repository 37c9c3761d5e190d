import io

import numpy as np
import pandas as pd
import pytest
from optuna.trial import TrialState

from autocompress.report.frames import find_best, trials_frame
from autocompress.report.seeds import (
    draw_band,
    draw_fronts,
    make_band,
    make_front_band,
    trace_best,
)
from tests.synthetic import make_study, make_trial


def make_frames(sizes: tuple[int, ...] = (30, 24, 36)) -> dict[str, pd.DataFrame]:
    return {str(size): trials_frame(make_study(size, name=str(size))) for size in sizes}


def test_the_best_so_far_falls_and_begins_anew_with_a_base() -> None:
    study = make_study(0, finished=0)
    energies = [(0, 3.0), (0, float("nan")), (0, 1.0), (0, 2.0), (1, 9.0), (1, 8.0)]
    for seq, (number, energy) in enumerate(energies):
        attrs = {"stage": "fast", "round": number, "seq": seq, "base": f"model {number}"}
        state = TrialState.FAIL if np.isnan(energy) else TrialState.COMPLETE
        study.add_trial(make_trial(energy, attrs, {}, state=state))

    trace = trace_best(trials_frame(study))

    assert trace.tolist() == [3.0, 3.0, 1.0, 1.0, 9.0, 8.0]


def test_the_band_holds_every_trace_as_far_as_all_go() -> None:
    traces = [trace_best(frame) for frame in make_frames().values()]

    band = make_band(traces)

    assert len(band) == min(map(len, traces))
    for trace in traces:
        assert (band["low"] <= trace[: len(band)]).all()
        assert (band["high"] >= trace[: len(band)]).all()
    np.testing.assert_allclose(band["mean"], np.mean([t[: len(band)] for t in traces], axis=0))


def test_the_front_band_is_what_each_front_reaches_within_a_size() -> None:
    frames = list(make_frames().values())

    band = make_front_band(frames, stage="fast")

    for row in band.iloc[:: len(band) // 7].itertuples():
        reached = []
        for frame in frames:
            front = find_best(frame, stage="fast")
            reached.append(front.loc[front["weights"] <= row.weights, "val_metric"].max())
        expected = (np.mean(reached), min(reached), max(reached))
        assert (row.mean, row.low, row.high) == pytest.approx(expected)
    assert band["mean"].is_monotonic_increasing


def test_a_study_without_a_front_leaves_the_band_to_the_others() -> None:
    frames = list(make_frames((30,)).values())
    empty = trials_frame(make_study(0, finished=0))

    pd.testing.assert_frame_equal(make_front_band([*frames, empty]), make_front_band(frames))
    assert len(make_front_band([empty])) == 0


@pytest.mark.parametrize("sizes", [(0, 1), (1, 2), (20, 30)])
def test_figures_of_any_studies_are_drawn(sizes: tuple[int, ...]) -> None:
    frames = {
        str(size): trials_frame(make_study(size, finished=0, name=str(size))) for size in sizes
    }

    for figure in (draw_band(frames), draw_fronts(frames)):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=40)
        assert buffer.getvalue().startswith(b"\x89PNG")
