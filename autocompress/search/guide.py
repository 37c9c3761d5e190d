"""Where a search starts and which way it leans: experience as a prior, never as an order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autocompress.jobs import Candidate
from autocompress.masks.importance import Importance
from autocompress.search.bounds import FULL, Bounds, Counts, Floats, Ints, Logits
from autocompress.search.counts import (
    count_cost,
    make_candidate,
    make_flat,
    read_counts,
    read_logits,
)

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
        importance: What units and columns of the base matter; None where nobody asks.
    """

    bounds: Bounds
    limits: Mapping[str, float]
    base: Counts
    prior: float
    hints: tuple[Candidate, ...] = ()
    importance: Importance | None = None


def count_starts(ground: Ground, evaluations: int) -> int:
    """Return the number of starting points of a round."""
    fine = ground.bounds.fine
    is_full = bool((ground.base.keeps == ground.bounds.dense_sizes).all())
    is_full = is_full and not bool((fine.survivors < 1).any())
    own = (3 if is_full else 4) + bool(fine.free_weights.any())
    return min(evaluations, len(ground.hints) + own)


def make_opening(ground: Ground, index: int) -> Candidate:
    """Return what a round scores first: the hints brought to its limits, then its own starts."""
    if index >= len(ground.hints):
        return make_start(ground, index - len(ground.hints))
    counts = read_counts(ground.bounds, ground.hints[index])
    return make_candidate(ground.bounds, read_logits(ground.bounds, counts), ground.limits)


def make_start(ground: Ground, index: int) -> Candidate:
    """Return starting point ``index`` of a round, 0..4.

    In this order: all densities alike; larger layers lower; filters only; where weights can be
    chosen, weights only; and the densities of the base, all lowered alike.
    """
    bounds = ground.bounds
    flat = make_flat(bounds)
    groups, layers = (-ground.prior * weight for weight in measure_weight(ground, ground.base))
    full = np.full_like(flat.columns, FULL)
    points = [
        flat,
        replace(flat, filters=groups, columns=layers, weights=layers),
        replace(flat, columns=full, weights=full),
    ]
    if bounds.fine.free_weights.any():
        points.append(replace(flat, filters=np.full_like(flat.filters, FULL), columns=full))
    base = read_logits(bounds, ground.base)
    points.append(replace(base, places=flat.places))  # A base is not quantised.
    return make_candidate(bounds, points[index], ground.limits)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A group that can move, with the layers that make it.

    Attributes:
        place: Place of the group.
        has_filters: Whether its filters can be chosen.
        columns: Places of its layers whose columns can be chosen.
        weights: Places of those whose weights can be chosen.
        bits: Places of those whose bit widths can be chosen.
    """

    place: int
    has_filters: bool
    columns: Sequence[int]
    weights: Sequence[int]
    bits: Sequence[int]


@dataclass(frozen=True, eq=False)
class Origin:
    """A point that moves set out from, with all that they share.

    Attributes:
        logits: The point.
        groups: How far each group leans, see ``measure_weight``; shape (groups,).
        layers: The same of each layer's columns and weights; shape (layers,).
        steps: Last place of each layer's bit widths; shape (layers,).
        blocks: Groups that can move.
    """

    logits: Logits
    groups: Floats
    layers: Floats
    steps: Ints
    blocks: Sequence[Block]


def make_origin(ground: Ground, counts: Counts) -> Origin:
    """Return the point of ``counts``, to move from."""
    bounds = ground.bounds
    lean = LEAN if ground.prior > 0 else 0.0
    groups, layers = (lean * np.clip(weight, -2, 2) for weight in measure_weight(ground, counts))
    places = {layer.name: place for place, layer in enumerate(bounds.graph.layers)}
    blocks = [_make_block(bounds, place, places) for place in range(len(bounds.graph.groups))]
    movable = [one for one in blocks if one.has_filters or one.columns or one.weights or one.bits]
    return Origin(read_logits(bounds, counts), groups, layers, bounds.fine.steps, movable)


def move_logits(origin: Origin, step: float, rng: np.random.Generator) -> Logits:
    """Return the point of ``origin`` with one to three groups moved."""
    logits, blocks = origin.logits, origin.blocks
    if not blocks:
        return logits
    moved = Logits(
        logits.filters.copy(), logits.columns.copy(), logits.weights.copy(), logits.places.copy()
    )
    picked = min(int(rng.integers(1, MOST_GROUPS + 1)), len(blocks))
    for number in rng.choice(len(blocks), size=picked, replace=False).tolist():
        block = blocks[number]
        has_fine = bool(block.weights or block.bits)
        use_coarse, use_fine = True, False
        if has_fine:  # Otherwise nothing is drawn: other searches stay what they were.
            has_coarse = block.has_filters or bool(block.columns)
            use_coarse, use_fine = _choose_kinds(rng, has_first=has_coarse, has_second=has_fine)
        if use_coarse:
            _move_coarse_(moved, origin, block, step, rng)
        if use_fine:
            _move_fine_(moved, origin, block, step, rng)
    return moved


def _move_coarse_(
    moved: Logits, origin: Origin, block: Block, step: float, rng: np.random.Generator
) -> None:
    """Move the filters or columns of one group."""
    use_filters, use_columns = _choose_kinds(
        rng, has_first=block.has_filters, has_second=bool(block.columns)
    )
    if use_filters:
        size = step * (rng.normal() - origin.groups[block.place])
        moved.filters[block.place] = min(moved.filters[block.place], EDGE) + size
    if use_columns:
        for layer in _choose_layers(block.columns, rng):
            size = step * (rng.normal() - origin.layers[layer])
            target = min(moved.columns[layer], EDGE) + size
            moved.columns[layer] = FULL if rng.random() < REFILL else target


def _move_fine_(
    moved: Logits, origin: Origin, block: Block, step: float, rng: np.random.Generator
) -> None:
    """Move the weights of one group's layers, or their bit widths by one step."""
    use_weights, use_bits = _choose_kinds(
        rng, has_first=bool(block.weights), has_second=bool(block.bits)
    )
    if use_weights:
        for layer in _choose_layers(block.weights, rng):
            size = step * (rng.normal() - origin.layers[layer])
            moved.weights[layer] = min(moved.weights[layer], EDGE) + size
    if use_bits:
        for layer in _choose_layers(block.bits, rng):
            place, last = int(moved.places[layer]), int(origin.steps[layer])
            up = place == 0 or (place < last and rng.random() < 0.5)
            moved.places[layer] = place + 1 if up else place - 1


