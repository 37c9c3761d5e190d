"""Bring the times of layers to those of whole models, and say how well that works."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from torch import nn

from autocompress.graph.layers import LayerGraph
from autocompress.jobs import Candidate
from autocompress.masks.cost import CostModel, is_depthwise
from autocompress.masks.latency import Fit, FitError, Floats, LatencyTable
from autocompress.masks.mask import Masks, kept_inputs, kept_rows, open_columns
from autocompress.masks.project import measure_energies, project_masks

FEWEST = 1 / 8  # Share of the filters, or of the columns, that a random model keeps at least.
SPARSEST = 1 / 16
LEAST_SCALE = 0.5


@dataclass(frozen=True, eq=False)
class MeasuredModel:
    """A pruned model by the counts of its layers, and what one pass of it took.

    Attributes:
        channels: Input channels kept; shape (layers,).
        rows: Filters kept; shape (layers,).
        taken: Columns kept; shape (layers,).
        micros: Microseconds.
    """

    channels: Floats
    rows: Floats
    taken: Floats
    micros: float


def read_widths(graph: LayerGraph, masks: Masks) -> tuple[Floats, Floats, Floats]:
    """Return the input channels, filters and columns that ``masks`` keep of each layer."""
    counts = []
    for layer in graph.layers:
        inputs, rows = int(kept_inputs(masks, layer).sum()), int(kept_rows(masks, layer).sum())
        taken = (1 if is_depthwise(layer) else inputs // layer.groups) * layer.area
        if layer.groups == 1:
            taken = int((masks.columns[layer.name] & open_columns(masks, layer)).sum())
        counts.append((inputs, rows, taken))
    channels, filters, columns = np.array(counts, dtype=np.float64).T
    return channels, filters, columns


def draw_masks(
    model: nn.Module, graph: LayerGraph, align: int, count: int, seed: int
) -> Iterator[Masks]:
    """Yield masks of random shape in turn with fewer filters, fewer columns, and fewer of both.

    Args:
        model: Whose largest weights are kept.
        graph: Its layers.
        align: Filters are kept in multiples of this, or all of a group: so they are executed.
        count: Masks to yield.
        seed: Of the shapes.
    """
    energies, costs = measure_energies(graph, model), CostModel(graph)
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        # Whole models differ too: one share for the model, and a spread around it by layer.
        keeps = costs.sizes.astype(np.float64)
        if number % 3 != 1:
            shares = _draw_shares(rng, FEWEST, len(keeps))
            keeps = np.minimum(np.maximum(np.rint(shares * keeps / align), 1) * align, keeps)
        keeps = np.where([group.prunable for group in graph.groups], keeps, costs.sizes)
        opened = costs.count_open(keeps.astype(np.int64)).astype(np.float64)
        if number % 3 != 0:
            opened = np.maximum(np.rint(_draw_shares(rng, SPARSEST, len(opened)) * opened), 1)
        filters = {
            group.name: int(keep)
            for group, keep in zip(graph.groups, keeps, strict=True)
            if group.prunable
        }
        kept = {graph.layers[place].name: int(opened[place]) for place in costs.column_index}
        candidate = Candidate(filters=filters, columns=kept)
        yield project_masks(graph, energies, candidate, sweeps=1)


def calibrate_table(
    table: LatencyTable, names: Sequence[str], models: Sequence[MeasuredModel], fitted: int
) -> LatencyTable:
    """Return ``table`` fitted to measured models, with its error on others.

    Args:
        table: Its own fit and error are not used.
        names: Layers, in the order of the counts of ``models``.
        models: Measured ones.
        fitted: How many of them to fit to; the others say the error.
    """
    channels, rows, taken = (
        np.array([getattr(one, part) for one in models]) for part in ("channels", "rows", "taken")
    )
    measured = np.array([one.micros for one in models])
    parts = [
        replace(table, fit=fit).predict(names, channels, rows, taken)
        for fit in (Fit(), Fit(scale=0.0, per_element=1.0), Fit(scale=0.0, fixed=1.0))
    ]
    # Relative errors are what counts, of slow models and fast ones alike.
    features = np.stack(parts, axis=1) / measured[:, None]
    # Norms and layers grow alike: without a least scale, noise might leave the layers no part.
    found = solve_positive(features[:fitted], 1 - LEAST_SCALE * features[:fitted, 0])
    found[0] += LEAST_SCALE
    errors = np.abs(features[fitted:] @ found - 1)
    error = FitError(median=0.0, high=0.0, models=0)
    if len(errors):
        middle, high = np.quantile(errors, [0.5, 0.9]).tolist()
        error = FitError(median=middle, high=high, models=len(errors))
    scale, per_element, fixed = found.tolist()
    fit = Fit(scale=scale, per_element=per_element, fixed=fixed)
    return replace(table, fit=fit, error=error)


def solve_positive(features: Floats, wanted: Floats) -> Floats:
    """Return the factors of 0 or more for which ``features @ factors`` is nearest to ``wanted``.

    Every choice of factors that are not 0 is tried, so this is exact; for few features.

    Args:
        features: Shape (rows, features).
        wanted: Shape (rows,).
    """
    count = features.shape[1]
    best, least = np.zeros(count), float(wanted @ wanted)
    for size in range(1, count + 1):
        for chosen in combinations(range(count), size):
            some = features[:, chosen]
            lengths = np.maximum(np.linalg.norm(some, axis=0), 1e-300)
            found = np.linalg.lstsq(some / lengths, wanted, rcond=None)[0] / lengths
            left = float(np.square(some @ found - wanted).sum())
            if (found >= 0).all() and left < least:
                best, least = np.zeros(count), left
                best[list(chosen)] = found
    return best


def _draw_shares(rng: np.random.Generator, least: float, count: int) -> Floats:
    middle = np.log(least) * rng.random()
    return np.exp(np.clip(middle + 0.5 * rng.standard_normal(count), np.log(least), 0.0))
