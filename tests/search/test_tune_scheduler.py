"""What a scheduler of Tune may compare; Ray does not run here."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import ASHAScheduler, HyperBandScheduler, MedianStoppingRule

from autocompress.errors import SettingError
from autocompress.search.tune_scheduler import PerRound

STOP, CONTINUE = "STOP", "CONTINUE"


def make_scheduler() -> PerRound:
    return PerRound(ASHAScheduler(metric="energy", mode="min", reduction_factor=2, max_t=2))


def report(
    scheduler: PerRound, energy: float, *, stage: str = "fast", number: int = 0, step: int = 1
) -> str:
    trial: Any = SimpleNamespace(
        trial_id=f"{number} {energy}", config={"stage": stage, "round": number}
    )
    runner: Any = None
    scheduler.on_trial_add(runner, trial)
    result = {"energy": energy, "training_iteration": step}
    return scheduler.on_trial_result(runner, trial, result)


def test_a_candidate_is_stopped_for_better_ones_of_its_round() -> None:
    scheduler = make_scheduler()

    said = [report(scheduler, energy) for energy in (1.0, 3.0, 2.5, 0.5)]

    assert said == [CONTINUE, STOP, STOP, CONTINUE]


def test_a_later_round_is_judged_by_itself() -> None:
    scheduler = make_scheduler()
    for energy in (1.0, 0.9, 0.8):
        report(scheduler, energy)

    said = [report(scheduler, energy, number=1) for energy in (5.0, 6.0, 4.0)]

    assert said == [CONTINUE, STOP, CONTINUE]


def test_models_are_neither_stopped_nor_compared_with() -> None:
    scheduler = make_scheduler()

    said = [report(scheduler, energy, stage="round") for energy in (-0.9, -0.1, 7.0)]
    said += [report(scheduler, energy, stage="full") for energy in (-0.9, -0.1)]

    assert said == [CONTINUE] * 5
    assert report(scheduler, 3.0) == CONTINUE


def test_a_score_that_is_no_number_is_not_compared_with() -> None:
    scheduler = make_scheduler()

    assert report(scheduler, float("nan")) == CONTINUE
    assert [report(scheduler, energy) for energy in (1.0, 2.0)] == [CONTINUE, STOP]


def test_whoever_chooses_among_trials_is_refused() -> None:
    with pytest.raises(SettingError, match="only stops trials, such as ASHAScheduler, got Hyper"):
        PerRound(HyperBandScheduler(metric="energy", mode="min"))

    assert PerRound(MedianStoppingRule(metric="energy", mode="min")).metric == "energy"


def test_what_is_compared_may_be_named_later() -> None:
    scheduler = PerRound(ASHAScheduler(max_t=2, reduction_factor=2))

    assert scheduler.set_search_properties("energy", "min")

    assert [report(scheduler, energy) for energy in (1.0, 3.0)] == [CONTINUE, STOP]
    assert "Round 0" in scheduler.debug_string()
