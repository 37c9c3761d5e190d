"""Progressive rounds: how far each goes, and what is to be done next, from the records alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from autocompress.errors import EvaluationError, SettingError
from autocompress.search.book import Book
from autocompress.search.records import Record


@dataclass(frozen=True, kw_only=True)
class RoundSettings:
    """How the budget is approached.

    Attributes:
        step: Factor by which a round reduces the most demanding resource at most, above 1.
        tolerance: Most by which the metric may be worse than the dense model's after a round,
            in units of the metric; beyond it the round is rolled back and tried once more with
            half the step (on a logarithmic scale). Of no effect with ``budget.worst_metric``.
        halvings: Rounds of half the step of the one before, once a round missed
            ``budget.worst_metric``: the more, the nearer to the smallest model that holds it.
    """

    step: float = 2.0
    tolerance: float = 0.03
    halvings: int = 2

    def __post_init__(self) -> None:
        if not self.step > 1:
            raise SettingError(f"rounds.step: want a factor above 1, got {self.step}")
        if not self.tolerance >= 0:
            raise SettingError(f"rounds.tolerance: want 0 or more, got {self.tolerance}")
        if not self.halvings >= 0:
            raise SettingError(f"rounds.halvings: want 0 or more, got {self.halvings}")


@dataclass(frozen=True, kw_only=True)
class Course:
    """What the plan of rounds follows from, apart from the records.

    Attributes:
        settings: The settings of rounds.
        evaluations: Fast evaluations per round.
        extra: Fast evaluations beyond them in the last round, when the study was extended.
        finalize_top: Finished models wanted of the last round.
        reduction: Dense cost over budget, for the most demanding resource.
        dense_energy: The dense model's metric as a full evaluation would report its energy.
        worst_energy: Energy that a round's model may have at most for a smaller one to be
            tried; None when it is the budget that says where to end.
        enough: With ``worst_energy``, the least progress of a model within every limit.
        base: Key of the model where the first round starts; empty for the dense one.
        start: Its progress.
    """

    settings: RoundSettings
    evaluations: int
    extra: int = 0
    finalize_top: int
    reduction: float
    dense_energy: float
    worst_energy: float | None = None
    enough: float = 0.0
    base: str = ""
    start: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round: search candidates of a base, then prune to the best.

    Attributes:
        number: From 0; a round that was rolled back keeps its number.
        base: Key of the model it starts from; empty for the dense one.
        start: Progress of the base towards the budget, 0..1 on a logarithmic scale.
        goal: Progress after the round.
        again: Whether the round before was rolled back.
        is_last: Whether models are finished of its candidates.
    """

    number: int
    base: str
    start: float
    goal: float
    again: bool = False
    is_last: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where a search stands.

    Attributes:
        round: The current round.
        todo: What is to be evaluated next; ``done`` when nothing is.
        chosen: The scored candidates that ``round`` or ``full`` evaluations are for.
        rounds: Rounds expected in all; at most so many when a metric is to hold.
        opened: All rounds so far by number, those rolled back too.
        missed: Why there is no model as wanted, once that is clear; empty otherwise.
    """

    round: Round
    todo: Literal["fast", "round", "full", "done"]
    chosen: tuple[Record, ...] = ()
    rounds: int = 1
    opened: tuple[Round, ...] = ()
    missed: str = ""

    def find_round(self, number: int) -> Round:
        """Return the round called ``number``."""
        return self.opened[number]


def plan_rounds(course: Course, book: Book) -> Plan:
    """Return what to do next after all decisions of a study.

    Raises:
        EvaluationError: Every candidate of a round failed, or a round failed twice.
    """
    if course.worst_energy is not None:
        return _plan_descent(course, book)
    current, opened = _start_round(course, 0, course.base, course.start), tuple[Round, ...]()
    while True:
        opened = (*opened, current)
        pruned = book.find(current.number, "round")
        if current.is_last or not pruned:
            rounds = current.number + count_rounds(course, current)
            return replace(_plan_round(course, current, book), rounds=rounds, opened=opened)
        current = _follow(course, current, pruned[0])


def count_evaluations(course: Course, current: Round) -> int:
    """Return how many fast evaluations are asked for in a round."""
    return course.evaluations + (course.extra if current.is_last else 0)


def rank_scored(scored: Sequence[Record]) -> list[Record]:
    """Return the different candidates that were scored, best first."""
    finite = [one for one in scored if math.isfinite(one.energy)]
    ranked = sorted(finite, key=lambda one: (one.energy, one.seq))
    return list({one.candidate.key(): one for one in reversed(ranked)}.values())[::-1]


def count_rounds(course: Course, current: Round) -> int:
    """Return how many rounds are left, ``current`` included."""
    if current.is_last:
        return 1
    return 1 + _count_steps(course, current.goal)


def is_too_bad(course: Course, record: Record) -> bool:
    """Return whether a pruned model is worse than the dense one by more than allowed."""
    if not math.isfinite(record.energy):
        return True
    return record.energy - course.dense_energy > course.settings.tolerance


def holds_metric(course: Course, record: Record) -> bool:
    """Return whether a model is as good as the budget wants; always, when it does not say."""
    worst = math.inf if course.worst_energy is None else course.worst_energy
    return math.isfinite(record.energy) and record.energy <= worst


def _plan_round(course: Course, current: Round, book: Book) -> Plan:
    """Return what is to be done in a round that is not over."""
    scored = book.find(current.number, "fast")
    if book.count_asked(current.number) < count_evaluations(course, current):
        return Plan(round=current, todo="fast")
    best = rank_scored(scored)
    if not best:
        raise EvaluationError(
            f"round {current.number}: no candidate could be evaluated; see the errors of the "
            "study's trials"
        )
    if not current.is_last:
        return Plan(round=current, todo="round", chosen=(best[0],))
    full = book.find(current.number, "full")
    # One that failed stopped the search: whoever starts it again wants it tried again.
    finished = {one.candidate.key() for one in full if math.isfinite(one.energy)}
    wanted = best[: course.finalize_top]
    chosen = tuple(one for one in wanted if one.candidate.key() not in finished)
    return Plan(round=current, todo="full" if chosen else "done", chosen=chosen)


def _follow(course: Course, current: Round, pruned: Record) -> Round:
    """Return the round after ``current``, whose best candidate became ``pruned``."""
    failed = not math.isfinite(pruned.energy)
    if failed and current.again:
        raise EvaluationError(
            f"round {current.number}: trial {pruned.number} could not be pruned, also with the "
            "smaller step; see its error"
        )
    if is_too_bad(course, pruned) and not current.again:
        goal = current.start + (current.goal - current.start) / 2
        return Round(
            number=current.number + 1,
            base=current.base,
            start=current.start,
            goal=goal,
            again=True,
        )
    return _start_round(course, current.number + 1, pruned.artifact, current.goal)


def _start_round(course: Course, number: int, base: str, start: float) -> Round:
    steps = _count_steps(course, start)
    goal = 1.0 if steps == 1 else start + (1.0 - start) / steps
    return Round(number=number, base=base, start=start, goal=goal, is_last=goal >= 1)


def _plan_descent(course: Course, book: Book) -> Plan:
    """Return what to do next where one resource is minimised while the metric holds.

    A model of another study may be the smallest that holds: when no round from there does, the
    search begins again with the dense one.
    """
    plan = _descend(course, book)
    if plan.missed and course.base:
        plan = _descend(replace(course, base="", start=0.0), book, plan.opened)
    return plan


def _descend(course: Course, book: Book, before: Sequence[Round] = ()) -> Plan:
    """Return what to do next of a descent, after the rounds ``before`` it.

    Rounds go down by the step until one misses the metric; then the step is halved a few times,
    as in a binary search. Last, models are finished of the lowest round that held, or, when
    they miss the metric, of the round before it.
    """
    settings = course.settings
    step = math.log(settings.step) / max(math.log(course.reduction), 1e-9)
    opened, held = list(before), list[Round]()
    start, base, halvings = course.start, course.base, -1
    again = False
    while True:
        goal = start + step
        current = Round(
            number=len(opened),
            base=base,
            start=start,
            goal=1.0 if goal > 1 - 1e-6 else goal,
            again=again,
        )
        opened.append(current)
        pruned = book.find(current.number, "round")
        if not pruned:
            steps = math.ceil((1 - start) / step - 1e-6)
            rounds = current.number + (steps if halvings < 0 else settings.halvings - halvings)
            plan = _plan_round(course, current, book)
            return replace(plan, rounds=max(rounds, len(opened)), opened=tuple(opened))
        again = not holds_metric(course, pruned[0])
        if not again:
            held.append(current)
            start, base = current.goal, pruned[0].artifact
        if again or halvings >= 0:
            halvings, step = halvings + 1, step / 2
        if start >= 1 or halvings >= settings.halvings:
            return _plan_ascent(course, book, opened, held)


def _plan_ascent(
    course: Course, book: Book, opened: Sequence[Round], held: Sequence[Round]
) -> Plan:
    """Return which models to finish: of the lowest round that held, else of the one above."""
    rounds = list(opened)
    usable = [one for one in held if one.goal >= course.enough - 1e-6]
    for place, one in enumerate(reversed(usable)):
        # Only the first may be extended: the others were searched before it.
        rounds[one.number] = current = replace(one, is_last=True)
        alone = course if place == 0 else replace(course, extra=0)
        plan = replace(_plan_round(alone, current, book), rounds=len(rounds))
        finished = book.find(current.number, "full")
        if plan.todo != "done" or any(holds_metric(course, full) for full in finished):
            return replace(plan, opened=tuple(rounds))
    return Plan(
        round=rounds[usable[-1].number if usable else -1],
        todo="done",
        rounds=len(rounds),
        opened=tuple(rounds),
        missed=_describe_miss(book, held, usable),
    )


def _describe_miss(book: Book, held: Sequence[Round], usable: Sequence[Round]) -> str:
    """Return why no finished model holds the metric."""
    if usable:
        return (
            "no finished model holds budget.worst_metric, though models of rounds did: give "
            "evaluate.full more epochs or purify less, or allow a worse metric"
        )
    if held:
        return (
            "budget.worst_metric does not hold any more before the other limits of the budget "
            "are reached: allow a worse metric or more of them"
        )
    tried = len({one.round for one in book.records if one.stage == "round"})
    return (
        f"none of {tried} rounds held budget.worst_metric, not even the smallest step: allow a "
        "worse metric, give evaluate.round more epochs, or lower rounds.step"
    )


def _count_steps(course: Course, start: float) -> int:
    """Return how many rounds it takes from a progress to the end."""
    left = (1.0 - start) * math.log(course.reduction) / math.log(course.settings.step)
    return max(1, math.ceil(left - 1e-6))
