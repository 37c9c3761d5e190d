"""Guided annealing of several chains as a searcher: proposals from where each chain stands."""

import math
from collections.abc import Collection, Iterator

import numpy as np

from autocompress.search.anneal import (
    Ladder,
    Purpose,
    Schedule,
    decide,
    draw,
    find_current,
    measure_step,
    measure_temperature,
    pick_chain,
)
from autocompress.search.bounds import Counts, Logits
from autocompress.search.counts import make_candidate, read_counts
from autocompress.search.experience import (
    Memory,
    Surrogate,
    fit_surrogate,
    rank_drafts,
    read_point,
)
from autocompress.search.fill import measure_fill, move_fill, scale_limits
from autocompress.search.guide import (
    REDRAWS,
    Ground,
    make_opening,
    make_origin,
    make_start,
    move_logits,
)
from autocompress.search.records import Record
from autocompress.search.searcher import Decision, Proposal

REDRAW_GROWTH = 1.25  # Small steps often round to what is known already.


class Annealing:
    """Searches one round by annealing.

    Attributes:
        schedule: How it cools.
        ground: Where it may go.
    """

    def __init__(self, schedule: Schedule, ground: Ground) -> None:
        self.schedule = schedule
        self.ground = ground
        self._ladder = Ladder()
        self._memory = Memory()
        self._surrogate: Surrogate | None = None  # Of the memory, made when it is needed.

    @property
    def state(self) -> tuple[Ladder, Memory]:
        """Return where the chains stand and what was scored."""
        return self._ladder, self._memory

    @property
    def best(self) -> Record | None:
        """Return the record of lowest energy; None before the first success."""
        return self._ladder.best

    @property
    def accepted_share(self) -> float | None:
        """Return the share of annealing moves that were accepted; None before the first."""
        return self._ladder.accepted / self._ladder.moves if self._ladder.moves else None

    def propose(self, index: int, known: Collection[str]) -> Proposal:
        """Return what the round's evaluation ``index`` scores."""
        chain = pick_chain(self.schedule, index)
        current = find_current(self._ladder, chain)
        parent = current.number if current else -1
        if index < self.schedule.starts and not self._ladder.imported:
            start = make_opening(self.ground, index)
            if start.key() not in known:
                return Proposal(candidate=start, chain=chain, parent=parent)
        rng = draw(self.schedule, index, Purpose.MOVE)
        origin = current.candidate if current else make_start(self.ground, 0)
        counts = read_counts(self.ground.bounds, origin)
        limits = dict(self.ground.limits)
        if self.schedule.settings.resources:
            fill = move_fill(measure_fill(self.ground, counts), rng)
            limits = scale_limits(self.ground, fill)
        candidate = origin
        for moved in self._draft(counts, limits, rng):
            candidate = make_candidate(self.ground.bounds, moved, limits)
            if candidate.key() not in known:
                break
        return Proposal(candidate=candidate, chain=chain, parent=parent)

    def decide(self, record: Record) -> Decision:
        """Take up the next decided evaluation of the round, in the order of decisions."""
        temperature = measure_temperature(self.schedule, self._ladder, record.chain)
        self._ladder = decide(self.schedule, self._ladder, record)
        if math.isfinite(record.energy):
            point = read_point(self.ground, record.candidate)
            self._memory = self._memory.add(point, record.energy)
            self._surrogate = None
        return Decision(accepted=self._ladder.moved, temperature=temperature)

    def _draft(
        self, counts: Counts, limits: dict[str, float], rng: np.random.Generator
    ) -> Iterator[Logits]:
        """Give moves from ``counts`` in the order in which they should be tried."""
        origin = make_origin(self.ground, counts)
        step = measure_step(self.schedule, self._ladder)
        surrogate = self._learn()
        if surrogate is not None:
            number = self.schedule.settings.drafts
            drafts = [move_logits(origin, step, rng) for _ in range(number)]
            order = rank_drafts(surrogate, self.ground, drafts, limits)
            yield from (drafts[place] for place in order[: REDRAWS // 2])
        for _ in range(REDRAWS):
            yield move_logits(origin, step, rng)
            step *= REDRAW_GROWTH

    def _learn(self) -> Surrogate | None:
        """Return what the round's scores teach; None when nothing is to be learnt."""
        if self.schedule.settings.drafts == 1:
            return None
        if self._surrogate is None:
            self._surrogate = fit_surrogate(self._memory)
        return self._surrogate
