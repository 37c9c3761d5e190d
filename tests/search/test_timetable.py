"""A search whose budget speaks of latency: its table is measured once, then it is the study's."""

import json
import math
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autocompress.errors import ArtifactError, BudgetError, EvaluationError, SettingError
from autocompress.evaluate.settings import EvaluateSettings, LatencySettings
from autocompress.jobs import Candidate, Job, Outcome, hash_json
from autocompress.masks.cost import CostModel
from autocompress.masks.latency import LatencyTable, Machine
from autocompress.pareto import find_front
from autocompress.search.budget import Budget
from autocompress.search.controller import SearchResult, Wiring, hold_controller, run_controller
from autocompress.search.forecast import estimate_graph
from autocompress.search.ledger import read_records
from autocompress.search.progress import SearchProgress
from autocompress.search.settings import SearchSettings
from autocompress.search.spec import Settings, make_spec, resolve_settings
from autocompress.search.study import open_study
from autocompress.search.warm import Source
from autocompress.settings import parse_settings
from tests.fakes import FakeEvaluator, fail_some, make_search, make_small_graph
from tests.laws import find_violations, read_trajectory
from tests.timed import FASTER, MACHINE, make_table

HALF = Budget(latency=0.4)
GRAPH = make_small_graph()
TABLE = make_table(GRAPH)
SPAWN = multiprocessing.get_context("forkserver")
SPAWN.set_forkserver_preload(["tests.fakes"])


class Stopped(BaseException):
    """Stands for a kill inside one process."""


def make_timed(folder: Path, **changes: Any) -> Settings:
    return make_search(str(folder), **{"budget": HALF, **changes})


def search(
    settings: Settings,
    fake: FakeEvaluator | None = None,
    checkpoint: Callable[[str], None] = lambda _: None,
    source: Source | None = None,
) -> tuple[SearchResult, list[SearchProgress]]:
    seen: list[SearchProgress] = []
    evaluator = fake or FakeEvaluator(fail=fail_some, is_timed=True)
    wiring = Wiring(make_evaluator=lambda: evaluator, watch=seen.append, checkpoint=checkpoint)
    with hold_controller(settings, wiring, source=source) as controller:
        return run_controller(controller), seen


def count_surveys(fake: FakeEvaluator) -> int:
    return sum(job.stage == "latency" for job in fake.jobs)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = make_timed(tmp_path_factory.mktemp("finished"))
    search(settings)
    return settings


def test_candidates_hold_the_predicted_limit_and_the_study_every_law(finished: Settings) -> None:
    assert find_violations(finished) == []
    study = open_study(finished.name, finished.storage)
    records = read_records(study)
    model = CostModel(GRAPH, TABLE)
    last = max(one.round for one in records)
    for one in records:
        predicted = model.count_candidate(one.candidate).latency
        assert predicted is not None
        if one.round == last:
            assert predicted <= 0.4 * TABLE.dense_us
        if math.isfinite(one.energy):
            assert one.metrics["predicted_latency"] == pytest.approx(predicted)
            measured = FASTER if one.stage != "fast" else 1.0
            assert one.metrics["latency"] == pytest.approx(measured * predicted)
    full = next(one for one in records if one.stage == "full")
    spread = [full.metrics[name] for name in ("latency_low", "latency", "latency_high")]
    assert spread == sorted(spread)
    assert spread[2] - spread[0] == pytest.approx(0.02 * TABLE.dense_us)


def test_the_table_is_measured_once_and_belongs_to_the_study(tmp_path: Path) -> None:
    fake = FakeEvaluator(is_timed=True)
    settings = make_timed(tmp_path, search=SearchSettings(evaluations=2))

    _, seen = search(settings, fake)
    search(replace(settings), fake)

    assert count_surveys(fake) == 1
    assert seen[0].phase == "latency"
    stored = open_study(settings.name, settings.storage).user_attrs["latency_table"]
    assert LatencyTable.from_json(stored).to_json() == TABLE.to_json()


