"""The search space as Optuna's samplers see it: a box of numbers that can be read back.

Only candidates that fit the budget are evaluated, so what a sampler learns from is not what it
proposed but what was made of it: the realised densities. One axis is the logit of a realised
density, relative to the logit at which all densities alike would use the budget up. Proposals
near good points are moved little when they are made to fit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution

from autocompress.jobs import Candidate
from autocompress.search.baselines import draw_logits
from autocompress.search.bounds import FULL, Logits
from autocompress.search.counts import (
    count_cost,
    make_candidate,
    make_flat,
    read_counts,
    read_logits,
)
from autocompress.search.fill import FILL_LOW, draw_fill, measure_fill, scale_limits
from autocompress.search.guide import Ground, make_start
from autocompress.search.records import Record

Ints = NDArray[np.int64]

# To both sides, in logits: odds of 150 to 1 between two densities. TPE's kernels are wide in
# proportion, so a box of +-6 makes it no better than random search at 60 evaluations.
REACH = 2.5
ALL_COLUMNS = 2.0  # From here to the upper end of its axis, a layer keeps all columns.
FILL = "fill"


@dataclass(frozen=True)
class Sample:
    """What a sampler learns from one success: where it was and what it scored."""

    params: Mapping[str, float]
    values: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Axes:
    """One axis for each choice of a group or of a layer, and one for the fill.

    An axis of bit widths is cut into equal parts, one for each width in its order.

    Attributes:
        ground: Where the round searches.
        spread: Standard deviation of drawn logits.
        resources: Resources among the objectives; the fill is an axis when there are any.
        groups: Places of the groups with a choice.
        layers: Places of the layers with a choice of columns.
        weights: Places of the layers with a choice of weights.
        bits: Places of the layers with a choice of bit widths.
        names: The axes, in this order: groups, columns, weights, bits, fill.
        centre: Logit at which all densities alike use the budget up.
    """

    ground: Ground
    spread: float
    resources: Sequence[str]
    groups: Ints
    layers: Ints
    weights: Ints
    bits: Ints
    names: tuple[str, ...]
    centre: float

    @property
    def space(self) -> dict[str, BaseDistribution]:
        """Return the box; all axes share one distribution, which makes copies cheap."""
        side = FloatDistribution(-REACH, REACH)
        return dict.fromkeys(self.names, side)

    def draw_params(self, rng: np.random.Generator) -> dict[str, float]:
        """Return a point as random search draws it."""
        logits = draw_logits(self.ground, self.spread, rng)
        values = self._read_point(logits)
        if self.resources:
            values.append(_encode_fill(draw_fill(rng)))
        return dict(zip(self.names, values, strict=True))

    def make_candidate(self, params: Mapping[str, float]) -> Candidate:
        """Return the candidate of a point, made to fit."""
        graph = self.ground.bounds.graph
        values = np.array([params[name] for name in self.names])
        ends = np.cumsum([len(one) for one in (self.groups, self.layers, self.weights, self.bits)])
        groups, layers, weights, bits, _ = np.split(values, ends)
        point = make_flat(self.ground.bounds)
        point.filters[self.groups] = groups
        point.columns[self.layers] = np.where(layers >= ALL_COLUMNS, FULL, layers)
        densities = np.full(len(graph.layers), FULL)
        densities[self.weights] = weights
        point.places[self.bits] = self._decode_places(bits)
        point = replace(point, weights=densities)
        fill = _decode_fill(params[FILL]) if self.resources else 1.0
        limits = scale_limits(self.ground, fill)
        return make_candidate(self.ground.bounds, point, limits)

    def read_sample(self, record: Record) -> Sample:
        """Return where ``record`` lies and what it scored: its energy, then its resources."""
        bounds = self.ground.bounds
        counts = read_counts(bounds, record.candidate)
        logits = read_logits(bounds, counts)
        most = bounds.open_columns(counts.keeps)[2]
        columns = np.where(counts.columns >= most, FULL, logits.columns - self.centre)
        filters, weights = logits.filters - self.centre, logits.weights - self.centre
        values = self._read_point(Logits(filters, columns, weights, logits.places))
        if self.resources:
            values.append(_encode_fill(measure_fill(self.ground, counts)))
        cost = count_cost(bounds, counts)
        costs = (float(getattr(cost, name)) for name in self.resources)
        return Sample(dict(zip(self.names, values, strict=True)), (record.energy, *costs))

    def _read_point(self, point: Logits) -> list[float]:
        """Return the values of all axes but the fill's."""
        filters, columns = point.filters[self.groups], point.columns[self.layers]
        columns = np.where(columns >= FULL, REACH, np.clip(columns, -REACH, ALL_COLUMNS - 1e-6))
        values = [*np.clip(filters, -REACH, REACH), *columns]
        if len(self.weights):
            values += [*np.clip(point.weights[self.weights], -REACH, REACH)]
        if len(self.bits):
            parts = self.ground.bounds.fine.steps[self.bits] + 1
            values += [*(REACH * ((2 * point.places[self.bits] + 1) / parts - 1))]
        return [float(one) for one in values]

    def _decode_places(self, values: NDArray[np.float64]) -> Ints:
        """Return the places of bit widths at the values of their axes."""
        parts = self.ground.bounds.fine.steps[self.bits] + 1
        places = np.floor((values / REACH + 1) / 2 * parts).astype(np.int64)
        return np.minimum(places, parts - 1)


def make_axes(ground: Ground, spread: float, resources: Sequence[str]) -> Axes:
    """Return the axes of a round.

    Args:
        ground: Where the round searches.
        spread: Standard deviation of drawn logits.
        resources: Resources among the objectives.
    """
    bounds = ground.bounds
    groups = np.flatnonzero(bounds.keeps_low < bounds.keeps_high)
    layers = np.flatnonzero(bounds.share_low < bounds.share_high)
    names = [f"filters/{bounds.graph.groups[place].name}" for place in groups.tolist()]
    names += [f"columns/{bounds.graph.layers[place].name}" for place in layers.tolist()]
    weights, bits = (
        np.flatnonzero(one) for one in (bounds.fine.free_weights, bounds.fine.free_bits)
    )
    names += [f"weights/{bounds.graph.layers[place].name}" for place in weights.tolist()]
    names += [f"bits/{bounds.graph.layers[place].name}" for place in bits.tolist()]
    names += [FILL] if resources else []
    alike = read_logits(bounds, read_counts(bounds, make_start(ground, 0)))
    centres = np.concatenate(
        [alike.filters[groups], alike.columns[layers], alike.weights[weights]]
    )
    centre = float(np.median(centres)) if len(centres) else 0.0
    return Axes(ground, spread, resources, groups, layers, weights, bits, tuple(names), centre)


def _encode_fill(fill: float) -> float:
    """Return where ``fill`` lies on its axis: FILL_LOW at the lower end, 1 at the upper."""
    place = REACH * (1 - 2 * np.log(fill) / np.log(FILL_LOW))
    return float(np.clip(place, -REACH, REACH))


def _decode_fill(place: float) -> float:
    return float(FILL_LOW ** ((1 - place / REACH) / 2))
