"""The search space as Optuna's samplers see it: a box of numbers that can be read back.

Only candidates that fit the budget are evaluated, so what a sampler learns from is not what it
proposed but what was made of it: the realised densities. One axis is the logit of a realised
density, relative to the logit at which all densities alike would use the budget up. Proposals
near good points are moved little when they are made to fit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution

from autocompress.jobs import Candidate
from autocompress.search.baselines import draw_logits
from autocompress.search.counts import (
    FULL,
    Logits,
    count_cost,
    make_candidate,
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
    """One axis for each group and each layer with a choice, and one for the fill.

    Attributes:
        ground: Where the round searches.
        spread: Standard deviation of drawn logits.
        resources: Resources among the objectives; the fill is an axis when there are any.
        groups: Places of the groups with a choice.
        layers: Places of the layers with a choice.
        names: The axes, in this order: groups, layers, fill.
        centre: Logit at which all densities alike use the budget up.
    """

    ground: Ground
    spread: float
    resources: Sequence[str]
    groups: Ints
    layers: Ints
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
        values = self._clip(logits.filters[self.groups], logits.columns[self.layers])
        if self.resources:
            values.append(_encode_fill(draw_fill(rng)))
        return dict(zip(self.names, values, strict=True))

    def make_candidate(self, params: Mapping[str, float]) -> Candidate:
        """Return the candidate of a point, made to fit."""
        graph = self.ground.bounds.graph
        filters, columns = np.zeros(len(graph.groups)), np.zeros(len(graph.layers))
        values = np.array([params[name] for name in self.names])
        filters[self.groups] = values[: len(self.groups)]
        wanted = values[len(self.groups) : len(self.groups) + len(self.layers)]
        columns[self.layers] = np.where(wanted >= ALL_COLUMNS, FULL, wanted)
        fill = _decode_fill(params[FILL]) if self.resources else 1.0
        limits = scale_limits(self.ground, fill)
        return make_candidate(self.ground.bounds, Logits(filters, columns), limits)

    def read_sample(self, record: Record) -> Sample:
        """Return where ``record`` lies and what it scored: its energy, then its resources."""
        bounds = self.ground.bounds
        counts = read_counts(bounds, record.candidate)
        logits = read_logits(bounds, counts)
        most = bounds.open_columns(counts.keeps)[2]
        columns = np.where(counts.columns >= most, FULL, logits.columns - self.centre)
        filters = logits.filters - self.centre
        values = self._clip(filters[self.groups], columns[self.layers])
        if self.resources:
            values.append(_encode_fill(measure_fill(self.ground, counts)))
        cost = count_cost(bounds, counts)
        costs = (float(getattr(cost, name)) for name in self.resources)
        return Sample(dict(zip(self.names, values, strict=True)), (record.energy, *costs))

    def _clip(self, filters: NDArray[np.float64], columns: NDArray[np.float64]) -> list[float]:
        part = np.where(columns >= FULL, REACH, np.clip(columns, -REACH, ALL_COLUMNS - 1e-6))
        clipped: list[float] = np.append(np.clip(filters, -REACH, REACH), part).tolist()
        return clipped


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
    names += [FILL] if resources else []
    alike = read_logits(bounds, read_counts(bounds, make_start(ground, 0)))
    centres = np.append(alike.filters[groups], alike.columns[layers])
    centre = float(np.median(centres)) if len(centres) else 0.0
    return Axes(ground, spread, resources, groups, layers, tuple(names), centre)


def _encode_fill(fill: float) -> float:
    """Return where ``fill`` lies on its axis: FILL_LOW at the lower end, 1 at the upper."""
    place = REACH * (1 - 2 * np.log(fill) / np.log(FILL_LOW))
    return float(np.clip(place, -REACH, REACH))


def _decode_fill(place: float) -> float:
    return float(FILL_LOW ** ((1 - place / REACH) / 2))
