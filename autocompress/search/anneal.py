"""Simulated annealing as pure functions of what was decided before.

A chain first scores a few starting points, then moves greedily while it learns how much worse a
bad move typically is, then anneals. Only differences of energies over that typical loss count,
so a metric in percent and as a fraction give the same walk.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from statistics import median

import numpy as np

from autocompress.search.records import Record
from autocompress.search.settings import SearchSettings


class Purpose(Enum):
    """What a random stream is for."""

    MOVE = 0
    ACCEPT = 1


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One chain in one round.

    Attributes:
        settings: The search settings.
        seed: Seed of the study.
        round: Progressive round, from 0.
        starts: Starting points before the probes.
        chain: The chain, from 0.
    """

    settings: SearchSettings
    seed: int
    round: int
    starts: int
    chain: int = 0


@dataclass(frozen=True, kw_only=True)
class Walk:
    """Where a chain stands.

    Attributes:
        decided: Evaluations decided, given-up ones included.
        current: Where the next move starts; None before the first success.
        best: The lowest energy so far.
        changes: Energy changes of the probes.
        moves: Annealing moves decided.
        accepted: Annealing moves accepted.
        moved: Whether the last decision moved the chain.
    """

    decided: int = 0
    current: Record | None = None
    best: Record | None = None
    changes: tuple[float, ...] = ()
    moves: int = 0
    accepted: int = 0
    moved: bool = False


def decide(schedule: Schedule, walk: Walk, record: Record) -> Walk:
    """Return where the chain stands after ``record``."""
    annealing = walk.decided >= schedule.starts + schedule.settings.probes
    probing = not annealing and walk.decided >= schedule.starts
    moved, changes = False, walk.changes
    if math.isfinite(record.energy):
        if walk.current is None:
            moved = True
        else:
            change = record.energy - walk.current.energy
            moved = change < 0 or (annealing and _accepts(schedule, walk, change))
            changes = (*changes, change) if probing else changes
    best = walk.best
    if moved and (best is None or record.energy < best.energy):
        best = record
    return replace(
        walk,
        decided=walk.decided + 1,
        current=record if moved else walk.current,
        best=best,
        changes=changes,
        moves=walk.moves + annealing,
        accepted=walk.accepted + (annealing and moved),
        moved=moved,
    )


def fold(schedule: Schedule, records: Iterable[Record]) -> Walk:
    """Return where the chain stands after ``records``, in the order of their decisions.

    The walk is stored nowhere else: a controller that was killed folds the study again and
    goes on from the same place.
    """
    walk = Walk()
    for record in records:
        walk = decide(schedule, walk, record)
    return walk


def measure_temperature(schedule: Schedule, walk: Walk) -> float | None:
    """Return the temperature of the next decision, in units of energy; None before annealing.

    A bad move at the end is smaller than the probes by as much as its step is.
    """
    settings = schedule.settings
    before = schedule.starts + settings.probes
    if walk.decided < before:
        return None
    first = 1 / -math.log(settings.accept_first)
    last = settings.last_step / settings.step / -math.log(settings.accept_last)
    return _typical_loss(walk) * _interpolate(schedule, walk, first, last)


def measure_step(schedule: Schedule, walk: Walk) -> float:
    """Return the standard deviation of the next move, in logits."""
    return _interpolate(schedule, walk, schedule.settings.step, schedule.settings.last_step)


def draw(schedule: Schedule, index: int, purpose: Purpose) -> np.random.Generator:
    """Return the random stream of one draw; the same arguments give the same stream."""
    key = (schedule.round, schedule.chain, index, purpose.value)
    return np.random.default_rng(np.random.SeedSequence(schedule.seed, spawn_key=key))


def _accepts(schedule: Schedule, walk: Walk, change: float) -> bool:
    temperature = measure_temperature(schedule, walk)
    assert temperature is not None
    chance = math.exp(-change / temperature)
    return bool(draw(schedule, walk.decided, Purpose.ACCEPT).random() < chance)


def _interpolate(schedule: Schedule, walk: Walk, first: float, last: float) -> float:
    """Return a value on the way from ``first`` to ``last``, geometric over the annealing."""
    before = schedule.starts + schedule.settings.probes
    steps = max(1, schedule.settings.evaluations - before - 1)
    done = min(1.0, max(0, walk.decided - before) / steps)
    return float(first * (last / first) ** done)


def _typical_loss(walk: Walk) -> float:
    """Return how much worse a typical bad move is; above 0, in proportion to the energies."""
    losses = [change for change in walk.changes if change > 0]
    sizes = losses or [abs(change) for change in walk.changes if change != 0]
    if sizes:
        return median(sizes)
    floor = abs(walk.current.energy) * 1e-9 if walk.current else 0.0
    return floor or 1e-300
