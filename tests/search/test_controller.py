import json
import math
import multiprocessing
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState

from autocompress.errors import (
    BudgetError,
    DataError,
    EvaluationError,
    SettingError,
    SpecMismatchError,
    StudyError,
)
from autocompress.jobs import Job
from autocompress.search.budget import Budget
from autocompress.search.controller import Extension, Wiring, hold_controller
from autocompress.search.ledger import read_records
from autocompress.search.progress import SearchProgress
from autocompress.search.rounds import RoundSettings
from autocompress.search.settings import SearchSettings
from autocompress.search.study import open_study
from tests.fakes import FakeEvaluator, fail_some, make_search, run_fake

SHORT = SearchSettings(evaluations=1)
Row = tuple[int, str, float | None, bool]
SPAWN = multiprocessing.get_context("forkserver")
SPAWN.set_forkserver_preload(["tests.fakes"])


class Stopped(BaseException):
    """Stands for a kill inside one process."""


def search(
    folder: Path,
    evaluator: FakeEvaluator | None = None,
    checkpoint: Callable[[str], None] = lambda _: None,
    **changes: object,
) -> list[SearchProgress]:
    seen: list[SearchProgress] = []
    fake = evaluator or FakeEvaluator(fail=fail_some)
    settings = make_search(str(folder), **changes)
    wiring = Wiring(make_evaluator=lambda: fake, watch=seen.append, checkpoint=checkpoint)
    with hold_controller(settings, wiring) as controller:
        controller.run()
    return seen


def read_rows(folder: Path) -> list[Row]:
    trials = open_study("fake", str(folder / "study.db")).get_trials(deepcopy=False)
    rows = [
        (json.loads(trial.user_attrs["verdict"]), trial.user_attrs["key"])
        for trial in trials
        if "verdict" in trial.user_attrs
    ]
    return sorted((one["seq"], key, one["energy"], one["accepted"]) for one, key in rows)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    search(folder)
    return folder


def run_and_kill(folder: Path, stop: int) -> int | None:
    process = SPAWN.Process(target=run_fake, args=(str(folder), stop))
    process.start()
    process.join()
    return process.exitcode


def test_a_search_decides_every_evaluation_once(finished: Path) -> None:
    study = open_study("fake", str(finished / "study.db"))
    records = read_records(study)
    trials = study.get_trials()

    assert [row[0] for row in read_rows(finished)] == list(range(14))
    assert [one.stage for one in records] == [*["fast"] * 6, "round", *["fast"] * 6, "full"]
    assert any(math.isnan(record.energy) for record in records)
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.FAIL}
    for trial in trials:
        kept = json.loads(trial.user_attrs["candidate"])
        assert trial.params["filters/a"] == kept["filters"]["a"] / 12
        assert trial.params["columns/fc"] == kept["columns"]["fc"] / 24
        assert all(value <= 0 for value in trial.constraints.values())


def test_a_finished_search_evaluates_nothing(finished: Path) -> None:
    evaluator = FakeEvaluator()

    seen = search(finished, evaluator)

    assert evaluator.jobs == []
    assert [one.phase for one in seen] == ["done"]
    assert seen[-1].done == seen[-1].total == 14


@pytest.mark.parametrize(
    "place",
    [
        "evaluated",
        "cloned",
        *[
            pytest.param(place, marks=pytest.mark.slow)  # The study is written many times.
            for place in (
                "created",
                "asked",
                "written",
                "constrained",
                "told",
                "excused",
                "failed",
            )
        ],
    ],
)
def test_a_stop_between_two_writes_changes_nothing(
    tmp_path: Path, place: str, finished: Path
) -> None:
    def stop(name: str) -> None:
        if name == place:
            raise Stopped

    with pytest.raises(Stopped):
        search(tmp_path, checkpoint=stop)

    search(tmp_path)

    assert read_rows(tmp_path) == read_rows(finished)


def test_three_kills_change_nothing(tmp_path: Path, finished: Path) -> None:
    rng = random.Random(0)

    codes = [run_and_kill(tmp_path, rng.randrange(5, 25)) for _ in range(3)]
    search(tmp_path)

    assert codes == [-9] * 3
    assert read_rows(tmp_path) == read_rows(finished)


@pytest.mark.slow  # Twelve processes load PyTorch.
@pytest.mark.timeout(300)
def test_twelve_kills_change_nothing(tmp_path: Path, finished: Path) -> None:
    rng = random.Random(1)

    codes = [run_and_kill(tmp_path, rng.randrange(2, 11)) for _ in range(12)]
    search(tmp_path)

    assert codes == [-9] * 12
    assert read_rows(tmp_path) == read_rows(finished)


def test_a_result_on_disk_is_adopted_not_computed_again(tmp_path: Path) -> None:
    def stop(name: str) -> None:
        if name == "evaluated":
            raise Stopped

    with pytest.raises(Stopped):
        search(tmp_path, FakeEvaluator(), stop, search=SHORT)
    evaluator = FakeEvaluator()
    search(tmp_path, evaluator, search=SHORT)

    assert len(evaluator.jobs) == 3
    states = [one.state for one in open_study("fake", f"{tmp_path}/study.db").get_trials()]
    assert states == [TrialState.COMPLETE] * 4


