"""A search that Ray Tune drives."""

import json
import math
import os
import pickle
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from autocompress.errors import DataError, SettingError, SpecMismatchError, StudyError
from autocompress.execute.settings import ExecuteSettings
from autocompress.search.budget import Budget
from autocompress.search.controller import (
    SearchResult,
    Wiring,
    hold_controller,
    run_search,
)
from autocompress.search.spec import Settings, resolve_settings
from autocompress.search.study import open_study
from autocompress.search.tune import (
    PerRound,
    StudySearcher,
    make_trainable,
    search_with_tune,
)
from autocompress.store.freight import read_files
from autocompress.store.run_folder import RunFolder
from tests.fakes import FakeEvaluator, fail_some
from tests.formula import count_runs
from tests.laws import find_violations, read_trajectory, read_verdict
from tests.tiny import TINY
from tests.tuned import Opener, make_tuned, make_tuner, run_tuned
from tests.tuned_runner import GLANCES
from tests.workers import wait_until

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]  # Machines share their cores.


def search_alone(settings: Settings) -> None:
    """Search in this process."""
    wiring = Wiring(make_evaluator=lambda: FakeEvaluator(fail=fail_some))
    with hold_controller(settings, wiring) as controller:
        controller.run()


def count_states(settings: Settings) -> Counter[str]:
    """Return how many trials are in which state."""
    trials = open_study(settings.name, settings.storage).get_trials(deepcopy=False)
    return Counter(trial.state.name for trial in trials)


def read_errors(settings: Settings) -> list[str]:
    """Return why candidates were given up, in the order of the decisions."""
    trials = open_study(settings.name, settings.storage).get_trials(deepcopy=False)
    verdicts = [one for one in map(read_verdict, trials) if one and one["error"]]
    return [one["error"] for one in sorted(verdicts, key=lambda one: int(one["seq"]))]


