import json

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from autocompress.report.frames import OBJECTIVES, pareto_frame, trials_frame
from autocompress.report.mirror import Mirror
from tests.synthetic import make_study, make_trial

Values = set[tuple[float, ...]]


def open_copy(mirror: Mirror, suffix: str = "") -> optuna.Study:
    return optuna.load_study(study_name=mirror.name + suffix, storage=mirror.storage)


def list_front(study: optuna.Study) -> Values:
    return {tuple(trial.values) for trial in study.best_trials}


def make_mixed(direction: str = "maximize") -> optuna.Study:
    """Return a study with failures, and with infeasible trials better than all others."""
    study = make_study(20, finished=3, direction=direction)
    best = 1.0 if direction == "maximize" else 0.0
    over = {"weights": 0.2, "macs": -0.1}
    for seq, stage in ((23, "fast"), (24, "full")):
        attrs = {"stage": stage, "seq": seq, "val_metric": best, "weights": 1.0}
        study.add_trial(make_trial(0.0, attrs, {"filters/conv1": 0.5}, constraints=over))
    given_up = {"stage": "fast", "seq": 25, "error": "died"}
    study.add_trial(make_trial(0.0, given_up, {}, state=TrialState.FAIL))
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"error": "interrupted"}))
    return study


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize(
    ("suffix", "stage"), [(" front", "models"), (" front of estimates", "fast")]
)
def test_fronts_are_those_of_the_study(direction: str, suffix: str, stage: str) -> None:
    study = make_mixed(direction)
    mirror = Mirror(study)

    mirror.refresh()

    rows = pareto_frame(study, stage=stage)[[*OBJECTIVES]].astype(float)
    assert list_front(open_copy(mirror, suffix)) == set(rows.itertuples(index=False, name=None))


def test_the_search_is_there_in_the_order_of_decisions() -> None:
    study = make_mixed()
    mirror = Mirror(study)

    mirror.refresh()

    frame = trials_frame(study)
    fast = frame[(frame["stage"] == "fast") & frame["seq"].notna()].sort_values("seq")
    copies = open_copy(mirror).trials
    assert [copy.user_attrs["trial"] for copy in copies] == fast["number"].tolist()
    assert [copy.value for copy in copies[:-1]] == fast["energy"].tolist()[:-1]
    assert copies[-1].state is TrialState.FAIL
    assert copies[0].params == study.trials[0].params


def test_an_infeasible_trial_is_marked_as_the_dashboard_reads_it() -> None:
    mirror = Mirror(make_mixed())

    mirror.refresh()

    (over,) = [one for one in open_copy(mirror).trials if one.value == 0.0]
    assert over.system_attrs["constraints"] == [0.2, -0.1]


def test_only_what_is_new_is_copied_and_the_order_has_no_gap() -> None:
    study = make_study(3, finished=0)
    mirror = Mirror(study)
    assert mirror.refresh() == 3
    attrs = {"stage": "fast", "val_metric": 0.5, "weights": 5.0}

    study.add_trial(make_trial(0.4, {**attrs, "seq": 4}, {}))
    assert mirror.refresh() == 0
    study.add_trial(make_trial(0.3, {**attrs, "seq": 3}, {}))

    assert mirror.refresh() == 2
    assert [trial.value for trial in open_copy(mirror).trials[3:]] == [0.3, 0.4]


def test_the_study_is_not_written_to() -> None:
    study = make_mixed()
    before = [(json.dumps(one.user_attrs), one.system_attrs, one.state) for one in study.trials]

    Mirror(study).refresh()

    after = [(json.dumps(one.user_attrs), one.system_attrs, one.state) for one in study.trials]
    assert after == before
    assert len(optuna.get_all_study_names(study._storage)) == 1
