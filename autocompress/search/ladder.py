"""Guided annealing of several chains as a searcher: proposals from where each chain stands."""

from collections.abc import Collection

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
from autocompress.search.counts import make_candidate, read_counts
from autocompress.search.guide import REDRAWS, Ground, make_start, move_logits
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

    @property
    def state(self) -> Ladder:
        """Return where the chains stand."""
        return self._ladder

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
            start = make_start(self.ground, index)
            if start.key() not in known:
                return Proposal(candidate=start, chain=chain, parent=parent)
        rng = draw(self.schedule, index, Purpose.MOVE)
        origin = current.candidate if current else make_start(self.ground, 0)
        counts = read_counts(self.ground.bounds, origin)
        step = measure_step(self.schedule, self._ladder)
        candidate = origin
        for _ in range(REDRAWS):
            moved = move_logits(self.ground, counts, step, rng)
            candidate = make_candidate(self.ground.bounds, moved, self.ground.limits)
            if candidate.key() not in known:
                break
            step *= REDRAW_GROWTH
        return Proposal(candidate=candidate, chain=chain, parent=parent)

    def decide(self, record: Record) -> Decision:
        """Take up the next decided evaluation of the round, in the order of decisions."""
        temperature = measure_temperature(self.schedule, self._ladder, record.chain)
        self._ladder = decide(self.schedule, self._ladder, record)
        return Decision(accepted=self._ladder.moved, temperature=temperature)