@pytest.mark.parametrize(
    "place",
    ["timed", *(pytest.param(one, marks=pytest.mark.slow) for one in ("surveyed", "evaluated"))],
)
def test_a_stop_around_the_table_changes_nothing(
    tmp_path: Path, place: str, finished: Settings
) -> None:
    fakes = [FakeEvaluator(fail=fail_some, is_timed=True) for _ in range(2)]

    def stop(name: str) -> None:
        if name == place:
            raise Stopped

    settings = make_timed(tmp_path)
    with pytest.raises(Stopped):
        search(settings, fakes[0], stop)
    search(settings, fakes[1])

    assert read_trajectory(settings) == read_trajectory(finished)
    assert find_violations(settings) == []
    assert [count_surveys(one) for one in fakes] == [1, 0]


def test_a_stop_while_the_table_is_measured_changes_nothing(
    tmp_path: Path, finished: Settings
) -> None:
    def interrupt(_: Job) -> None:
        raise KeyboardInterrupt

    settings, seen = make_timed(tmp_path), list[SearchProgress]()
    wiring = Wiring(make_evaluator=lambda: FakeEvaluator(fail=interrupt), watch=seen.append)
    with (
        pytest.raises(KeyboardInterrupt),
        hold_controller(settings, wiring) as controller,
    ):
        controller.run()
    search(settings)

    assert [one.phase for one in seen] == ["latency", "stopped"]
    assert read_trajectory(settings) == read_trajectory(finished)


def run_timed(folder: str, stop: int) -> None:
    """Search; the process kills itself at checkpoint ``stop``, counted from 0."""
    passed = 0

    def checkpoint(_: str) -> None:
        nonlocal passed
        if passed == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        passed += 1

    search(make_timed(Path(folder)), checkpoint=checkpoint)


@pytest.mark.parametrize(
    "stop", [0, *(pytest.param(one, marks=pytest.mark.slow) for one in (1, 3, 12))]
)
def test_a_kill_changes_nothing(tmp_path: Path, stop: int, finished: Settings) -> None:
    process = SPAWN.Process(target=run_timed, args=(str(tmp_path), stop))
    process.start()
    process.join()
    settings = make_timed(tmp_path)

    search(settings)

    assert process.exitcode == -9
    assert read_trajectory(settings) == read_trajectory(finished)


def test_latency_and_energy_give_a_front(tmp_path: Path) -> None:
    class Greedy(FakeEvaluator):
        def run(self, job: Job) -> Outcome:
            outcome = super().run(job)
            macs = CostModel(GRAPH).count_candidate(job.candidate).macs
            return replace(outcome, energy=0.1 * outcome.energy - math.log(macs))

    search_settings = SearchSettings(evaluations=24, objectives=("energy", "latency"))
    settings = make_timed(tmp_path, budget=Budget(macs=0.9), search=search_settings)

    search(settings, Greedy(is_timed=True))

    study = open_study(settings.name, settings.storage)
    fast = [one for one in read_records(study) if one.stage == "fast"]
    points = np.array([(one.energy, one.metrics["latency"]) for one in fast])
    front = points[find_front(points)]
    assert len(front) >= 4
    assert np.ptp(np.log(front[:, 1])) > 0.4
    for trial in study.get_trials(deepcopy=False):
        verdict = json.loads(trial.user_attrs["verdict"])
        assert trial.values == [verdict["energy"], verdict["metrics"]["latency"]]


def test_latency_is_minimised_while_the_metric_holds(tmp_path: Path) -> None:
    budget = Budget(minimize="latency", worst_metric=0.97)
    settings = make_timed(tmp_path, budget=budget, search=SearchSettings(evaluations=4))

    result, _ = search(settings, FakeEvaluator(is_timed=True, drop=0.004))

    best = result.finished[0]
    assert best.metrics["val_metric"] >= 0.97
    assert best.metrics["latency"] < 0.8 * TABLE.dense_us


