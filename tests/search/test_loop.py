"""Laws of a search whose evaluations finish in any order."""

import ast
import itertools
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

import autocompress.search
from autocompress.errors import SpecMismatchError
from autocompress.execute.settings import ExecuteSettings
from autocompress.jobs import Job, Outcome
from autocompress.search.budget import Budget
from autocompress.search.controller import Extension, Wiring, hold_controller, settle_chains
from autocompress.search.ledger import read_records
from autocompress.search.progress import SearchProgress
from autocompress.search.settings import SearchSettings
from autocompress.search.space import SpaceSettings
from autocompress.search.study import hold_study, open_study
from tests.fake_pool import Fault
from tests.fakes import FakeEvaluator, make_search
from tests.formula import FormulaRunner, count_runs, read_runs
from tests.laws import Step, find_violations, read_trajectory
from tests.service import VIOLATIONS, Service, serve

ONE_ROUND = Budget(weights=0.6)
TWO_ROUNDS = Budget(weights=0.3)
SLOW = pytest.mark.slow  # A search writes to a database for a second; the long suite has time.


class Stopped(BaseException):
    """Stands for a kill inside one process."""


def make_service(folder: Path, batch: int = 0, **changes: Any) -> Service:
    search = SearchSettings(evaluations=6, batch=batch, chains=2, finalize_top=2)
    service = Service(folder=str(folder), search=search, budget=ONE_ROUND, workers=3)
    return replace(service, **changes)


def list_wrong(service: Service) -> list[str]:
    """Return what is wrong with a finished search, while it ran and afterwards."""
    root = Path(service.folder)
    noted = root / VIOLATIONS
    found = noted.read_text().splitlines() if noted.exists() else []
    found += [f"{key} was run again" for what, key in read_runs(root) if what == "again"]
    return [*found, *find_violations(service.settings)]


def list_states(service: Service) -> set[TrialState]:
    study = open_study(service.settings.name, service.settings.storage)
    return {trial.state for trial in study.get_trials(deepcopy=False)}


def find_most_runs(service: Service) -> int:
    """Return how often the most frequent evaluation ran, those apart that always fail."""
    failed = {key for _, key, energy, _, _ in read_trajectory(service.settings) if energy is None}
    return max(n for key, n in count_runs(Path(service.folder)).items() if key not in failed)


def flake(key: str, attempt: int) -> Fault:
    """Let the first attempts of most jobs fail: none of them in three, one, or two."""
    faults: tuple[Fault, ...] = ("crash", "diverge", "hang")
    return faults[int(key[1], 16) % 3] if attempt < int(key[0], 16) % 3 else ""


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    """Return the trajectory of an uninterrupted search in batches of three."""
    service = make_service(tmp_path_factory.mktemp("steps"), batch=3, workers=1)
    serve(service)
    return read_trajectory(service.settings)


def test_batches_do_not_depend_on_workers_and_order(tmp_path: Path, steps: list[Step]) -> None:
    services = [
        make_service(tmp_path / str(workers), batch=3, workers=workers, order=workers)
        for workers in (2, 4)
    ]

    for service in services:
        serve(service)

    assert [read_trajectory(service.settings) for service in services] == [steps, steps]
    assert [list_wrong(service) for service in services] == [[], []]
    assert {temperature is None for *_, temperature in steps} == {True, False}


@pytest.mark.slow  # Six searches of two rounds.
@pytest.mark.parametrize(("batch", "chains"), [(2, 1), (5, 3)])
def test_no_size_of_batches_depends_on_workers(tmp_path: Path, batch: int, chains: int) -> None:
    search = SearchSettings(evaluations=8, batch=batch, chains=chains, finalize_top=3)
    services = [
        make_service(tmp_path / str(workers), search=search, workers=workers, budget=TWO_ROUNDS)
        for workers in (1, 3, 5)
    ]

    for service in services:
        serve(service)

    first, *others = (read_trajectory(service.settings) for service in services)
    assert others == [first, first]
    assert [list_wrong(service) for service in services] == [[], [], []]