def measure_weight(ground: Ground, counts: Counts) -> tuple[Floats, Floats]:
    """Return by how many e-folds each group and each layer costs more than the average one.

    The resource is the one whose limit demands most.
    """
    bounds = ground.bounds
    cost = count_cost(bounds, counts).list_known()
    resource = max(ground.limits, key=lambda name: cost[name] / ground.limits[name])
    rows = bounds.model.rows @ np.append(counts.keeps, 1)
    layers = np.maximum(rows * counts.columns, 1.0)
    if resource == "latency":
        layers = np.maximum(bounds.model.time_layers(counts.keeps, counts.columns), 1e-3)
    elif resource == "macs":
        layers = layers * bounds.model.positions
    elif resource != "bytes":
        block = bounds.open_weights(counts.keeps, counts.columns)[0]
        layers = np.maximum(layers * (counts.weights / block), 1.0)
    if resource == "coded_bytes":
        layers = layers * counts.bits
    groups = np.maximum((bounds.model.rows > 0).T[:-1] @ layers, 1.0)
    return _centre(groups), _centre(layers)


def _centre(costs: Floats) -> Floats:
    logs: Floats = np.log(costs)
    return logs - logs.mean() if len(logs) else logs


def _make_block(bounds: Bounds, place: int, places: Mapping[str, int]) -> Block:
    """Return what can be chosen of the group at ``place``; ``places`` are those of layers."""
    group, fine = bounds.graph.groups[place], bounds.fine
    makers = [places[name] for name in group.producers if name in places]
    return Block(
        place=place,
        has_filters=bool(bounds.keeps_low[place] < bounds.keeps_high[place]),
        columns=[one for one in makers if bounds.share_low[one] < bounds.share_high[one]],
        weights=[one for one in makers if fine.free_weights[one]],
        bits=[one for one in makers if fine.free_bits[one]],
    )


def _choose_kinds(
    rng: np.random.Generator, *, has_first: bool, has_second: bool
) -> tuple[bool, bool]:
    """Return which of two kinds to move; at least one of those that are there."""
    kind = int(rng.integers(3))
    use_first = has_first and (kind != 1 or not has_second)
    use_second = has_second and (kind != 0 or not has_first)
    return use_first, use_second


def _choose_layers(movable: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Return one to three of the layers."""
    size = min(int(rng.integers(1, MOST_GROUPS + 1)), len(movable))
    return [int(place) for place in rng.choice(movable, size=size, replace=False)]
