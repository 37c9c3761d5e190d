"""Progressive rounds: how far each goes, and what is to be done next, from the records alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from autocompress.errors import EvaluationError, SettingError
from autocompress.jobs import Stage
from autocompress.search.book import Book
from autocompress.search.records import Record


@dataclass(frozen=True, kw_only=True)
class RoundSettings:
    """How the budget is approached.

    Attributes:
        step: Factor by which a round reduces the most demanding resource at most, above 1.
        tolerance: Most by which the metric may be worse than the dense model's after a round,
            in units of the metric; beyond it the round is rolled back and tried once more with
            half the step (on a logarithmic scale).
    """

    step: float = 2.0
    tolerance: float = 0.03

    def __post_init__(self) -> None:
        if not self.step > 1:
            raise SettingError(f"rounds.step: want a factor above 1, got {self.step}")
        if not self.tolerance >= 0:
            raise SettingError(f"rounds.tolerance: want 0 or more, got {self.tolerance}")


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
    """

    settings: RoundSettings
    evaluations: int
    extra: int = 0
    finalize_top: int
    reduction: float
    dense_energy: float


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round: search candidates of a base, then prune to the best.

    Attributes:
        number: From 0; a round that was rolled back keeps its number.
        base: Key of the model it starts from; empty for the dense one.
        start: Progress of the base towards the budget, 0..1 on a logarithmic scale.
        goal: Progress after the round.
        again: Whether the round before was rolled back.
    """

    number: int
    base: str
    start: float
    goal: float
    again: bool = False

    @property
    def is_last(self) -> bool:
        """Return whether the round ends at the budget."""
        return self.goal >= 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where a search stands.

    Attributes:
        round: The current round.
        todo: What is to be evaluated next; ``done`` when nothing is.
        chosen: The scored candidates that ``round`` or ``full`` evaluations are for.
        rounds: Rounds expected in all.
        passed: The rounds before, those rolled back too.
    """

    round: Round
    todo: Stage | Literal["done"]
    chosen: tuple[Record, ...] = ()
    rounds: int = 1
    passed: tuple[Round, ...] = ()

    def find_round(self, number: int) -> Round:
        """Return the round called ``number``."""
        return (*self.passed, self.round)[number]


def plan_rounds(course: Course, book: Book) -> Plan:
    """Return what to do next after all decisions of a study.

    Raises:
        EvaluationError: Every candidate of a round failed, or a round failed twice.
    """
    current, passed = _start_round(course, 0, "", 0.0), tuple[Round, ...]()
    while True:
        pruned = book.find(current.number, "round")
        if current.is_last or not pruned:
            return replace(_plan_round(course, current, book), passed=passed)
        passed, current = (*passed, current), _follow(course, current, pruned[0])


def count_evaluations(course: Course, current: Round) -> int:
    """Return how many fast evaluations a round has."""
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


def _plan_round(course: Course, current: Round, book: Book) -> Plan:
    """Return what is to be done in a round that is not over."""
    rounds = current.number + count_rounds(course, current)
    scored = book.find(current.number, "fast")
    if len(scored) < count_evaluations(course, current):
        return Plan(round=current, todo="fast", rounds=rounds)
    best = rank_scored(scored)
    if not best:
        raise EvaluationError(
            f"round {current.number}: no candidate could be evaluated; see the errors of the "
            "study's trials"
        )
    if not current.is_last:
        return Plan(round=current, todo="round", chosen=(best[0],), rounds=rounds)
    full = book.find(current.number, "full")
    # One that failed stopped the search: whoever starts it again wants it tried again.
    finished = {one.candidate.key() for one in full if math.isfinite(one.energy)}
    wanted = best[: course.finalize_top]
    chosen = tuple(one for one in wanted if one.candidate.key() not in finished)
    return Plan(round=current, todo="full" if chosen else "done", chosen=chosen, rounds=rounds)


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
    return Round(number=number, base=base, start=start, goal=goal)


def _count_steps(course: Course, start: float) -> int:
    left = (1.0 - start) * math.log(course.reduction) / math.log(course.settings.step)
    return max(1, math.ceil(left - 1e-6))