def test_a_model_that_is_slower_than_its_limit_is_not_feasible(tmp_path: Path) -> None:
    class Slow(FakeEvaluator):
        def run(self, job: Job) -> Outcome:
            outcome = super().run(job)
            return replace(outcome, metrics={**outcome.metrics, "latency_share": 0.5})

    settings = make_timed(tmp_path, search=SearchSettings(evaluations=1))
    result, _ = search(settings, Slow(is_timed=True))

    trials = open_study(settings.name, settings.storage).get_trials()
    full = result.finished[0]
    assert trials[full.number].constraints["latency"] == pytest.approx(0.5 / 0.4 - 1)


def test_a_measured_candidate_is_traded_by_what_was_measured(tmp_path: Path) -> None:
    class Thorough(FakeEvaluator):
        def run(self, job: Job) -> Outcome:
            outcome = super().run(job)
            return replace(outcome, metrics={**outcome.metrics, "latency_share": 0.125})

    evaluate = EvaluateSettings(latency=LatencySettings(measure="all"))
    settings = make_timed(tmp_path, evaluate=evaluate, search=SearchSettings(evaluations=1))
    result, _ = search(settings, Thorough())

    assert {one.metrics["latency"] for one in result.records} == {0.125 * TABLE.dense_us}
    assert {one.metrics["predicted_latency"] for one in result.records} != {0.125 * TABLE.dense_us}


def test_a_limit_that_no_model_reaches_is_refused_once_it_is_known(tmp_path: Path) -> None:
    fake = FakeEvaluator(is_timed=True)
    settings = make_timed(tmp_path, budget=Budget(latency=6.0))

    with pytest.raises(BudgetError, match=r"budget\.latency"):
        search(settings, fake)

    assert [job.stage for job in fake.jobs] == ["latency"]


def test_a_table_that_cannot_be_measured_is_tried_a_few_times(tmp_path: Path) -> None:
    def fail(_: Job) -> None:
        raise EvaluationError("no clock")

    fake = FakeEvaluator(fail=fail)

    with pytest.raises(EvaluationError, match=r"table could not be measured: .*no clock"):
        search(make_timed(tmp_path), fake)

    assert len(fake.jobs) == SearchSettings().attempts


def test_a_table_that_is_gone_is_named(tmp_path: Path) -> None:
    class Forgetful(FakeEvaluator):
        def has(self, key: str) -> bool:
            return False

    with pytest.raises(ArtifactError, match="latency table table is gone"):
        search(make_timed(tmp_path), Forgetful())


def test_before_the_table_an_estimate_says_that_latency_is_unknown(tmp_path: Path) -> None:
    plans = {
        budget: estimate_graph(make_timed(tmp_path, budget=budget), GRAPH)
        for budget in (
            Budget(latency=0.25),
            Budget(latency=100.0, weights=0.5),
            Budget(latency=100.0),
            Budget(minimize="latency", worst_metric=0.9),
        )
    }

    assert [plan.is_timed for plan in plans.values()] == [False] * 4
    assert [plan.rounds for plan in plans.values()][:3] == [2, 1, 1]
    assert [sorted(plan.limits) for plan in plans.values()] == [[], ["weights"], [], []]
    assert plans[Budget(latency=0.25)].table["full"].latency is None


def test_a_study_with_a_table_needs_no_worker_for_an_estimate(finished: Settings) -> None:
    plan = estimate_graph(finished, GRAPH)

    assert plan.is_timed
    assert plan.limits == {"latency": 0.4 * TABLE.dense_us}
    assert plan.table["full"].latency == TABLE.dense_us
    assert sum(plan.left.values()) == 0


def as_source(settings: Settings) -> Source:
    return Source(name=settings.name, storage=settings.storage, run_dir=settings.run_dir)


