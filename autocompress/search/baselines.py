"""Searchers that learn nothing: what every other one has to beat.

Both are pure functions of the index. With ``evaluate.fast.fidelity = "one_shot"``, random
search is EagleEye (arXiv:2007.02491): random densities, batch norms estimated again.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

import numpy as np

from autocompress.jobs import Candidate
from autocompress.search.anneal import Purpose, Schedule, draw
from autocompress.search.bounds import FULL, Logits
from autocompress.search.counts import make_candidate
from autocompress.search.fill import FILL_LOW, draw_fill, scale_limits
from autocompress.search.guide import REFILL, Ground
from autocompress.search.records import Record
from autocompress.search.searcher import Decision, Proposal

Attempt = Callable[[int], Candidate]  # Given the number of the attempt, from 0.
MakePoint = Callable[[int], Attempt]  # Given the index of the proposal, from 0.

ATTEMPTS = 12
FILTERS_ONLY = 0.3  # Chance that a drawn point keeps all columns of all layers.
SPLIT_POWER = 2.0  # Odds of columns over those of filters, at 3/4 of the range: nine to one.
WEIGHT_SPLIT = 4.0  # Logits of weights against those of filters: odds of fifty to one.
SPLITS = 5  # Splits between filters and columns that take turns when sizes differ too.


class Blind:
    """Proposes without a look at what was decided; its only state is the best record."""

    def __init__(self, make: MakePoint) -> None:
        self._make = make
        self._best: Record | None = None

    @property
    def state(self) -> Record | None:
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
        """Return what the round's evaluation ``index`` scores; see :class:`Searcher`."""
        return Proposal(candidate=find_unknown(self._make(index), known))

    def decide(self, record: Record) -> Decision:
        """Take up the next decided evaluation; see :class:`Searcher`."""
        accepted = is_better(record, self._best)
        self._best = record if accepted else self._best
        return Decision(accepted=accepted)


def search_randomly(schedule: Schedule, ground: Ground) -> Blind:
    """Return a searcher that draws every density independently, see :func:`draw_logits`."""
    settings = schedule.settings

    def start_draws(index: int) -> Attempt:
        rng = draw(schedule, index, Purpose.MOVE)

        def draw_candidate(_: int) -> Candidate:
            fill = draw_fill(rng) if settings.resources else 1.0
            logits = draw_logits(ground, settings.step, rng)
            return make_candidate(ground.bounds, logits, scale_limits(ground, fill))

        return draw_candidate

    return Blind(start_draws)


def sweep_uniformly(schedule: Schedule, ground: Ground) -> Blind:
    """Return a searcher with one density for all filters and one for all columns. No seed.

    Its first point has all densities alike, the next two have only filters and (nearly) only
    columns pruned, all others refine the range in between. With resources as objectives, five
    splits take turns and the fills are refined. Instead of a point that is known it takes one
    from beyond the end of the sweep.
    """
    settings, fine = schedule.settings, ground.bounds.fine
    splits = SPLITS * (1 + int(fine.steps.max(initial=0))) * (1 + bool(fine.free_weights.any()))

    def pick_candidate(index: int, attempt: int) -> Candidate:
        number = index + attempt * settings.evaluations
        if settings.resources:
            fill = FILL_LOW ** spread_point(number, 3)
            return split_evenly(ground, number % splits, fill)
        return split_evenly(ground, number, 1.0)

    return Blind(lambda index: partial(pick_candidate, index))


def is_better(record: Record, best: Record | None) -> bool:
    """Return whether ``record`` succeeded with a lower energy than ``best``."""
    if not math.isfinite(record.energy):
        return False
    return best is None or record.energy < best.energy


def find_unknown(make: Attempt, known: Collection[str]) -> Candidate:
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

    Bit widths are drawn with equal chances.

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
    point = Logits(filters, np.where(full, FULL, columns))
    fine = ground.bounds.fine
    if not fine.has_choice:  # Nothing is drawn: other searches stay what they were.
        return point
    weights = rng.normal(scale=spread, size=len(graph.layers))
    return replace(point, weights=weights, places=rng.integers(fine.steps + 1))


def split_evenly(ground: Ground, place: int, fill: float) -> Candidate:
    """Return the candidate at a place of the sweep, see :func:`split_logits`.

    Where weights can be chosen, every second place prunes them alone or with the others, and the
    bit widths take turns, one place of the ladder for all layers.
    """
    bounds, weights = ground.bounds, FULL
    widest = int(bounds.fine.steps.max(initial=0))
    turn, place = place % (widest + 1), place // (widest + 1)
    if bounds.fine.free_weights.any():
        place, odd = divmod(place, 2)
        weights = (-1) ** place * WEIGHT_SPLIT * spread_point(place, 2) if odd else FULL
    filters, columns = split_logits(place)
    if weights < FULL and place == 0:
        filters = columns = FULL
    sizes = len(bounds.graph.groups), len(bounds.graph.layers)
    logits = Logits(
        np.full(sizes[0], filters),
        np.full(sizes[1], columns),
        np.full(sizes[1], weights),
        np.minimum(turn, bounds.fine.steps),
    )
    return make_candidate(bounds, logits, scale_limits(ground, fill))


def split_logits(place: int) -> tuple[float, float]:
    """Return the logits of all filters and of all columns at a place of the sweep.

    Place 0 has both alike, 1 only filters and 2 only columns pruned; from there on the range
    in between is halved again and again.
    """
    if place == 1:
        return 0.0, FULL
    if place == 2:
        return FULL, 0.0
    part = spread_point(max(1, place - 1), 2)  # Place 0 is the middle: one half.
    return 0.0, SPLIT_POWER * math.log(part / (1 - part))


def spread_point(number: int, base: int) -> float:
    """Return element ``number`` of van der Corput's sequence: the mirrored digits, in [0, 1)."""
    value, weight = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        weight /= base
        value += digit * weight
    return value
