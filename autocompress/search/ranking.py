"""Densities from one ranking of all units and columns of the base: global magnitude pruning.

Units of all groups are compared with each other, and columns of all layers; whatever lies below
one threshold goes. Which norms are comparable is a choice: by their layer's mean, as
Torch-Pruning does by default, as they are, or by LAMP (arXiv:2010.07611).
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from autocompress.graph.layers import OUTSIDE, LayerGraph
from autocompress.jobs import Candidate
from autocompress.masks.importance import Floats, Importance
from autocompress.masks.project import column_units
from autocompress.search.anneal import Schedule
from autocompress.search.baselines import Attempt, Blind, spread_point
from autocompress.search.bounds import FULL, Bounds, Counts, Ints, Logits
from autocompress.search.counts import count_cost, make_candidate, make_flat, read_logits
from autocompress.search.fill import FILL_LOW, scale_limits
from autocompress.search.guide import Ground

HALVINGS = 40
LEAST = 1e-30  # Of a norm: units that are gone already come last.


def divide_by_mean(energies: Floats) -> Floats:
    """Return the norms over the mean of those that are there: what is gone already is 0."""
    norms = np.sqrt(energies)
    there = max(1, int(np.count_nonzero(norms)))
    scaled: Floats = norms / max(float(norms.sum()) / there, LEAST)
    return scaled


def take_as_is(energies: Floats) -> Floats:
    """Return the norms."""
    norms: Floats = np.sqrt(energies)
    return norms


def score_lamp(energies: Floats) -> Floats:
    """Return each energy over the sum of all that are not smaller, itself included."""
    order = np.argsort(-energies, kind="stable")
    scores = np.empty_like(energies)
    scores[order] = energies[order] / np.maximum(np.cumsum(energies[order]), LEAST)
    return scores


NORMALISE: tuple[Callable[[Floats], Floats], ...] = (divide_by_mean, take_as_is, score_lamp)


def rank_globally(schedule: Schedule, ground: Ground) -> Blind:
    """Return a searcher whose densities follow from one ranking of the base's weights. No seed.

    Its first three points have the three normalisations; all others lie between those and equal
    densities. Without a known importance all units are alike.
    """
    known = ground.importance
    rankings = [None if known is None else normalise_all(known, one) for one in NORMALISE]

    def pick_candidate(index: int, attempt: int) -> Candidate:
        place, number = index % len(rankings), index // len(rankings)
        number += attempt * schedule.settings.evaluations
        fill = FILL_LOW ** spread_point(number, 3) if schedule.settings.resources else 1.0
        limits = scale_limits(ground, fill)
        ranked, scores = make_flat(ground.bounds), rankings[place]
        if scores is not None:
            ranked = find_logits(ground.bounds, scores, limits)
        share = 1.0 - spread_point(number, 2)
        return make_candidate(ground.bounds, mix(ground.bounds, ranked, share), limits)

    def make_point(index: int) -> Attempt:
        return partial(pick_candidate, index)

    return Blind(make_point)


def normalise_all(known: Importance, normalise: Callable[[Floats], Floats]) -> Importance:
    """Return comparable scores of all units and columns."""
    return Importance(
        units={name: normalise(energies) for name, energies in known.units.items()},
        columns={name: normalise(energies) for name, energies in known.columns.items()},
    )


def find_logits(bounds: Bounds, scores: Importance, limits: Mapping[str, float]) -> Logits:
    """Return the point of the lowest threshold whose counts meet ``limits``.

    Layers without a choice of columns keep all of them, and bit widths stay in the middle.
    """
    values = np.concatenate([*scores.units.values(), *scores.columns.values()])
    values = np.log(np.maximum(values, LEAST))
    low, high = float(values.min()) - 1, float(values.max()) + 1
    chosen = count_above(bounds, scores, high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        counts = count_above(bounds, scores, middle)
        cost = count_cost(bounds, counts).list_known()
        if all(cost[name] <= limit for name, limit in limits.items()):
            high, chosen = middle, counts
        else:
            low = middle
    return read_logits(bounds, chosen)


def count_above(bounds: Bounds, scores: Importance, threshold: float) -> Counts:
    """Return the counts of units and columns whose score is above exp(``threshold``).

    Columns count where the unit that they read stays; what the base has lost scores 0.
    """
    least, graph = np.exp(threshold), bounds.graph
    keeps = np.array([int((scores.units[group.name] > least).sum()) for group in graph.groups])
    keeps = keeps // bounds.filter_step * bounds.filter_step
    keeps = np.clip(keeps, bounds.keeps_low, bounds.keeps_high)
    _, fewest, most = bounds.open_columns(keeps)
    stays = find_best(graph, scores, keeps)
    above = [
        int((stays[column_units(one)] & (scores.columns[one.name] > least)).sum())
        if one.name in scores.columns
        else full
        for one, full in zip(graph.layers, most.tolist(), strict=True)
    ]
    columns = np.clip(np.array(above), fewest, most).astype(np.int64)
    weights = bounds.open_weights(keeps, columns)[2]
    places = make_flat(bounds).places
    return Counts(keeps, columns, weights, bounds.fine.find_bits(places))


def find_best(graph: LayerGraph, scores: Importance, keeps: Ints) -> NDArray[np.bool_]:
    """Return which units are among the ``keeps`` best of their group; the last one is outside.

    Returns:
        Shape (units + 1,).
    """
    stays = np.zeros(graph.units + 1, dtype=np.bool_)
    stays[OUTSIDE] = True
    for group, keep in zip(graph.groups, keeps.tolist(), strict=True):
        stays[group.start + np.argsort(-scores.units[group.name], kind="stable")[:keep]] = True
    return stays


def mix(bounds: Bounds, ranked: Logits, share: float) -> Logits:
    """Return the point that lies at ``share`` of the way from equal densities to ``ranked``.

    Columns that are all kept stay so.
    """
    flat = make_flat(bounds)
    free = bounds.share_low < bounds.share_high
    columns = share * ranked.columns + (1 - share) * flat.columns
    return Logits(
        share * ranked.filters + (1 - share) * flat.filters,
        np.where(free, columns, FULL),
        flat.weights,
        flat.places,
    )
