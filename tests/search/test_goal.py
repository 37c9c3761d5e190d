"""Searches for the smallest model that holds a metric, from settings to constraints."""

from dataclasses import replace
from pathlib import Path

import pytest

from autocompress.search.budget import Budget
from autocompress.search.controller import SearchResult, Wiring, hold_controller
from autocompress.search.ledger import read_records
from autocompress.search.rounds import RoundSettings
from autocompress.search.settings import SearchSettings
from autocompress.search.study import open_study
from autocompress.search.warm import Source
from tests.fakes import FakeEvaluator, make_search

GOAL = Budget(worst_metric=0.955, minimize="macs")


def search(
    folder: Path, budget: Budget, drop: float, source: Source | None = None
) -> SearchResult:
    settings = make_search(
        str(folder),
        budget=budget,
        search=SearchSettings(evaluations=2),
        rounds=RoundSettings(step=4.0, halvings=1),
    )
    evaluator = FakeEvaluator(drop=drop)
    wiring = Wiring(make_evaluator=lambda: evaluator)
    with hold_controller(settings, wiring, source=source) as controller:
        plan = controller.run()
        return SearchResult(
            settings=settings,
            evaluated=len(evaluator.jobs),
            records=tuple(controller.records),
            done=plan.todo == "done",
            missed=plan.missed,
        )


def test_the_answer_is_the_smallest_model_that_holds(tmp_path: Path) -> None:
    result = search(tmp_path, GOAL, drop=0.01)

    rounds = [one for one in result.records if one.stage == "round"]
    held = [one.metrics["macs"] for one in rounds if one.metrics["val_metric"] >= 0.955]
    best = result.finished[0]
    assert (result.done, result.missed) == (True, "")
    assert best.metrics["val_metric"] >= 0.955
    assert best.metrics["macs"] == min(held)
    assert len(held) < len(rounds)


def test_models_that_miss_the_metric_are_infeasible(tmp_path: Path) -> None:
    result = search(tmp_path, GOAL, drop=0.01)

    trials = open_study("fake", result.settings.storage).get_trials()
    for record in result.records:
        shortfall = trials[record.number].constraints.get("worst_metric")
        if record.stage == "fast":
            assert shortfall is None
        else:
            assert shortfall == pytest.approx(0.955 - record.metrics["val_metric"])


def test_a_metric_out_of_reach_is_said(tmp_path: Path) -> None:
    result = search(tmp_path, replace(GOAL, worst_metric=0.99), drop=0.01)

    assert result.done
    assert "none of 2 rounds held budget.worst_metric" in result.missed
    assert result.finished == []


def test_other_limits_hold_too(tmp_path: Path) -> None:
    result = search(tmp_path, replace(GOAL, bytes=0.3), drop=0.002)

    trials = open_study("fake", result.settings.storage).get_trials()
    best = result.finished[0]
    limits = trials[best.number].constraints
    assert limits.keys() == {"macs", "bytes", "worst_metric"}
    assert max(limits.values()) <= 0
    assert best.metrics["bytes"] <= 0.3 * (12 * 27 + 24 * 108 + 240) * 4 * 1.2


def test_a_finished_search_has_nothing_left_to_do(tmp_path: Path) -> None:
    first = search(tmp_path, GOAL, drop=0.01)

    again = search(tmp_path, GOAL, drop=0.01)

    assert again.evaluated == 0
    assert again.records == first.records
    assert list(again.records) == read_records(open_study("fake", again.settings.storage))


def test_what_a_source_held_a_study_from_it_holds_too(tmp_path: Path) -> None:
    budget = replace(GOAL, worst_metric=0.94)
    first = search(tmp_path / "first", budget, drop=0.01).settings
    source = Source(name=first.name, storage=first.storage, run_dir=first.run_dir)

    again = search(tmp_path / "again", budget, drop=0.01, source=source)

    start = open_study("fake", again.settings.storage).user_attrs["start"]
    assert start["base"]  # From where the source ended, so that nothing below it may hold.
    assert again.missed == ""
    assert again.finished[0].metrics["val_metric"] >= 0.94
