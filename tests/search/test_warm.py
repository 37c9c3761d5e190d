"""A new study that starts from the evaluations of another one."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autocompress.errors import StudyError
from autocompress.evaluate.settings import EvaluateSettings
from autocompress.search.budget import Budget, measure_excess
from autocompress.search.controller import Wiring, hold_controller
from autocompress.search.guide import make_opening
from autocompress.search.ledger import read_records
from autocompress.search.needed import list_needed
from autocompress.search.records import Record
from autocompress.search.settings import SearchSettings
from autocompress.search.source import find_source, find_source_again
from autocompress.search.space import SpaceSettings
from autocompress.search.spec import Settings
from autocompress.search.study import open_study
from autocompress.search.warm import MOST_IMPORTS, Source, fetch_object
from autocompress.settings import parse_settings
from autocompress.store.run_folder import RunFolder
from tests.fakes import FakeEvaluator, make_search

EVALUATIONS = 4
DENSE = {"weights": 3156, "params": 3156, "macs": 62_448, "bytes": 12_624}
SEARCH = SearchSettings(evaluations=EVALUATIONS)
Row = tuple[int, str, str, float | None, bool]


class Stopped(BaseException):
    """Stands for a kill inside one process."""


def search(
    settings: Settings,
    source: Source | None = None,
    checkpoint: Callable[[str], None] = lambda _: None,
) -> tuple[list[Record], FakeEvaluator]:
    evaluator = FakeEvaluator(drop=0.001)
    wiring = Wiring(make_evaluator=lambda: evaluator, checkpoint=checkpoint)
    with hold_controller(settings, wiring, source=source) as controller:
        controller.run()
        return list(controller.records), evaluator


def make_settings(folder: Path, **changes: object) -> Settings:
    return make_search(str(folder), **{"search": SEARCH, **changes})


def read_rows(settings: Settings) -> list[Row]:
    trials = open_study(settings.name, settings.storage).get_trials(deepcopy=False)
    rows = [
        (json.loads(t.user_attrs["verdict"]), t.user_attrs)
        for t in trials
        if "verdict" in t.user_attrs
    ]
    return sorted(
        (one["seq"], attrs["key"], attrs.get("source", ""), one["energy"], one["accepted"])
        for one, attrs in rows
    )


def list_keys(settings: Settings, evaluator: FakeEvaluator) -> set[str]:
    evaluation = settings.evaluate.hash_for("fast", evaluator.dense_key)
    return {job.key(evaluation) for job in evaluator.jobs}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Source:
    settings = make_settings(tmp_path_factory.mktemp("first"), name="first")
    search(settings)
    return Source(name="first", storage=settings.storage, run_dir=settings.run_dir)


def read_source(source: Source) -> list[Record]:
    return read_records(open_study(source.name, source.storage))


@pytest.mark.parametrize("share", [0.2, 0.6])
@pytest.mark.parametrize("resource", ["macs", "params", "weights", "bytes"])
def test_nothing_that_is_stored_is_evaluated_again(
    tmp_path: Path, first: Source, resource: str, share: float
) -> None:
    budget = parse_settings(Budget, {resource: share})
    settings = make_settings(tmp_path, budget=budget)

    records, evaluator = search(settings, first)

    stored = {one.key for one in read_source(first)}
    assert not list_keys(settings, evaluator) & stored
    assert len(list_keys(settings, evaluator)) == len(evaluator.jobs)
    finished = records[-1]
    assert finished.stage == "full"
    asked = [one for one in records if one.stage == "fast" and not one.source]
    assert len(asked) == EVALUATIONS * (records[-1].round + 1)
    for one in records:
        assert one.metrics[resource] <= DENSE[resource]
        if one.source:
            name, number = one.source.split("/")
            there = read_source(first)
            origin = next(other for other in there if other.number == int(number))
            assert name == "first"
            assert (one.key, one.energy, one.candidate, one.base) == (
                origin.key,
                origin.energy,
                origin.candidate,
                origin.base,
            )
    last = open_study(settings.name, settings.storage).get_trials()[finished.number]
    assert max(last.constraints.values()) <= 0


def test_the_same_budget_begins_with_the_best_that_is_known(tmp_path: Path, first: Source) -> None:
    records, evaluator = search(make_settings(tmp_path), first)

    last = [one for one in read_source(first) if one.stage == "fast" and one.round == 1]
    best = min(last, key=lambda one: one.energy)
    assert (records[0].key, records[0].energy) == (best.key, best.energy)
    assert len([one for one in records if one.source]) == min(MOST_IMPORTS, len(last))
    assert [job.stage for job in evaluator.jobs if job.stage == "fast"] == ["fast"] * EVALUATIONS
    assert {one.round for one in records} == {0}  # It starts from the model of the first round.
    scored = [one for one in records if one.stage == "fast"]
    assert min(one.energy for one in scored) <= best.energy
    if min(scored, key=lambda one: one.energy).key == best.key:
        assert "full" not in {job.stage for job in evaluator.jobs}


def test_a_model_that_meets_one_of_two_limits_is_a_start(tmp_path: Path, first: Source) -> None:
    settings = make_settings(tmp_path, budget=Budget(weights=0.3, macs=0.95))

    records, _ = search(settings, first)

    assert {one.round for one in records} == {0}
    assert records[0].base == next(r for r in read_source(first) if r.stage == "round").artifact


def test_what_is_taken_over_counts_as_no_evaluation(tmp_path: Path, first: Source) -> None:
    settings = make_settings(tmp_path)

    records, _ = search(settings, first)

    taken = [one for one in records if one.source]
    asked = [one for one in records if one.stage == "fast" and not one.source]
    assert [one.seq for one in taken] == list(range(len(taken)))
    assert {one.index for one in taken} == {-1}
    assert [one.index for one in asked] == list(range(EVALUATIONS))
    assert {one.candidate.key() for one in taken}.isdisjoint(one.candidate.key() for one in asked)
    trials = open_study(settings.name, settings.storage).get_trials()
    verdicts = [json.loads(trial.user_attrs["verdict"]) for trial in trials]
    assert trials[asked[0].number].user_attrs["parent"] == taken[0].number
    assert [one["cached"] for one in verdicts[: len(taken)]] == [True] * len(taken)


def test_lower_limits_are_first_met_from_the_best_that_is_known(
    tmp_path: Path, first: Source
) -> None:
    settings = make_settings(tmp_path, budget=Budget(weights=0.25))
    records, evaluator = search(settings, first)

    with hold_controller(settings, Wiring(make_evaluator=lambda: evaluator)) as controller:
        ground = controller.open_site(controller.plan().find_round(0)).ground

    begun = [one for one in records if one.round == 0 and one.stage == "fast"]
    there = [one for one in read_source(first) if one.base == begun[0].base]
    best = min((one for one in there if one.stage == "fast"), key=lambda one: one.energy)
    assert ground.hints[0] == best.candidate
    assert begun[0].source or begun[0].candidate == make_opening(ground, 0)
    assert measure_excess(begun[0].metrics, ground.limits)["weights"] <= 0


@pytest.fixture(scope="module", params=[0, 3], ids=["serial", "batch"])
def whole(
    first: Source, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Settings:
    folder = tmp_path_factory.mktemp("whole")
    settings = make_settings(folder, search=replace(SEARCH, batch=request.param))
    search(settings, first)
    return settings


@pytest.mark.parametrize(
    ("place", "count"), [("created", 2), ("asked", 2), ("written", 3), ("told", 4)]
)
def test_a_stop_while_taking_over_changes_nothing(
    tmp_path: Path, first: Source, whole: Settings, place: str, count: int
) -> None:
    stopped = make_settings(tmp_path, search=whole.search)
    passed: list[str] = []

    def stop(name: str) -> None:
        passed.append(name)
        if passed.count(place) == count:
            raise Stopped

    with pytest.raises(Stopped):
        search(stopped, first, stop)
    search(stopped)

    assert read_rows(stopped) == read_rows(whole)


def test_the_source_may_vanish_once_the_study_was_begun(
    tmp_path: Path, first: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    moved = tmp_path / "moved"
    shutil.copytree(first.run_dir, moved)
    source = Source(name="first", storage=f"sqlite:///{moved}/study.db", run_dir=str(moved))
    whole, stopped = make_settings(tmp_path / "whole"), make_settings(tmp_path / "stopped")
    search(whole, source)

    def stop(name: str) -> None:
        if name == "told":
            raise Stopped

    with pytest.raises(Stopped):
        search(stopped, source, stop)
    shutil.rmtree(moved)
    for text in ("first", source.describe()):
        search(stopped, find_source_again(text, stopped))

    assert read_rows(stopped) == read_rows(whole)
    for text, settings in (("other", stopped), ("first", make_settings(tmp_path / "new"))):
        with pytest.raises(StudyError):
            find_source_again(text, settings)


def test_what_does_not_fit_the_new_space_is_left_out(tmp_path: Path, first: Source) -> None:
    space = SpaceSettings(filters_multiple_of=2)

    records, _ = search(make_settings(tmp_path, space=space), first)

    kept = [count for one in records for count in one.candidate.filters.values()]
    assert all(count % 2 == 0 for count in kept)


def test_another_seed_starts_there_but_asks_anew(tmp_path: Path, first: Source) -> None:
    settings = make_settings(tmp_path, seed=7)

    records, evaluator = search(settings, first)

    assert any(one.source for one in records)
    assert {job.seed for job in evaluator.jobs} == {7}
    assert "full" in {job.stage for job in evaluator.jobs}


def test_a_source_that_evaluates_otherwise_is_refused(tmp_path: Path, first: Source) -> None:
    evaluate = parse_settings(EvaluateSettings, {"fast": {"retrain": {"epochs": 9.0}}})
    settings = make_settings(tmp_path, evaluate=evaluate)

    with pytest.raises(StudyError, match=r"evaluate\.fast\.retrain\.epochs is .* there but 9"):
        search(settings, first)

    search(settings)  # Nothing was spoilt.


def test_a_study_keeps_to_where_it_began(tmp_path: Path, first: Source) -> None:
    cold, warm = make_settings(tmp_path / "cold"), make_settings(tmp_path / "warm")
    search(cold)
    search(warm, first)

    with pytest.raises(StudyError, match="was begun without 'first'"):
        search(cold, first)
    other = Source(name="fake", storage=cold.storage, run_dir=cold.run_dir)
    with pytest.raises(StudyError, match=r"was begun from .*#first, not from .*#fake"):
        search(warm, other)
    assert search(warm, first)[1].jobs == []


def test_a_source_is_found_by_its_name_or_url(
    tmp_path: Path, first: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = make_settings(tmp_path)
    shutil.copytree(first.run_dir, tmp_path / "runs" / "first")

    assert find_source(f"{first.storage}#first", settings) == first
    assert find_source("first", settings).storage == f"sqlite:///{tmp_path}/runs/first/study.db"
    same = replace(settings, storage=first.storage, name="second")
    assert find_source("first", same).storage == first.storage
    with pytest.raises(StudyError, match="cannot start from itself"):
        find_source("first", replace(same, name="first"))
    with pytest.raises(StudyError, match="'none': no database at"):
        find_source("none", settings)


def test_cleaning_keeps_what_was_taken_over(tmp_path: Path, first: Source) -> None:
    settings = make_settings(tmp_path)
    search(settings, first)
    study = open_study(settings.name, settings.storage)

    needed = list_needed([study], RunFolder(tmp_path))

    assert study.user_attrs["source"]["record"] in needed.results


def test_a_model_is_taken_over_whole(tmp_path: Path) -> None:
    there, here = RunFolder(tmp_path / "there"), RunFolder(tmp_path / "here")

    def fill(path: Path) -> None:
        (path / "inner").mkdir()
        (path / "inner" / "weights").write_bytes(b"1234")

    there.write("key1", fill)

    assert fetch_object("key1", there, here)
    assert (here.path("key1") / "inner" / "weights").read_bytes() == b"1234"
    assert fetch_object("key1", RunFolder(tmp_path / "gone"), here)
    assert not fetch_object("key2", there, here)