def test_flaky_evaluations_change_no_batch(tmp_path: Path, steps: list[Step]) -> None:
    service = make_service(tmp_path, batch=3, order=5, fault=flake, late=True)

    serve(service)

    study = open_study("fake", service.settings.storage)
    attempts = {trial.user_attrs["attempt"] for trial in study.get_trials()}
    assert read_trajectory(service.settings) == steps
    assert list_wrong(service) == []
    assert attempts == {1, 2, 3}


@pytest.mark.parametrize("order", [0, *(pytest.param(n, marks=SLOW) for n in (1, 2, 3))])
def test_an_asynchronous_search_can_be_replayed(tmp_path: Path, order: int) -> None:
    service = make_service(tmp_path, order=order, late=True, budget=TWO_ROUNDS)

    serve(service)

    steps = read_trajectory(service.settings)
    assert list_wrong(service) == []
    assert len({key for _, key, *_ in steps}) == len(steps) == 6 + 1 + 6 + 2
    assert find_most_runs(service) == 1


@pytest.mark.slow  # Optuna's samplers take their time.
@pytest.mark.parametrize("searcher", ["random", "uniform", "global", "tpe", "nsga2"])
def test_other_searchers_can_be_replayed_too(tmp_path: Path, searcher: str) -> None:
    search = SearchSettings(evaluations=12 if searcher != "uniform" else 5, searcher=searcher)  # type: ignore[arg-type]
    service = make_service(tmp_path, search=search, fault=flake)

    serve(service)

    assert list_wrong(service) == []
    assert find_most_runs(service) == 1


@pytest.mark.parametrize("batch", [0, 3])
def test_equal_proposals_are_evaluated_once(tmp_path: Path, batch: int) -> None:
    space = SpaceSettings(column_density=(1.0, 1.0), filters={"a": (0.5, 0.5)})
    service = make_service(tmp_path, batch=batch, space=space)

    serve(service)

    steps = read_trajectory(service.settings)
    assert len({key for _, key, *_ in steps}) < len(steps) - 2
    assert find_most_runs(service) == 1
    assert list_wrong(service) == []


@pytest.mark.parametrize("batch", [0, pytest.param(4, marks=SLOW)])
def test_an_extension_goes_on_from_a_finished_search(tmp_path: Path, batch: int) -> None:
    service = make_service(tmp_path, batch=batch)
    serve(service)
    before = read_trajectory(service.settings)

    serve(service, extension=Extension(evaluations=6))

    after = read_trajectory(service.settings)
    assert after[: len(before)] == before
    assert len(after) in range(len(before) + 6, len(before) + 9)
    assert find_most_runs(service) == 1
    assert list_wrong(service) == []


@pytest.mark.parametrize("batch", [3, pytest.param(0, marks=SLOW)])
def test_stops_for_time_and_other_workers_change_nothing(
    tmp_path: Path, batch: int, steps: list[Step]
) -> None:
    rng = random.Random(batch)
    service = make_service(tmp_path, batch=batch)
    states = set[TrialState]()

    for workers in (1, 4, 2, 3):
        # The clock counts how often it is asked, so that the time is over anywhere.
        part = replace(service, workers=workers, order=workers, stop_after_s=rng.randrange(5, 12))
        serve(part, clock=itertools.count().__next__)
        states |= list_states(service)
    serve(service)

    assert list_wrong(service) == []
    assert find_most_runs(service) == 1
    assert TrialState.RUNNING not in states
    if batch:
        assert read_trajectory(service.settings) == steps


def test_a_stop_for_time_leaves_nothing_running(tmp_path: Path) -> None:
    states = []

    # The oldest of a batch waits for another attempt, and the others for the oldest.
    for clock_s in (8, 9, 10):
        service = make_service(tmp_path / str(clock_s), batch=3, workers=2, order=8, fault=flake)
        serve(replace(service, stop_after_s=clock_s), clock=itertools.count().__next__)
        states.append(list_states(service))

    assert TrialState.WAITING in set.union(*states)
    assert TrialState.RUNNING not in set.union(*states)


