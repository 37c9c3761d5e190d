"""Searchers that learn nothing: what every other one has to beat.

Both are pure functions of the index. With ``evaluate.fast.fidelity = "one_shot"``, random
search is EagleEye (arXiv:2007.02491): random densities, batch norms estimated again.
"""

import math
from collections.abc import Callable, Collection

import numpy as np

from autocompress.jobs import Candidate
from autocompress.search.anneal import Purpose, Schedule, draw
from autocompress.search.counts import FULL, Logits, make_candidate
from autocompress.search.fill import FILL_LOW, draw_fill, scale_limits
from autocompress.search.guide import REFILL, Ground, make_start
from autocompress.search.records import Record
from autocompress.search.searcher import Decision, Proposal

ATTEMPTS = 12
FILTERS_ONLY = 0.3  # Chance that a drawn point keeps all columns of all layers.
SPLIT_POWER = 2.0  # At 2, the fifth split already is nine to one in odds.
SPLITS = 5  # Splits between filters and columns that take turns when sizes differ too.


class RandomSearch:
    """Draws every density independently; its only state is the best record."""

    def __init__(self, schedule: Schedule, ground: Ground) -> None:
        self._schedule = schedule
        self._ground = ground
        self._best: Record | None = None

    @property
    def state(self) -> object:
        """Return the best record."""
        return self._best

    @property
    def best(self) -> Record | None:
        """Return the record of lowest energy; None before the first success."""
        return self._best

    @property
    def accepted_share(self) -> float | None:
        """Return None: nothing is annealed."""
        return None

    def propose(self, index: int, known: Collection[str]) -> Proposal:
        """Return a random point made to fit; see :class:`Searcher`."""
        rng = draw(self._schedule, index, Purpose.MOVE)
        ground, settings = self._ground, self._schedule.settings

        def draw_candidate(_: int) -> Candidate:
            fill = draw_fill(rng) if settings.resources else 1.0
            logits = draw_logits(ground, settings.step, rng)
            return make_candidate(ground.bounds, logits, scale_limits(ground, fill))

        return Proposal(candidate=find_unknown(draw_candidate, known))

    def decide(self, record: Record) -> Decision:
        """Take up the next decided evaluation; see :class:`Searcher`."""
        accepted = is_better(record, self._best)
        self._best = record if accepted else self._best
        return Decision(accepted=accepted)


class UniformSweep:
    """One density for all filters and one for all columns, at different splits. No seed.

    The first point has all densities alike, the next have only filters and (nearly) only
    columns pruned, all others refine the range in between. With resources as objectives, five
    splits take turns and the fills are refined.
    """

    def __init__(self, schedule: Schedule, ground: Ground) -> None:
        self._schedule = schedule
        self._ground = ground
        self._best: Record | None = None

    @property
    def state(self) -> object:
        """Return the best record."""
        return self._best

    @property
    def best(self) -> Record | None:
        """Return the record of lowest energy; None before the first success."""
        return self._best

    @property
    def accepted_share(self) -> float | None:
        """Return None: nothing is annealed."""
        return None

    def propose(self, index: int, known: Collection[str]) -> Proposal:
        """Return point ``index`` of the sweep, or one beyond its end when that is known."""
        evaluations = self._schedule.settings.evaluations
        return Proposal(
            candidate=find_unknown(
                lambda attempt: self._make_point(index + attempt * evaluations), known
            )
        )

    def decide(self, record: Record) -> Decision:
        """Take up the next decided evaluation; see :class:`Searcher`."""
        accepted = is_better(record, self._best)
        self._best = record if accepted else self._best
        return Decision(accepted=accepted)

    def _make_point(self, number: int) -> Candidate:
        if number == 0:
            return make_start(self._ground, 0)
        fill, place = 1.0, number
        if self._schedule.settings.resources:
            fill, place = FILL_LOW ** spread_point(number, 3), number % SPLITS
        bounds = self._ground.bounds
        filters, columns = split_logits(place)
        graph = bounds.graph
        logits = Logits(np.full(len(graph.groups), filters), np.full(len(graph.layers), columns))
        return make_candidate(bounds, logits, scale_limits(self._ground, fill))


def is_better(record: Record, best: Record | None) -> bool:
    """Return whether ``record`` succeeded with a lower energy than ``best``."""
    if not math.isfinite(record.energy):
        return False
    return best is None or record.energy < best.energy


def find_unknown(make: Callable[[int], Candidate], known: Collection[str]) -> Candidate:
    """Return the first candidate that is not known, or the last of ``ATTEMPTS``.

    Args:
        make: Given the number of the attempt, from 0.
        known: Keys of candidates to avoid.
    """
    candidate = make(0)
    for attempt in range(1, ATTEMPTS):
        if candidate.key() not in known:
            break
        candidate = make(attempt)
    return candidate


def draw_logits(ground: Ground, spread: float, rng: np.random.Generator) -> Logits:
    """Return a random point: independent normal logits; some layers keep all columns.

    Args:
        ground: Where to draw.
        spread: Standard deviation of the logits.
        rng: The random stream.
    """
    graph = ground.bounds.graph
    filters = rng.normal(scale=spread, size=len(graph.groups))
    columns = rng.normal(scale=spread, size=len(graph.layers))
    full = rng.random(len(columns)) < REFILL
    full |= rng.random() < FILTERS_ONLY
    return Logits(filters, np.where(full, FULL, columns))


def split_logits(place: int) -> tuple[float, float]:
    """Return the logits of all filters and of all columns at a place of the sweep.

    Place 0 has both alike, 1 only filters and 2 only columns pruned; from there on the range
    in between is halved again and again.
    """
    if place == 1:
        return 0.0, FULL
    if place == 2:
        return FULL, 0.0
    part = spread_point(max(1, place - 1), 2)
    return 0.0, SPLIT_POWER * math.log(part / (1 - part))


def spread_point(number: int, base: int) -> float:
    """Return element ``number`` of van der Corput's sequence: the mirrored digits, in [0, 1)."""
    value, weight = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        weight /= base
        value += digit * weight
    return value
