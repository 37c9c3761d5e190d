"""Where a search starts and which way it leans: experience as a prior, never as an order."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from autocompress.graph.layers import Group
from autocompress.jobs import Candidate
from autocompress.search.counts import (
    FULL,
    Bounds,
    Counts,
    Logits,
    count_cost,
    make_candidate,
    read_counts,
    read_logits,
)

Floats = NDArray[np.float64]

REDRAWS = 12  # Draws of a proposal until one is new.
MOST_GROUPS = 3
EDGE = 2.0  # Where a move from "all kept" sets out: small steps would round to all again.
REFILL = 0.15  # Chance that a move gives a layer all its columns back.
LEAN = 0.3  # Part of a step that the prior shifts a move of a layer e times the average cost.


@dataclass(frozen=True, eq=False)
class Ground:
    """Where one round searches.

    Attributes:
        bounds: What may be kept.
        limits: Most units of each resource.
        base: Counts of the model the round starts from.
        prior: Strength of the experience prior.
        hints: Candidates that did well under other limits.
    """

    bounds: Bounds
    limits: Mapping[str, float]
    base: Counts
    prior: float
    hints: tuple[Candidate, ...] = ()


def count_starts(ground: Ground, evaluations: int) -> int:
    """Return the number of starting points of a round."""
    is_full = bool((ground.base.keeps == ground.bounds.dense_sizes).all())
    return min(evaluations, len(ground.hints) + (3 if is_full else 4))


def make_opening(ground: Ground, index: int) -> Candidate:
    """Return what a round scores first: the hints brought to its limits, then its own starts."""
    if index >= len(ground.hints):
        return make_start(ground, index - len(ground.hints))
    counts = read_counts(ground.bounds, ground.hints[index])
    return make_candidate(ground.bounds, read_logits(ground.bounds, counts), ground.limits)


def make_start(ground: Ground, index: int) -> Candidate:
    """Return starting point ``index`` of a round, 0..3.

    In this order: all densities alike; larger layers lower; filters only; and the densities
    of the base, all lowered alike.
    """
    bounds = ground.bounds
    flat = Logits(np.zeros(len(bounds.graph.groups)), np.zeros(len(bounds.graph.layers)))
    groups, layers = measure_weight(ground, ground.base)
    points = [
        flat,
        Logits(-ground.prior * groups, -ground.prior * layers),
        Logits(flat.filters, np.full_like(flat.columns, FULL)),
        read_logits(bounds, ground.base),
    ]
    return make_candidate(bounds, points[index], ground.limits)


@dataclass(frozen=True, eq=False)
class Origin:
    """A point that moves set out from, with all that they share.

    Attributes:
        logits: The point.
        groups: How far each group leans, see ``measure_weight``; shape (groups,).
        layers: The same of each layer's columns; shape (layers,).
        blocks: Groups that can move: their place, the places of layers whose columns can, and
            whether their filters can.
    """

    logits: Logits
    groups: Floats
    layers: Floats
    blocks: Sequence[tuple[int, Sequence[int], bool]]


def make_origin(ground: Ground, counts: Counts) -> Origin:
    """Return the point of ``counts``, to move from."""
    bounds = ground.bounds
    lean = LEAN if ground.prior > 0 else 0.0
    groups, layers = (lean * np.clip(weight, -2, 2) for weight in measure_weight(ground, counts))
    places = {layer.name: place for place, layer in enumerate(bounds.graph.layers)}
    blocks = [
        (place, _movable_columns(bounds, group, places), _is_movable(bounds, place))
        for place, group in enumerate(bounds.graph.groups)
    ]
    movable = [block for block in blocks if block[1] or block[2]]
    return Origin(read_logits(bounds, counts), groups, layers, movable)


def move_logits(origin: Origin, step: float, rng: np.random.Generator) -> Logits:
    """Return the point of ``origin`` with one to three groups moved."""
    logits, blocks = origin.logits, origin.blocks
    if not blocks:
        return logits
    filters, columns = logits.filters.copy(), logits.columns.copy()
    picked = min(int(rng.integers(1, MOST_GROUPS + 1)), len(blocks))
    for number in rng.choice(len(blocks), size=picked, replace=False).tolist():
        place, movable, has_filters = blocks[number]
        use_filters, use_columns = _choose_kinds(
            rng, has_filters=has_filters, has_columns=bool(movable)
        )
        if use_filters:
            size = step * (rng.normal() - origin.groups[place])
            filters[place] = min(filters[place], EDGE) + size
        if use_columns:
            for layer in _choose_layers(movable, rng):
                size = step * (rng.normal() - origin.layers[layer])
                moved = min(columns[layer], EDGE) + size
                columns[layer] = FULL if rng.random() < REFILL else moved
    return Logits(filters, columns)


def measure_weight(ground: Ground, counts: Counts) -> tuple[Floats, Floats]:
    """Return by how many e-folds each group and each layer costs more than the average one.

    The resource is the one whose limit demands most.
    """
    bounds = ground.bounds
    cost = asdict(count_cost(bounds, counts))
    resource = max(ground.limits, key=lambda name: cost[name] / ground.limits[name])
    rows = bounds.model.rows @ np.append(counts.keeps, 1)
    layers = np.maximum(rows * counts.columns, 1.0)
    if resource == "macs":
        layers = layers * bounds.model.positions
    groups = np.maximum((bounds.model.rows > 0).T[:-1] @ layers, 1.0)
    return _centre(groups), _centre(layers)


def _centre(costs: Floats) -> Floats:
    logs: Floats = np.log(costs)
    return logs - logs.mean() if len(logs) else logs


def _movable_columns(bounds: Bounds, group: Group, places: Mapping[str, int]) -> list[int]:
    """Return the places of the layers making ``group`` whose columns can be chosen."""
    found = [places[name] for name in group.producers if name in places]
    return [place for place in found if bounds.share_low[place] < bounds.share_high[place]]


def _is_movable(bounds: Bounds, place: int) -> bool:
    return bool(bounds.keeps_low[place] < bounds.keeps_high[place])


def _choose_kinds(
    rng: np.random.Generator, *, has_filters: bool, has_columns: bool
) -> tuple[bool, bool]:
    """Return whether to move the filters and whether to move columns; at least one."""
    kind = int(rng.integers(3))
    use_filters = has_filters and (kind != 1 or not has_columns)
    use_columns = has_columns and (kind != 0 or not has_filters)
    return use_filters, use_columns


def _choose_layers(movable: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Return one to three of the layers."""
    size = min(int(rng.integers(1, MOST_GROUPS + 1)), len(movable))
    return [int(place) for place in rng.choice(movable, size=size, replace=False)]
