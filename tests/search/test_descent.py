"""Rounds that make a model as small as a metric allows."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.jobs import Candidate, Stage
from autocompress.search.book import Book
from autocompress.search.records import Record
from autocompress.search.rounds import Course, Plan, Round, RoundSettings, plan_rounds

Answer = Callable[[Stage, Round, int], float]  # Stage, round, how many of them before: energy.
WORST = -0.98
GOOD, BAD = -0.99, -0.97
REDUCTION = 64.0  # With steps of factor 2, six rounds to the smallest model.
COURSE = Course(
    settings=RoundSettings(step=2.0, halvings=2),
    evaluations=2,
    finalize_top=1,
    reduction=REDUCTION,
    dense_energy=-0.985,
    worst_energy=WORST,
)


def play(course: Course, answer: Answer) -> tuple[list[Plan], list[Record]]:
    """Follow the plan to its end; ``answer`` gives the energies of models."""
    records: list[Record] = []
    plans = [plan_rounds(course, Book())]
    while plans[-1].todo != "done":
        plan = plans[-1]
        stage = plan.todo
        assert stage != "done"
        before = sum(one.stage == stage for one in records)
        candidate = Candidate(filters={"a": len(records) + 1}, columns={})
        energy = 1.0 + 0.1 * len(records)
        if plan.chosen:
            candidate = plan.chosen[0].candidate
            place = plan.find_round(plan.chosen[0].round)
            energy = answer(stage, place, before)
        records.append(
            Record(
                seq=len(records),
                number=len(records),
                stage=stage,
                round=plan.round.number,
                candidate=candidate,
                energy=energy,
                artifact=f"model{plan.round.number}",
            )
        )
        plans.append(plan_rounds(course, Book(records)))
    return plans, records


def hold_until(boundary: float) -> Answer:
    """Return models that hold the metric up to a progress."""
    return lambda _stage, place, _before: GOOD if place.goal <= boundary else BAD


def list_finished(records: list[Record]) -> list[Record]:
    return [one for one in records if one.stage == "full"]


@given(st.floats(0.0, 1.0))
def test_the_end_is_within_a_quarter_step_of_the_boundary(boundary: float) -> None:
    plans, records = play(COURSE, hold_until(boundary))

    step = 1 / math.log2(REDUCTION)
    finished = list_finished(records)
    if boundary < step / 4:
        assert finished == []
        assert "not even the smallest step" in plans[-1].missed
    else:
        place = plans[-1].opened[finished[-1].round]
        assert place.goal <= boundary
        # Goals are sums of steps: rounding stays far below 1e-9.
        assert place.goal == 1 or boundary - place.goal <= step / 4 + 1e-9
        assert plans[-1].missed == ""


@given(st.lists(st.booleans(), min_size=12, max_size=12), st.lists(st.booleans(), max_size=9))
def test_the_finished_model_holds_whenever_one_can(rounds: list[bool], fulls: list[bool]) -> None:
    def answer(stage: Stage, place: Round, before: int) -> float:
        if stage == "round":
            return GOOD if rounds[place.number] else BAD
        return GOOD if before < len(fulls) and fulls[before] else BAD

    plans, records = play(COURSE, answer)

    held = [one.round for one in records if one.stage == "round" and one.energy <= WORST]
    finished = list_finished(records)
    assert sum(one.stage == "round" for one in records) <= 6 + COURSE.settings.halvings
    # The smallest first, and nothing more once one of them holds.
    assert [one.round for one in finished] == held[::-1][: len(finished)]
    assert [one.energy <= WORST for one in finished[:-1]] == [False] * (len(finished) - 1 or 0)
    if any(fulls[: len(held)]):
        assert finished[-1].energy <= WORST
        assert plans[-1].missed == ""
    else:
        assert len(finished) == len(held)
        assert plans[-1].missed


@given(st.floats(0.0, 1.0), st.floats(0.01, 0.99))
def test_a_start_elsewhere_never_costs_the_answer(boundary: float, start: float) -> None:
    alone, _ = play(COURSE, hold_until(boundary))

    plans, records = play(replace(COURSE, base="other", start=start), hold_until(boundary))

    assert bool(plans[-1].missed) <= bool(alone[-1].missed)
    opened = plans[-1].opened
    assert [one.number for one in opened] == list(range(len(opened)))
    assert (opened[0].base, opened[0].start) == ("other", start)
    again = [one for one in opened if (one.base, one.start) == ("", 0.0)]
    held = [one.round for one in records if one.stage == "round" and one.energy <= WORST]
    # The dense model is gone back to only when nothing from the start held.
    assert not again or all(number >= again[0].number for number in held)


@given(st.floats(0.0, 1.0))
def test_every_round_starts_from_the_last_that_held(boundary: float) -> None:
    plans, records = play(COURSE, hold_until(boundary))

    base, start = "", 0.0
    for place in plans[-1].opened:
        assert (place.base, place.start) == (base, start)
        pruned = next(r for r in records if (r.stage, r.round) == ("round", place.number))
        if pruned.energy <= WORST:
            base, start = pruned.artifact, place.goal


def test_steps_are_halved_around_the_boundary() -> None:
    plans, _ = play(COURSE, hold_until(0.45))

    goals = [place.goal * 6 for place in plans[-1].opened]

    assert goals == pytest.approx([1, 2, 3, 2.5, 2.75])
    assert [place.again for place in plans[-1].opened] == [False] * 3 + [True, False]
    assert plans[-1].round.number == 3


def test_a_round_that_cannot_be_pruned_does_not_hold() -> None:
    def answer(stage: Stage, place: Round, _before: int) -> float:
        return math.nan if place.goal > 0.2 and stage == "round" else GOOD

    plans, records = play(COURSE, answer)

    assert list_finished(records)[-1].round == 0
    assert len(plans[-1].opened) == 4


def test_models_above_another_limit_are_not_finished() -> None:
    course = replace(COURSE, enough=0.4)

    plans, records = play(course, hold_until(0.35))

    assert list_finished(records) == []
    assert "before the other limits" in plans[-1].missed


def test_more_evaluations_go_to_the_lowest_round_that_held() -> None:
    _, before = play(COURSE, hold_until(0.45))

    plans, records = play(replace(COURSE, extra=3, finalize_top=2), hold_until(0.45))

    assert records[: len(before) - 1] == before[:-1]
    added = records[len(before) - 1 :]
    assert [(one.stage, one.round) for one in added] == [("fast", 3)] * 3 + [("full", 3)] * 2
    assert plans[-1].todo == "done"


@given(st.floats(0.0, 1.0))
def test_no_more_rounds_are_needed_than_were_said(boundary: float) -> None:
    plans, _ = play(COURSE, hold_until(boundary))

    said = [plan.rounds for plan in plans]
    assert len(plans[-1].opened) <= max(said[0], 6) + COURSE.settings.halvings
    assert said[-1] == len(plans[-1].opened)
