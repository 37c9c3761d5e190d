"""What a study says to those who look at it from elsewhere: how far it is, and how fast."""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from autocompress.errors import EvaluationError
from autocompress.search.book import Book
from autocompress.search.forecast import count_left, estimate_seconds, recall_course
from autocompress.search.ledger import read_records
from autocompress.search.records import Record
from autocompress.search.rounds import plan_rounds
from autocompress.search.spec import Settings

LATELY = 20  # Decisions of which the speed is taken.
Todo = Literal["fast", "round", "full", "done", "failed"]


@dataclass(frozen=True, kw_only=True)
class Sight:
    """How far a search is.

    Attributes:
        todo: What it does next; None where the study does not say.
        round: The current round, from 0.
        rounds: Rounds planned at present; None when unknown.
        decided: Evaluations decided.
        total: Evaluations planned at present; None when unknown.
        running: Evaluations that were begun and are not decided.
        waiting: Evaluations that wait for a worker.
        rejected: Evaluations that were given up.
        retried: Attempts beyond the first ones, after a failure.
        lost: Evaluations begun again because their worker or controller ended.
        best: Lowest energy of the round's scored candidates; None before the first.
        model: The finished model of the lowest energy; None before the first.
        last: When the last decision was told; None before the first.
        per_minute: Decisions per minute lately, until now; None before the second.
        left_s: Seconds left; None when unknown.
        error: Why nothing more is planned, when ``todo`` is ``failed``.
    """

    todo: Todo | None = None
    round: int = 0
    rounds: int | None = None
    decided: int = 0
    total: int | None = None
    running: int = 0
    waiting: int = 0
    rejected: int = 0
    retried: int = 0
    lost: int = 0
    best: float | None = None
    model: Record | None = None
    last: datetime | None = None
    per_minute: float | None = None
    left_s: float | None = None
    error: str = ""


def look(study: optuna.Study, settings: Settings, now: datetime) -> Sight:
    """Return how far the search of a study is.

    Args:
        study: Open for reading.
        settings: Its settings.
        now: With a time zone.

    Raises:
        StudyError: The study is damaged.
    """
    attrs = study.user_attrs
    trials = study.get_trials(deepcopy=False)
    book = Book(read_records(study))
    course, plan, error = recall_course(settings, attrs), None, ""
    try:
        plan = None if course is None else plan_rounds(course, book)
    except EvaluationError as wrong:
        error = str(wrong)
    undecided = [one for one in trials if "verdict" not in one.user_attrs]
    running = sum(one.state is TrialState.RUNNING for one in undecided)
    current = _find_round(book) if plan is None else plan.round.number
    energies = [one.energy for one in book.find(current, "fast") if math.isfinite(one.energy)]
    ends = list_ends(trials, int(attrs.get("utc_offset_s", find_offset(now))))
    left = None if plan is None or course is None else count_left(course, plan, book)
    return Sight(
        todo="failed" if error else None if plan is None else plan.todo,
        round=current,
        rounds=None if plan is None else plan.rounds,
        decided=len(book),
        total=None if left is None else len(book) + sum(left.values()),
        running=running,
        waiting=sum(one.state is TrialState.WAITING for one in undecided),
        rejected=sum(not math.isfinite(one.energy) for one in book.records),
        retried=_count_repeats(trials, "attempt", 1),
        lost=_count_repeats(trials, "losses", 0),
        best=min(energies, default=None),
        model=_find_model(book),
        last=ends[-1] if ends else None,
        per_minute=measure_speed(ends, now),
        left_s=None if left is None else estimate_seconds(left, book, max(1, running)),
        error=error,
    )


def list_ends(trials: Sequence[FrozenTrial], offset_s: int) -> list[datetime]:
    """Return when each decision was told, in the order of the decisions.

    Args:
        trials: Of a study.
        offset_s: Seconds by which the clock of the machine that wrote them is ahead of UTC.
    """
    zone = timezone(timedelta(seconds=offset_s))
    ends = {
        int(json.loads(one.user_attrs["verdict"])["seq"]): one.datetime_complete
        for one in trials
        if "verdict" in one.user_attrs
    }
    return [end.replace(tzinfo=zone) for _, end in sorted(ends.items()) if end is not None]


def measure_speed(ends: Sequence[datetime], now: datetime) -> float | None:
    """Return the decisions per minute since a few decisions ago; None when there were none."""
    latest = ends[-LATELY:]
    if len(latest) < 2:
        return None
    seconds = max(now, latest[-1]).timestamp() - latest[0].timestamp()
    return 60 * (len(latest) - 1) / seconds if seconds > 0 else None


def find_offset(now: datetime) -> int:
    """Return the seconds by which the clock of this machine is ahead of UTC."""
    offset = now.astimezone().utcoffset()
    return 0 if offset is None else round(offset.total_seconds())


def _find_round(book: Book) -> int:
    return max((one.round for one in book.records), default=0)


def _find_model(book: Book) -> Record | None:
    models = [one for one in book.records if one.stage == "full" and math.isfinite(one.energy)]
    return min(models, key=lambda one: one.energy, default=None)


def _count_repeats(trials: Sequence[FrozenTrial], counter: str, first: int) -> int:
    """Return how often evaluations were repeated, which every repetition counts on."""
    most: dict[int, int] = defaultdict(int)
    for one in trials:
        if counter in one.user_attrs:
            origin = int(one.user_attrs.get("origin", -1))
            key = one.number if origin < 0 else origin
            most[key] = max(most[key], int(one.user_attrs[counter]) - first)
    return sum(most.values())
