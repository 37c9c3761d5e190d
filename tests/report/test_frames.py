import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState, create_trial

from autocompress.report.frames import (
    COLUMNS,
    DTYPES,
    find_best,
    pareto_frame,
    read_direction,
    trials_frame,
)
from tests.synthetic import make_study, make_trial

GOOD = {"stage": "fast", "val_metric": 0.9, "weights": 100.0}


def test_an_empty_study_has_every_column_and_type() -> None:
    frame = trials_frame(make_study(0, finished=0))

    assert len(frame) == 0
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == {
        column.name: DTYPES[column.kind] for column in COLUMNS
    }


def test_types_do_not_depend_on_the_trials() -> None:
    empty = trials_frame(make_study(0, finished=0))

    full = trials_frame(make_study())

    assert full.dtypes[: len(COLUMNS)].equals(empty.dtypes)
    assert (full.dtypes[len(COLUMNS) :] == "float64").all()


def test_each_trial_is_one_row_with_its_densities() -> None:
    study = make_study(6, finished=1)

    frame = trials_frame(study)

    assert frame["number"].tolist() == list(range(7))
    for trial, density in zip(study.trials, frame["columns/conv2"], strict=True):
        assert trial.params["columns/conv2"] == density
    assert frame["accepted"].notna().all()


def test_an_empty_study_has_an_empty_front() -> None:
    assert len(pareto_frame(make_study(0, finished=0))) == 0


@pytest.mark.parametrize(
    "worse",
    [
        {"constraints": {"macs": 0.1, "params": -0.5}},
        {"state": TrialState.FAIL},
        {"state": TrialState.RUNNING},
        {"attrs": {"val_metric": float("nan")}},
        {"attrs": {"weights": float("inf")}},
        {"attrs": {"error": "the loss is not finite"}},
        {"attrs": {"energy": float("nan")}},
    ],
    ids=str,
)
def test_such_a_row_is_never_on_the_front(worse: Mapping[str, Any]) -> None:
    study = make_study(0, finished=0)
    best = {"stage": "fast", "val_metric": 1.0, "weights": 1.0, **worse.get("attrs", {})}
    state = worse.get("state", TrialState.COMPLETE)
    bad = make_trial(0.1, best, {}, state=state, constraints=worse.get("constraints"))
    study.add_trials([bad, make_trial(0.2, GOOD, {})])

    assert pareto_frame(study)["number"].tolist() == [1]


@pytest.mark.parametrize(("direction", "best"), [("maximize", 1), ("minimize", 0)])
def test_the_metric_is_better_in_the_direction_of_the_task(direction: str, best: int) -> None:
    study = make_study(0, finished=0, direction=direction)
    study.add_trials(
        [make_trial(0.1, GOOD, {}), make_trial(0.1, {**GOOD, "val_metric": 0.95}, {})]
    )

    assert read_direction(study) == direction
    assert pareto_frame(study)["number"].tolist() == [best]


def test_no_feasible_row_beats_one_of_the_front() -> None:
    study = make_study()
    frame = trials_frame(study)

    front = pareto_frame(study)

    for row in front.itertuples():
        no_worse = (frame["val_metric"] >= row.val_metric) & (frame["weights"] <= row.weights)
        better = (frame["val_metric"] > row.val_metric) | (frame["weights"] < row.weights)
        assert not (no_worse & better & frame["feasible"]).any()
    assert front["weights"].is_monotonic_increasing


def test_a_stage_filters_the_front() -> None:
    study = make_study()

    assert set(pareto_frame(study, stage="fast")["stage"]) == {"fast"}
    assert pareto_frame(study, ("test_metric", "bytes"))["stage"].eq("full").all()


def test_an_estimate_that_beats_a_finished_model_does_not_hide_it() -> None:
    study = make_study(0, finished=1)
    finished = trials_frame(study).iloc[0]
    better = {**GOOD, "val_metric": 1.0, "weights": float(finished["weights"]) - 1}
    study.add_trial(make_trial(0.1, {**better, "stage": "fast"}, {}))

    assert pareto_frame(study)["stage"].tolist() == ["fast"]
    assert pareto_frame(study, stage="models")["number"].tolist() == [finished["number"]]


def test_an_attempt_that_was_not_decided_shows_its_place_and_error() -> None:
    study = make_study(0, finished=0)
    place = {"stage": "fast", "attempt": 2, "losses": 1, "index": 7, "after": 5}
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={**place, "error": "died"}))

    row = trials_frame(study).iloc[0]

    assert {name: row[name] for name in place} == place
    assert (row["error"], row["feasible"]) == ("died", False)
    assert row[["seq", "accepted", "energy", "val_metric"]].isna().all()


def test_latency_is_a_column_and_an_objective() -> None:
    study = make_study(0, finished=0)
    for accuracy, latency in ((0.9, 80.0), (0.8, 90.0), (0.7, 60.0)):
        study.add_trial(make_trial(0.1, {**GOOD, "val_metric": accuracy, "latency": latency}, {}))

    front = pareto_frame(study, ("val_metric", "latency"))

    assert front["latency"].tolist() == [60.0, 80.0]
    assert front["latency_share"].isna().all()


def test_an_unknown_objective_is_named() -> None:
    with pytest.raises(ValueError, match="got 'speed'"):
        pareto_frame(make_study(2), ("speed", "weights"))


def test_ten_thousand_trials_would_take_less_than_two_seconds() -> None:
    trials = 2_000  # The work is linear in the trials, and these are made within a second.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    row = make_trial(0.1, GOOD, {f"filters/layer{i}": 0.5 for i in range(40)})
    study = make_study(0, finished=0)
    study.add_trials([row] * trials)
    study.get_trials(deepcopy=False)
    start = time.process_time()

    frame = trials_frame(study)
    front = find_best(frame)

    assert time.process_time() - start < 2.0 * trials / 10_000
    assert (len(frame), len(front)) == (trials, 1)


def test_frames_survive_parquet(tmp_path: Any) -> None:
    frame = trials_frame(make_study(4))

    frame.to_parquet(tmp_path / "trials.parquet")

    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "trials.parquet"), frame)
    assert np.isfinite(frame["filters/conv1"]).all()