@pytest.mark.usefixtures("local_ray")
def test_a_batch_search_by_tune_is_that_of_one_process(tmp_path: Path) -> None:
    alone, tuned = (
        make_tuned(tmp_path / name, weights=0.52, batch=2) for name in ("alone", "tuned")
    )
    search_alone(alone)

    result, grid = run_tuned(tuned)

    assert result.done
    assert read_trajectory(tuned) == read_trajectory(alone)
    assert not find_violations(tuned)
    assert read_errors(tuned) == ["EvaluationError: this candidate cannot be evaluated"]
    told = {one.config["key"]: one.metrics["energy"] for one in grid if one.error is None}
    found = {key: energy for _, key, energy, _, _ in read_trajectory(tuned) if energy is not None}
    assert told == found
    assert grid.num_errors == sum(count_runs(tmp_path / "tuned").values()) - len(told)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_the_latency_table_is_measured_by_a_trial_before_all_others(tmp_path: Path) -> None:
    plain = (make_tuned(tmp_path / name, batch=2) for name in ("alone", "tuned"))
    alone, tuned = (resolve_settings(replace(one, budget=Budget(latency=0.5))) for one in plain)
    search_alone(alone)

    result, grid = run_tuned(tuned)

    assert result.done
    assert read_trajectory(tuned) == read_trajectory(alone)
    assert not find_violations(tuned)
    stages = [one.config["stage"] for one in grid]
    assert (stages[0], stages.count("latency")) == ("latency", 1)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_candidate_stopped_at_its_one_shot_score_is_decided_against(tmp_path: Path) -> None:
    settings = make_tuned(tmp_path, evaluations=8)
    scheduler = PerRound(ASHAScheduler(reduction_factor=2, max_t=2))

    result, _ = run_tuned(settings, scheduler=scheduler, glances=True, metric="energy", mode="min")

    assert result.done
    assert not find_violations(settings)
    stopped = [one for one in read_errors(settings) if "at its one-shot score of" in one]
    assert 1 < len(stopped) < 14
    glances, runs = count_runs(tmp_path / GLANCES), count_runs(tmp_path)
    fast = [one for one in result.records if one.stage == "fast"]
    assert all(glances[one.key] for one in fast)
    for one in fast:
        if math.isfinite(one.energy):
            assert one.energy == one.metrics["val_loss"]
        elif "one_shot_loss" in one.metrics:
            assert runs[one.key] == 0 or one.candidate.key()[0] in "01"  # It failed before.


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("opener", "execute", "error"),
    [
        (Opener(dies="01"), {}, "the trial ended without an answer: its process died"),
        (
            Opener(hangs="01"),
            {"timeout_s": 2.0},
            "the evaluation took longer than execute.timeout_s = 2 seconds",
        ),
    ],
)
def test_a_trial_that_fails_is_tried_again_and_given_up_at_the_cap(
    tmp_path: Path, opener: Opener, execute: dict[str, float], error: str
) -> None:
    settings = make_tuned(tmp_path, weights=0.52, batch=2, **execute)  # Else timing proposes.

    result, grid = run_tuned(settings, opener)

    assert result.done
    assert not find_violations(settings)
    assert read_errors(settings) == [error]
    assert grid.num_errors == settings.search.attempts
    failed = [one for one in result.records if math.isnan(one.energy)]
    assert [count_runs(tmp_path)[one.key] for one in failed] == [settings.search.attempts]


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_what_no_attempt_can_mend_ends_the_tuner(tmp_path: Path) -> None:
    settings = make_tuned(tmp_path, weights=0.52, batch=2)

    with pytest.raises(DataError, match=r"^the machine .*: a label is wrong$"):
        run_tuned(settings, Opener(refuses="01"))

    assert count_states(settings)["RUNNING"] == 0
    run_tuned(settings)
    assert not find_violations(settings)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_tuner_opens_the_study_if_no_one_has_and_models_take_more_places(
    tmp_path: Path,
) -> None:
    settings = make_tuned(tmp_path, model_cpus=2.0)
    searcher = StudySearcher(settings, open_study=Opener())

    make_tuner(searcher, settings).fit()

    assert searcher.result().done
    assert not find_violations(settings)
    other = StudySearcher(make_tuned(tmp_path, evaluations=9), open_study=Opener())
    with pytest.raises(SpecMismatchError, match=r"search\.evaluations"):
        make_tuner(other, settings).fit()


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_tuner_of_a_few_trials_leaves_a_study_that_can_be_gone_on_with(tmp_path: Path) -> None:
    settings = make_tuned(tmp_path, batch=2)

    result, grid = run_tuned(settings, num_samples=3)

    assert not result.done
    assert len(grid) == 3
    assert count_states(settings)["RUNNING"] == 0
    search_alone(settings)
    assert not find_violations(settings)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_models_come_back_from_trials_as_one_process_makes_them(tmp_path: Path) -> None:
    execute = ExecuteSettings(workers=2, executor="ray", address="local", threads=1)
    alone = run_search(replace(TINY, run_dir=str(tmp_path / "alone")))
    interrupt = signal.getsignal(signal.SIGINT)

    tuned = search_with_tune(
        replace(TINY, run_dir=str(tmp_path / "tuned"), execute=execute),
        run_config=tune.RunConfig(verbose=0),
    )

    assert [(one.key, one.energy) for one in tuned.records] == [
        (one.key, one.energy) for one in alone.records
    ]
    assert read_model(tmp_path / "tuned", tuned) == read_model(tmp_path / "alone", alone)
    assert (tmp_path / "tuned" / "tune").is_dir()
    assert signal.getsignal(signal.SIGINT) is interrupt


def read_model(folder: Path, result: SearchResult) -> dict[str, bytes]:
    """Return the files of a finished model, but for those with measured times."""
    files = read_files(RunFolder(folder).path(result.finished[0].artifact))
    return {name: bytes(data) for name, data in files.items() if name != "metrics.json"}


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_scheduler_given_to_a_search_stops_candidates(tmp_path: Path) -> None:
    execute = ExecuteSettings(workers=2, executor="ray", address="local", threads=1)
    search = replace(TINY.search, evaluations=8, batch=0)
    settings = replace(TINY, run_dir=str(tmp_path), execute=execute, search=search)
    asha = ASHAScheduler(metric="energy", mode="min", reduction_factor=2, max_t=2)

    result = search_with_tune(
        settings,
        tune_config=tune.TuneConfig(scheduler=asha),
        run_config=tune.RunConfig(verbose=0),
    )

    assert result.done
    fast = [one for one in result.records if one.stage == "fast"]
    stopped = [one for one in fast if "one_shot_loss" in one.metrics]
    assert len(fast) == 16
    assert 0 < len(stopped) < 16
    assert all(math.isnan(one.energy) for one in stopped)
    assert result.finished


