import math
from dataclasses import replace

import pytest

from autocompress.errors import EvaluationError, SettingError
from autocompress.jobs import Candidate
from autocompress.search.book import Book
from autocompress.search.records import Record
from autocompress.search.rounds import Course, Plan, Round, RoundSettings, plan_rounds
from autocompress.settings import parse_settings


def make_course(reduction: float = 8.0, evaluations: int = 2, finalize_top: int = 1) -> Course:
    return Course(
        settings=RoundSettings(step=2.0, tolerance=0.02),
        evaluations=evaluations,
        finalize_top=finalize_top,
        reduction=reduction,
        dense_energy=-0.98,
    )


def play(course: Course, pruned: dict[int, float], scores: float = 1.0) -> list[Plan]:
    """Follow the plan to its end; ``pruned`` gives the energies of round models."""
    records: list[Record] = []
    plans = [plan_rounds(course, Book(records))]
    while plans[-1].todo != "done":
        plan = plans[-1]
        stage = plan.todo
        assert stage != "done"
        energy = scores + len(records) * 0.1
        if stage == "round":
            energy = pruned.get(plan.round.number, -0.98)
        records.append(
            Record(
                seq=len(records),
                number=len(records),
                stage=stage,
                round=plan.round.number,
                candidate=Candidate(filters={"a": len(records) + 1}, columns={})
                if not plan.chosen
                else plan.chosen[0].candidate,
                energy=energy,
                artifact=f"model{plan.round.number}",
            )
        )
        plans.append(plan_rounds(course, Book(records)))
    return plans


def list_rounds(plans: list[Plan]) -> list[Round]:
    return list(plans[-1].opened)


def test_rounds_of_at_most_the_step_reach_the_budget() -> None:
    plans = play(make_course(reduction=6.0), {})

    rounds = list_rounds(plans)

    assert [one.goal for one in rounds] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [one.base for one in rounds] == ["", "model0", "model1"]
    assert {plan.rounds for plan in plans} == {3}
    stages = [plan.todo for plan in plans]
    assert stages == [*["fast", "fast", "round"] * 2, "fast", "fast", "full", "done"]


def test_one_round_is_enough_for_a_small_reduction() -> None:
    assert [plan.todo for plan in play(make_course(reduction=1.0), {})][-2:] == ["full", "done"]
    assert len(list_rounds(play(make_course(reduction=2.0), {}))) == 1


def test_a_bad_round_is_rolled_back_once_with_a_smaller_step() -> None:
    rounds = list_rounds(play(make_course(reduction=4.0), {0: -0.90}))

    assert [(one.base, one.start, one.goal, one.again) for one in rounds] == [
        ("", 0.0, 0.5, False),
        ("", 0.0, 0.25, True),
        ("model1", 0.25, pytest.approx(0.625), False),
        ("model2", pytest.approx(0.625), 1.0, False),
    ]


def test_a_round_that_stays_bad_is_kept_the_second_time() -> None:
    rounds = list_rounds(play(make_course(reduction=4.0), {0: -0.90, 1: -0.91}))

    assert rounds[2].base == "model1"


def test_a_round_that_cannot_be_pruned_twice_ends_the_search() -> None:
    with pytest.raises(EvaluationError, match="round 1: trial 5 could not be pruned"):
        play(make_course(reduction=4.0), {0: math.nan, 1: math.nan})


def test_the_best_candidates_are_finished_each_once() -> None:
    plans = play(make_course(reduction=2.0, evaluations=4, finalize_top=2), {})

    chosen = [plan.chosen[0].seq for plan in plans if plan.todo == "full" and plan.chosen]

    assert chosen == [0, 1]


def test_a_round_without_any_score_ends_the_search() -> None:
    with pytest.raises(EvaluationError, match="no candidate could be evaluated"):
        play(make_course(), {}, scores=math.nan)


@pytest.mark.parametrize("wrong", [{"step": 1.0}, {"tolerance": -0.1}, {"halvings": -1}])
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError, match=r"rounds\."):
        parse_settings(RoundSettings, wrong)


def test_a_model_that_could_not_be_finished_is_wanted_again() -> None:
    course = make_course(reduction=1.0, evaluations=1)
    scored = Record(
        seq=0,
        number=0,
        stage="fast",
        round=0,
        candidate=Candidate(filters={"a": 1}, columns={}),
        energy=1.0,
        artifact="",
    )
    failed = replace(scored, seq=1, number=1, stage="full", energy=math.nan)

    plan = plan_rounds(course, Book([scored, failed]))

    assert (plan.todo, plan.chosen) == ("full", (scored,))
