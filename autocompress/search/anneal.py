"""Simulated annealing of several chains, as pure functions of what was decided before.

All chains first share one point: it takes the best of a few starting points and moves greedily
while the search learns how much worse a bad move typically is. Then every chain anneals on its
own, each at its rung of a ladder of temperatures, and neighbours on the ladder may change
places (parallel tempering). One chain is textbook annealing. Only differences of energies over
that typical loss count, so a metric in percent and as a fraction give the same walk.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from statistics import median

import numpy as np

from autocompress.search.records import Record
from autocompress.search.settings import SearchSettings


class Purpose(Enum):
    """What a random stream is for."""

    MOVE = 0
    ACCEPT = 1
    SWAP = 2


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The search of one round.

    Attributes:
        settings: The search settings.
        seed: Seed of the study.
        round: Progressive round, from 0.
        starts: Starting points before the probes.
        limits: Most units of each resource.
    """

    settings: SearchSettings
    seed: int
    round: int
    starts: int
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def chains(self) -> int:
        """Return the number of chains, 1 or more."""
        return max(1, self.settings.chains)

    @property
    def warm_up(self) -> int:
        """Return the number of evaluations before annealing."""
        return self.starts + self.settings.probes


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Where the chains stand.

    Attributes:
        decided: Evaluations decided, given-up ones included.
        currents: Where each chain's next move starts, the coldest chain first; one point for
            all of them before annealing, and empty before the first success.
        best: The lowest energy so far.
        changes: Energy changes of the probes.
        moves: Annealing moves decided.
        accepted: Annealing moves accepted.
        swaps: Times that two chains changed places.
        imported: Evaluations taken over from another study; they cool nothing.
        moved: Whether the last decision moved its chain.
    """

    decided: int = 0
    currents: tuple[Record, ...] = ()
    best: Record | None = None
    changes: tuple[float, ...] = ()
    moves: int = 0
    accepted: int = 0
    swaps: int = 0
    imported: int = 0
    moved: bool = False


def decide(schedule: Schedule, ladder: Ladder, record: Record) -> Ladder:
    """Return where the chains stand after ``record``."""
    if record.source:
        return replace(_judge(schedule, ladder, record), imported=ladder.imported + 1)
    decided = replace(_judge(schedule, ladder, record), decided=ladder.decided + 1)
    return _swap(schedule, decided) if ladder.decided >= schedule.warm_up else decided


def fold(schedule: Schedule, records: Iterable[Record]) -> Ladder:
    """Return where the chains stand after ``records``, in the order of their decisions.

    That is stored nowhere else: a controller that was killed folds the study again and goes on
    from the same place.
    """
    ladder = Ladder()
    for record in records:
        ladder = decide(schedule, ladder, record)
    return ladder


def pick_chain(schedule: Schedule, index: int) -> int:
    """Return the chain that proposal ``index`` of the round belongs to."""
    return index % schedule.chains


def find_current(ladder: Ladder, chain: int) -> Record | None:
    """Return where ``chain`` stands; None before the first success."""
    return ladder.currents[chain] if ladder.currents else None


def measure_temperature(schedule: Schedule, ladder: Ladder, chain: int = 0) -> float | None:
    """Return a chain's temperature at the next decision, in energy; None before annealing.

    A bad move at the end is smaller than the probes by as much as its step is.
    """
    settings = schedule.settings
    if ladder.decided < schedule.warm_up:
        return None
    first = 1 / -math.log(settings.accept_first)
    last = settings.last_step / settings.step / -math.log(settings.accept_last)
    coldest = _typical_loss(ladder) * _interpolate(schedule, ladder, first, last)
    rung = chain / (schedule.chains - 1) if schedule.chains > 1 else 0.0
    return float(coldest * settings.ladder**rung)


def measure_step(schedule: Schedule, ladder: Ladder) -> float:
    """Return the standard deviation of the next move, in logits."""
    return _interpolate(schedule, ladder, schedule.settings.step, schedule.settings.last_step)


def draw(schedule: Schedule, index: int, purpose: Purpose) -> np.random.Generator:
    """Return the random stream of one draw; the same arguments give the same stream."""
    key = (schedule.round, pick_chain(schedule, index), index, purpose.value)
    return np.random.default_rng(np.random.SeedSequence(schedule.seed, spawn_key=key))


def measure_change(schedule: Schedule, ladder: Ladder, old: Record, new: Record) -> float:
    """Return by how much ``new`` is worse than ``old`` where one number must decide.

    Resources among the objectives and excesses over limits count in units of the typical loss,
    which keeps the walk independent of the unit of the metric.
    """
    change = new.energy - old.energy
    settings = schedule.settings
    costs = 0.0
    for name in settings.resources:
        if old.metrics.get(name, 0) > 0 and new.metrics.get(name, 0) > 0:
            costs += settings.trade * math.log2(new.metrics[name] / old.metrics[name])
    costs += settings.penalty * (_excess(schedule, new) - _excess(schedule, old))
    return change + _typical_loss(ladder) * costs if costs else change


def _judge(schedule: Schedule, ladder: Ladder, record: Record) -> Ladder:
    annealing = ladder.decided >= schedule.warm_up
    probing = not annealing and ladder.decided >= schedule.starts
    current = find_current(ladder, record.chain)
    moved, changes = False, ladder.changes
    if math.isfinite(record.energy):
        if current is None:
            moved = True
        else:
            change = measure_change(schedule, ladder, current, record)
            moved = change < 0 or (annealing and _accepts(schedule, ladder, record, change))
            changes = (*changes, record.energy - current.energy) if probing else changes
    currents = ladder.currents
    if moved and annealing and currents:
        currents = (*currents[: record.chain], record, *currents[record.chain + 1 :])
    elif moved:
        currents = (record,) * schedule.chains
    return replace(
        ladder,
        currents=currents,
        best=_pick_best(ladder.best, record),
        changes=changes,
        moves=ladder.moves + annealing,
        accepted=ladder.accepted + (annealing and moved),
        moved=moved,
    )


def _swap(schedule: Schedule, ladder: Ladder) -> Ladder:
    """Let one pair of neighbouring chains change places, as parallel tempering does.

    Source: Hukushima and Nemoto, J. Phys. Soc. Japan 65 (1996): the pair's chance is
    ``min(1, exp((1/T_cold - 1/T_hot) (E_cold - E_hot)))``.
    """
    if schedule.chains == 1 or not ladder.currents:
        return ladder
    rng = draw(schedule, ladder.decided, Purpose.SWAP)
    cold = int(rng.integers(schedule.chains - 1))
    below = measure_temperature(schedule, ladder, cold)
    above = measure_temperature(schedule, ladder, cold + 1)
    assert below is not None
    assert above is not None
    currents = list(ladder.currents)
    gain = -measure_change(schedule, ladder, currents[cold], currents[cold + 1])
    if currents[cold] == currents[cold + 1]:
        return ladder
    if rng.random() >= math.exp(min(0.0, (1 / below - 1 / above) * gain)):
        return ladder
    currents[cold], currents[cold + 1] = currents[cold + 1], currents[cold]
    return replace(ladder, currents=tuple(currents), swaps=ladder.swaps + 1)


def _accepts(schedule: Schedule, ladder: Ladder, record: Record, change: float) -> bool:
    temperature = measure_temperature(schedule, ladder, record.chain)
    assert temperature is not None
    chance = math.exp(-change / temperature)
    return bool(draw(schedule, ladder.decided, Purpose.ACCEPT).random() < chance)


def _pick_best(best: Record | None, record: Record) -> Record | None:
    if not math.isfinite(record.energy):
        return best
    return record if best is None or record.energy < best.energy else best


def _interpolate(schedule: Schedule, ladder: Ladder, first: float, last: float) -> float:
    """Return a value on the way from ``first`` to ``last``, geometric over the annealing."""
    before = schedule.warm_up
    steps = max(1, schedule.settings.evaluations - before - 1)
    done = min(1.0, max(0, ladder.decided - before) / steps)
    return float(first * (last / first) ** done)


def _excess(schedule: Schedule, record: Record) -> float:
    over = (record.metrics.get(name, 0.0) / limit - 1 for name, limit in schedule.limits.items())
    return sum(max(0.0, one) for one in over)


def _typical_loss(ladder: Ladder) -> float:
    """Return how much worse a typical bad move is; above 0, in proportion to the energies."""
    losses = [change for change in ladder.changes if change > 0]
    sizes = losses or [abs(change) for change in ladder.changes if change != 0]
    if sizes:
        return median(sizes)
    current = find_current(ladder, 0)
    floor = abs(current.energy) * 1e-9 if current else 0.0
    return floor or 1e-300