def test_ctrl_c_leaves_a_study_to_go_on_with(tmp_path: Path, finished: Path) -> None:
    seen: list[SearchProgress] = []
    fake = FakeEvaluator()

    def interrupt(job: Job) -> None:
        if len(fake.jobs) == 3:
            raise KeyboardInterrupt
        fail_some(job)

    fake.fail = interrupt
    settings = make_search(str(tmp_path))
    with (
        pytest.raises(KeyboardInterrupt),
        hold_controller(
            settings, Wiring(make_evaluator=lambda: fake, watch=seen.append)
        ) as controller,
    ):
        controller.run()
    trials = open_study("fake", settings.storage).get_trials()
    search(tmp_path)

    assert seen[-1].phase == "stopped"
    assert TrialState.RUNNING not in {trial.state for trial in trials}
    assert read_rows(tmp_path) == read_rows(finished)


@pytest.mark.parametrize("error", [SettingError("loss: no such"), DataError("a label is wrong")])
def test_what_no_attempt_can_mend_stops_the_search(tmp_path: Path, error: Exception) -> None:
    fake = FakeEvaluator()

    def refuse(_job: Job) -> None:
        if len(fake.jobs) == 3:
            raise error

    fake.fail = refuse
    settings = make_search(str(tmp_path))
    with (
        pytest.raises(type(error), match=str(error)),
        hold_controller(settings, Wiring(make_evaluator=lambda: fake)) as controller,
    ):
        controller.run()
    states = {trial.state for trial in open_study("fake", settings.storage).get_trials()}

    assert len(fake.jobs) == 3
    assert TrialState.RUNNING not in states


def test_replay_equals_memory(tmp_path: Path) -> None:
    settings = make_search(str(tmp_path), budget=Budget(weights=0.6))
    with hold_controller(
        settings, Wiring(make_evaluator=lambda: FakeEvaluator(drop=0.01))
    ) as controller:
        controller.run()

    assert read_records(open_study("fake", settings.storage)) == list(controller.records)


def test_a_bad_round_is_rolled_back(tmp_path: Path) -> None:
    search(tmp_path, FakeEvaluator(drop=1.0), rounds=RoundSettings(tolerance=0.01), search=SHORT)

    records = read_records(open_study("fake", str(tmp_path / "study.db")))
    rounds = [record for record in records if record.stage == "round"]
    assert [record.base for record in rounds][:2] == ["", ""]
    assert rounds[2].base == rounds[1].artifact
    assert records[-1].stage == "full"


def test_any_decided_trial_can_be_finished_once(tmp_path: Path) -> None:
    settings = make_search(str(tmp_path), search=SHORT)
    search(tmp_path, FakeEvaluator(), search=SHORT)
    evaluator = FakeEvaluator()

    with hold_controller(settings, Wiring(make_evaluator=lambda: evaluator)) as controller:
        (first,), (again,) = controller.finalize([0]), controller.finalize([0])
        with pytest.raises(StudyError, match="trial 99: no decided trial"):
            controller.finalize([0, 99])
        controller.run()

    assert first == again
    assert (first.stage, first.round, first.seq) == ("full", 0, 4)
    assert [job.stage for job in evaluator.jobs] == ["full"]


def test_a_search_in_which_everything_fails_stops_early(tmp_path: Path) -> None:
    def fail(_: Job) -> None:
        raise ValueError("no luck")

    evaluator = FakeEvaluator(fail=fail)

    with pytest.raises(EvaluationError, match=r"first 3 candidates all failed.*no luck"):
        search(tmp_path, evaluator)

    assert len(evaluator.jobs) == 9


def test_other_settings_and_unreachable_budgets_are_refused(tmp_path: Path) -> None:
    search(tmp_path, FakeEvaluator(), search=SHORT)

    with pytest.raises(SpecMismatchError, match=r"search\.evaluations is 1 in the study but 5"):
        search(tmp_path, search=SearchSettings(evaluations=5))
    with pytest.raises(BudgetError, match=r"budget\.weights"):
        search(tmp_path / "other", budget=Budget(weights=2.0))


def test_a_search_that_is_refused_is_not_extended(tmp_path: Path) -> None:
    search(tmp_path, FakeEvaluator(), search=SHORT)
    settings = make_search(str(tmp_path), search=SHORT)
    before = open_study("fake", settings.storage).user_attrs
    other = FakeEvaluator(dense_key="other")

    wiring = Wiring(make_evaluator=lambda: other)
    with (
        pytest.raises(SpecMismatchError, match="its data, checkpoint"),
        hold_controller(settings, wiring, extension=Extension(evaluations=5, finalize_top=3)),
    ):
        pass

    assert open_study("fake", settings.storage).user_attrs == before


def test_a_model_that_cannot_be_finished_does_not_keep_the_others_from_it(tmp_path: Path) -> None:
    failed: list[str] = []

    def fail(job: Job) -> None:
        if job.stage == "full" and (not failed or job.candidate.key() == failed[0]):
            failed[:] = [job.candidate.key()]
            raise ValueError("no luck")

    settings = SearchSettings(evaluations=6, finalize_top=3, attempts=1)

    with pytest.raises(EvaluationError, match=r"the model could not be finished.*no luck"):
        search(tmp_path, FakeEvaluator(fail=fail), search=settings)

    records = read_records(open_study("fake", str(tmp_path / "study.db")))
    energies = [one.energy for one in records if one.stage == "full"]
    assert [math.isfinite(one) for one in energies] == [False, True, True]