@pytest.mark.slow
@pytest.mark.parametrize(("way", "number"), [("begin", 9), ("restore", 9), ("begin", 2)])
def test_a_driver_that_was_killed_leaves_nothing_out_and_nothing_behind(
    tmp_path: Path, way: str, number: int
) -> None:
    alone, tuned = (make_tuned(tmp_path / name, batch=2) for name in ("alone", "tuned"))
    search_alone(alone)
    driver = start_driver(tuned, "begin")
    wait_until(lambda: len(count_runs(tmp_path / "tuned")) >= 4, 200.0)

    driver.send_signal(number)
    driver.wait(200.0)
    left = count_states(tuned)
    assert start_driver(tuned, way).wait(200.0) == 0

    assert (left["RUNNING"] > 0) == (number == signal.SIGKILL)
    assert left["COMPLETE"] < 8
    assert read_trajectory(tuned) == read_trajectory(alone)
    assert not find_violations(tuned)
    assert count_states(tuned)["COMPLETE"] == count_states(alone)["COMPLETE"]


@pytest.mark.slow
def test_a_machine_that_is_lost_costs_no_attempt(tmp_path: Path) -> None:
    alone, tuned = (make_tuned(tmp_path / name, batch=2) for name in ("alone", "tuned"))
    search_alone(alone)

    command = [sys.executable, "-m", "tests.tuned_cluster", tuned.run_dir, "lose"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=280)

    assert read_trajectory(tuned) == read_trajectory(alone)
    assert not find_violations(tuned)
    trials = open_study(tuned.name, tuned.storage).get_trials(deepcopy=False)
    lost = [one for one in trials if "was lost" in one.user_attrs.get("error", "")]
    again = {one.user_attrs["key"] for one in trials if one.user_attrs["losses"] == 1}
    assert {one.user_attrs["key"] for one in lost} == again != set()


@pytest.mark.slow
def test_a_sick_machine_costs_no_attempt_and_is_left_to_itself(tmp_path: Path) -> None:
    alone, tuned = (make_tuned(tmp_path / name, batch=2) for name in ("alone", "tuned"))
    search_alone(alone)

    command = [sys.executable, "-m", "tests.tuned_cluster", tuned.run_dir, "SICK"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=280)

    assert read_trajectory(tuned) == read_trajectory(alone)
    assert not find_violations(tuned)
    trials = open_study(tuned.name, tuned.storage).get_trials(deepcopy=False)
    errors = [one.user_attrs["error"] for one in trials if one.user_attrs.get("error")]
    lost = [one for one in errors if one.startswith("a machine is not used any further: the ")]
    assert 1 <= len(lost) <= 2  # The next trial may have had its place before.


def start_driver(settings: Settings, way: str) -> subprocess.Popen[bytes]:
    """Return a process that searches by Tune, see ``tests.tuned``."""
    environment = {**os.environ, "TUNE_GLOBAL_CHECKPOINT_S": "1"}
    command = [sys.executable, "-m", "tests.tuned", settings.run_dir, way]
    return subprocess.Popen(command, cwd=ROOT, env=environment)


def test_a_searcher_keeps_the_name_of_its_study_and_nothing_else(tmp_path: Path) -> None:
    searcher = StudySearcher(make_tuned(tmp_path / "run"), open_study=Opener())
    path = tmp_path / "searcher.pkl"

    searcher.save(str(path))
    pickle.loads(pickle.dumps(searcher)).restore(str(path))

    assert json.loads(path.read_text()) == {"version": 1, "study": "fake"}
    assert not (tmp_path / "run").exists()
    path.write_text('{"version": 1, "study": "another"}')
    with pytest.raises(StudyError, match="want a run of the study 'fake'"):
        searcher.restore(str(path))


def test_a_searcher_without_a_tuner_has_no_result() -> None:
    with pytest.raises(StudyError, match=r"no tune\.Tuner has run"):
        StudySearcher(Settings()).result()


@pytest.mark.parametrize(
    ("stage", "wanted"), [("fast", {"CPU": 0.5}), ("full", {"CPU": 0.5, "GPU": 1.0})]
)
def test_a_trial_reserves_what_its_stage_asks_for(stage: str, wanted: dict[str, float]) -> None:
    trainable = make_trainable(ExecuteSettings(cpus=0.5, model_gpus=1.0))

    request = trainable.default_resource_request({"stage": stage})

    assert request.bundles == [wanted]


def test_a_search_algorithm_beside_the_study_is_refused() -> None:
    with pytest.raises(SettingError, match="the study is the search algorithm"):
        search_with_tune(Settings(), tune_config=tune.TuneConfig(search_alg="random"))


def test_tune_writes_no_password_of_a_database() -> None:
    url = "postgresql://ada:secret@db/studies"
    searcher = StudySearcher(Settings(storage=url), source=f"{url}#first")

    assert b"secret" not in pickle.dumps(searcher)
    assert b"ada@db/studies" in pickle.dumps(searcher)
