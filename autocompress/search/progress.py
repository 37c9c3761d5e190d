"""What a search tells those who watch it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from autocompress.search.records import Record

Phase = Literal["dense", "latency", "search", "round", "full", "waiting", "done", "stopped"]


@dataclass(frozen=True, kw_only=True)
class SearchProgress:
    """How far a search is.

    Attributes:
        phase: ``dense`` while the dense model is trained, ``latency`` while a worker measures how
            long its layers take, ``search`` while candidates are scored, ``round`` and ``full``
            while a model is pruned, then ``done``; ``waiting`` while the database is away,
            ``stopped`` after Ctrl-C.
        round: The current round, from 0.
        rounds: Rounds planned at present; a rolled-back round adds one.
        done: Evaluations decided, of all kinds and rounds.
        total: Evaluations planned at present.
        best: Lowest energy of the round's scored candidates; None before the first.
        accepted_share: Share of the round's annealing moves that were accepted; None before
            the first.
        left_s: Seconds left, from the evaluations so far; None when unknown.
        running: Evaluations that run now.
        record: The decision that this is told for; None when it is none.
    """

    phase: Phase
    round: int = 0
    rounds: int = 1
    done: int = 0
    total: int = 0
    best: float | None = None
    accepted_share: float | None = None
    left_s: float | None = None
    running: int = 0
    record: Record | None = None


Watch = Callable[[SearchProgress], None]


def ignore_progress(progress: SearchProgress) -> None:
    """Do nothing with ``progress``."""