def test_a_table_is_taken_over_where_it_was_measured_alike(
    tmp_path: Path, finished: Settings
) -> None:
    fakes = [FakeEvaluator(is_timed=True) for _ in range(4)]
    other = EvaluateSettings(latency=LatencySettings(batch=8))
    short = {"name": "next", "search": SearchSettings(evaluations=2)}

    class Elsewhere(FakeEvaluator):
        def fits_here(self, machine: Machine) -> bool:
            return machine.name != MACHINE.name

    fakes[2] = Elsewhere(is_timed=True)
    changes: list[dict[str, Any]] = [{}, {"evaluate": other}, {}, {"budget": Budget(weights=0.3)}]
    for number, (fake, change) in enumerate(zip(fakes, changes, strict=True)):
        settings = make_timed(tmp_path / f"{number}", **short, **change)
        search(settings, fake, source=as_source(finished))
        study = open_study("next", settings.storage)
        assert any("source" in one.user_attrs for one in study.get_trials(deepcopy=False))

    assert [count_surveys(fake) for fake in fakes] == [0, 1, 1, 0]


def test_a_search_by_latency_starts_from_one_that_measured_none(tmp_path: Path) -> None:
    first = make_search(str(tmp_path / "first"), name="first")
    search(first)
    settings = make_timed(tmp_path / "next", name="next", budget=Budget(latency=0.8))
    fake = FakeEvaluator(is_timed=True)

    result, _ = search(settings, fake, source=as_source(first))

    assert any(one.source for one in result.records)
    assert all("latency" in one.metrics for one in result.records if math.isfinite(one.energy))
    assert count_surveys(fake) == 1


def test_latency_settings_are_there_exactly_where_latency_is_asked_for() -> None:
    asked = EvaluateSettings(latency=LatencySettings(batch=4))
    plain, given = Settings(), Settings(evaluate=asked)
    by_budget = Settings(budget=Budget(latency=0.5))
    by_objective = Settings(search=SearchSettings(objectives=("energy", "latency")))

    assert make_spec(resolve_settings(plain)) == make_spec(resolve_settings(given))
    assert resolve_settings(given).evaluate.latency is None
    for one in (by_budget, by_objective):
        assert resolve_settings(one).evaluate.latency == LatencySettings()
        kept = resolve_settings(replace(one, evaluate=asked)).evaluate.latency
        assert kept == LatencySettings(batch=4)


def test_what_was_stored_before_latency_was_known_keeps_its_keys() -> None:
    budget = Budget(worst_metric=0.9, minimize="macs", coded_bytes=0.1)
    traded = SearchSettings(objectives=("energy", "bytes"))
    other = Settings(name="two", budget=budget, search=traded)
    kept = Candidate(filters={"a": 3}, columns={"fc": 5}, bits={"fc": 4})
    job = Job(stage="full", candidate=kept, round=1, base="b", seed=2)
    evaluation = Settings().evaluate.hash_for("full", "dense")

    specs = [hash_json(make_spec(resolve_settings(one))) for one in (Settings(), other)]

    assert [one[:16] for one in specs] == ["330dcd96b9f7eab2", "fe4b106c50e8e42f"]
    assert evaluation[:16] == "1b496afc5de6699b"
    assert evaluation == Settings().evaluate.hash_for("fast", "dense")
    assert kept.key()[:16] == "27f2835b757424fd"
    assert job.key(evaluation)[:16] == "f7ec671af184455c"


def test_only_what_is_measured_follows_from_how() -> None:
    bare = Settings()
    by_stage = {
        measure: [
            EvaluateSettings(latency=LatencySettings(measure=measure)).hash_for(stage, "dense")
            for stage in ("fast", "round", "full")
        ]
        for measure in ("finished", "all")
    }
    plain = bare.evaluate.hash_for("fast", "dense")

    assert by_stage["finished"][0] == plain != by_stage["all"][0]
    assert by_stage["finished"][1:] == by_stage["all"][1:]
    assert by_stage["finished"][1] != plain


@pytest.mark.parametrize("change", [{"batch": 0}, {"threads": -1}, {"turns": 0}, {"align": 0}])
def test_wrong_latency_settings_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(SettingError, match=f"latency.{next(iter(change))}: want"):
        parse_settings(LatencySettings, change)