def test_models_of_several_trials_are_finished_at_the_same_time(tmp_path: Path) -> None:
    service = make_service(tmp_path, workers=3)
    serve(service)
    study = open_study(service.settings.name, service.settings.storage)
    records = [one for one in read_records(study) if math.isfinite(one.energy)]
    there = {one.candidate.key() for one in records if one.stage == "full"}
    rest = [one for one in records if one.candidate.key() not in there]
    scored = [one.number for one in rest if one.stage == "fast"][:3]
    running: list[int] = []

    def watch(progress: SearchProgress) -> None:
        running.append(progress.running)

    wiring = Wiring(make_evaluator=FakeEvaluator, make_executor=service.make_executor, watch=watch)
    with hold_controller(service.settings, wiring) as controller:
        found = controller.finalize([*scored, scored[0]])

    assert max(running) == 3
    assert [one.stage for one in found] == ["full"] * 4
    assert found[0] == found[3]
    assert len({one.number for one in found}) == 3


def test_to_finish_a_model_keeps_half_a_batch_together(tmp_path: Path, steps: list[Step]) -> None:
    passed = itertools.count()

    def stop(name: str) -> None:
        if name == "created" and next(passed) == 4:
            raise Stopped

    service = make_service(tmp_path, batch=3)
    with pytest.raises(Stopped):
        serve(service, stop)
    wiring = Wiring(make_evaluator=FakeEvaluator, make_executor=service.make_executor)
    with hold_controller(service.settings, wiring) as controller:
        controller.finalize([0])
    serve(service)

    scored = [step[1:] for step in steps[:6]]
    after = [step[1:] for step in read_trajectory(service.settings)]
    assert [one for one in after if one[0] in {key for key, *_ in scored}] == scored
    assert list_wrong(service) == []


@pytest.mark.parametrize("batch", [0, pytest.param(3, marks=SLOW)])
def test_ctrl_c_loses_nothing(
    tmp_path: Path, batch: int, steps: list[Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(tmp_path, batch=batch)
    run, left = FormulaRunner.run, iter(range(4))

    def interrupt(runner: FormulaRunner, job: Job) -> Outcome:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return run(runner, job)

    with monkeypatch.context() as patch:
        patch.setattr(FormulaRunner, "run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            serve(service)
    states = list_states(service)
    serve(service)

    assert TrialState.RUNNING not in states
    assert list_wrong(service) == []
    assert find_most_runs(service) == 1
    if batch:
        assert read_trajectory(service.settings) == steps


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, steps: list[Step]) -> None:
    rng = random.Random(0)
    service = make_service(tmp_path, batch=3)

    serve(service, clock=lambda: rng.uniform(-1e6, 1e6))

    assert read_trajectory(service.settings) == steps


def test_the_number_of_chains_is_that_of_the_first_start(tmp_path: Path) -> None:
    def settle(workers: int, chains: int = 0, name: str = "fake", evaluations: int = 200) -> int:
        settings = make_search(
            str(tmp_path),
            name=name,
            search=SearchSettings(chains=chains, evaluations=evaluations),
            execute=ExecuteSettings(workers=workers),
        )
        settings = settle_chains(settings)
        spec = {"search": {"chains": settings.search.chains}}
        with hold_study(settings.name, settings.storage, spec):
            return settings.search.chains

    assert settle(3) == 3
    assert settle(1) == settle(8) == settle(2, chains=3) == 3
    with pytest.raises(SpecMismatchError, match=r"search\.chains is 3 in the study but 2"):
        settle(3, chains=2)
    assert settle(8, name="short", evaluations=99) == 1
    assert settle(16, name="long", evaluations=1000) == 8


def test_no_step_reads_all_trials_as_optuna_copies_them() -> None:
    found = [
        f"{path.name}: {node.attr}"
        for path in sorted(Path(autocompress.search.__file__).parent.glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and is_slow(node)
    ]

    assert found == []


def is_slow(node: ast.Attribute) -> bool:
    return node.attr in {"trials", "best_trials", "best_trial", "best_params", "best_value"}
