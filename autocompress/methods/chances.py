"""The probabilities of Structured Probabilistic Pruning (arXiv:1709.06994).

All groups of a model stand in one list: first its units, then the columns of its column layers.
Each has a probability of being left out of a training step. Now and then probabilities of low
ranks rise and those of high ranks fall; who reaches 1 is removed for good.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autocompress.errors import ArtifactError
from autocompress.graph.layers import OUTSIDE, Layer, LayerGraph
from autocompress.jobs import Candidate
from autocompress.masks.mask import Masks
from autocompress.masks.project import Scores, column_units

MARGIN = 0.02  # Of a pool: as if that much more were to go, or the last ones would stand still.
FULL = 1 - 1e-9  # Sums of steps that reach 1 but for rounding are 1.
_STEEPEST = 50.0  # exp of more is more than any probability.


def measure_change(ranks: Tensor, target: float, *, step: float, share: float) -> Tensor:
    """Return by how much probabilities change, from ``step`` at rank 0 to 0 at ``target``.

    ``A exp(-alpha r)`` up to rank N, where it has fallen to ``u A``; from there its mirror image
    in that point, which is below 0 beyond the target: what ranks there recovers.

    Args:
        ranks: From 0 for the least score.
        target: Groups that are to go, above 0.
        step: A, above 0.
        share: u, in (0, 1).
    """
    alpha = (math.log(2) - math.log(share)) / target
    turn = -math.log(share) / alpha
    mirrored = (alpha * (ranks - 2 * turn)).clamp(max=_STEEPEST)
    return torch.where(
        ranks <= turn,
        step * torch.exp(-alpha * ranks),
        2 * share * step - step * torch.exp(mirrored),
    )


@dataclass(frozen=True)
class Pool:
    """Groups that are ranked among each other.

    Attributes:
        places: Their numbers in the list of all groups; shape (n,), int64.
        keep: How many stay in the end; for columns, of those that the units leave open.
        layer: Whose columns they are; None for units.
    """

    places: Tensor
    keep: int
    layer: Layer | None = None


class Chances:
    """Probabilities and what they follow from; all on the CPU.

    Attributes:
        pools: The groups that may go; units before columns.
        inside: Which groups there are, shape (groups,).
        p: Probability of being left out, shape (groups,), float64.
        gone: Which are removed for good; their p is 1.
        means: Mean score over the updates so far, float64.
        risen: Which have risen above 0 at some time.
        recovered: Which fell after that, because others ranked below them.
        updates: Updates so far.
    """

    def __init__(self, graph: LayerGraph, bounds: Masks, candidate: Candidate) -> None:
        """Start with nothing left out.

        Args:
            graph: The layers and their coupling groups.
            bounds: Closed masks of what there is.
            candidate: Counts to keep.
        """
        self.pools = make_pools(graph, bounds, candidate)
        self.inside = join_groups(graph, bounds)
        # A unit stands for itself; a column goes with the unit it reads, if that is of the model.
        reads = [torch.arange(graph.units)]
        for layer in graph.column_layers:
            units = column_units(layer)
            reads.append(units.where(units != OUTSIDE, len(self.inside)))
        self._graph, self._reads = graph, torch.cat(reads)
        self.p, self.means = (torch.zeros(len(self.inside), dtype=torch.float64) for _ in range(2))
        self.gone, self.risen, self.recovered = (
            torch.zeros(len(self.inside), dtype=torch.bool) for _ in range(3)
        )
        self.updates = 0

    @property
    def done(self) -> bool:
        """Return whether as many groups are gone as should be."""
        return not any(self.count_left(pool) for pool in self.pools)

    @property
    def random(self) -> float:
        """Return the share of the groups in pools that are neither kept nor gone for certain."""
        return self._share((self.p > 0) & (self.p < 1) & self._open(self.gone))

    @property
    def recovery(self) -> float:
        """Return the share of the groups in pools whose probability fell after having risen."""
        return self._share(self.recovered)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Return which groups take part in a step, each left out with its probability; closed."""
        out = torch.rand(len(self.p), generator=generator, dtype=torch.float64) < self.p
        return self._open(out) & ~out

    def masks(self) -> Masks:
        """Return what is not gone; closed."""
        kept = self._open(self.gone) & ~self.gone
        return Masks(kept[: self._graph.units], split_columns(self._graph, kept))

    def count_left(self, pool: Pool) -> int:
        """Return how many groups of ``pool`` may still go, whatever becomes of the others.

        Columns go with their units. Before those are decided, so few may go that enough are
        left even when the units with the fewest columns stay.
        """
        opened = self._open(self.gone)[pool.places]
        gone = self.gone[pool.places]
        if pool.layer is None:
            return int((opened & ~gone).sum()) - pool.keep
        return max(0, self._count_open(pool, opened) - pool.keep - int((opened & gone).sum()))

    def update(self, scores: Tensor, *, step: float, share: float) -> None:
        """Change all probabilities by one update.

        Args:
            scores: Of all groups, shape (groups,), 0 or more; less goes first.
            step: See :func:`measure_change`.
            share: See there.
        """
        self.updates += 1
        self.means += (scores.double() - self.means) / self.updates
        for pool in self.pools:
            left = self.count_left(pool)
            if left:
                self._move(pool, left, step, share)
            # Columns may wait for units: those that go take some along.
            if not self.count_left(pool) and (pool.layer is None or self._has_units()):
                self.p[self._list_live(pool)] = 0.0

    def rank(self) -> Scores:
        """Return scores by which those of least probability stay; of equals, of most mean."""
        order = self.means.argsort(stable=True)
        order = order[(-self.p[order]).argsort(stable=True)]
        place = torch.empty(len(order), dtype=torch.float64)
        place[order] = torch.arange(len(order)).double()
        return Scores(place[: self._graph.units], split_columns(self._graph, place))

    def freeze(self, masks: Masks) -> None:
        """Set all probabilities to 0 or 1, as ``masks`` say."""
        self.gone = ~join_groups(self._graph, masks)
        self.p = self.gone.double()

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes."""
        return {
            "p": self.p,
            "gone": self.gone,
            "means": self.means,
            "risen": self.risen,
            "recovered": self.recovered,
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a stored state.

        Raises:
            ArtifactError: It is of another model.
        """
        if state["p"].shape != self.p.shape:
            raise ArtifactError(
                f"checkpoint: want {len(self.p)} probabilities, got {len(state['p'])}"
            )
        self.p, self.gone, self.means = state["p"], state["gone"], state["means"]
        self.risen, self.recovered = state["risen"], state["recovered"]
        self.updates = state["updates"]

    def _move(self, pool: Pool, left: int, step: float, share: float) -> None:
        """Change the probabilities of a pool of which ``left`` groups, 1 or more, are to go."""
        live = self._list_live(pool)
        ranks = torch.empty(len(live), dtype=torch.float64)
        ranks[self.means[live].argsort(stable=True)] = torch.arange(len(live)).double()
        target = left + MARGIN * len(pool.places)
        before = self.p[live]
        after = (before + measure_change(ranks, target, step=step, share=share)).clamp(0, 1)
        self.recovered[live] |= (after < before) & self.risen[live]
        self.risen[live] |= after > 0
        full = (after >= FULL).nonzero().squeeze(1)
        first = live[full[ranks[full].argsort()][:left]]
        # What is full but one too many waits: another may have to go in its place.
        self.p[live] = after.clamp(max=FULL)
        self.gone[first] = True
        self.p[first] = 1.0

    def _open(self, out: Tensor) -> Tensor:
        """Return which groups there are without the units ``out``; those themselves are."""
        units = torch.cat([self.inside & ~out, torch.ones(1, dtype=torch.bool)])
        opened = self.inside & units[self._reads]
        opened[: self._graph.units] = self.inside[: self._graph.units]
        return opened

    def _share(self, some: Tensor) -> float:
        if not self.pools:
            return 0.0
        places = torch.cat([pool.places for pool in self.pools])
        return float(some[places].double().mean())

    def _list_live(self, pool: Pool) -> Tensor:
        """Return the places of the groups of ``pool`` that can still go by themselves."""
        return pool.places[(self._open(self.gone) & ~self.gone)[pool.places]]

    def _has_units(self) -> bool:
        """Return whether all units are decided."""
        return not any(self.count_left(pool) for pool in self.pools if pool.layer is None)

    def _count_open(self, pool: Pool, opened: Tensor) -> int:
        """Return how many columns, of those ``opened``, are left whichever units still go."""
        reads = self._reads[pool.places][opened]
        per_unit = torch.bincount(reads, minlength=len(self.inside) + 1)
        total = int(opened.sum())
        for other in self.pools:
            if other.layer is None:
                units = other.places[~self.gone[other.places]]
                counts = per_unit[units].sort(descending=True).values
                total -= int(counts[: len(units) - other.keep].sum())
        return total


def make_pools(graph: LayerGraph, bounds: Masks, candidate: Candidate) -> tuple[Pool, ...]:
    """Return the pools of what ``candidate`` counts, where ``bounds`` leave more than that."""
    pools = []
    for group in graph.groups:
        inside = bounds.units[group.start : group.start + group.size].nonzero().squeeze(1)
        keep = candidate.filters.get(group.name, group.size)
        if group.prunable and keep < len(inside):
            pools.append(Pool(inside + group.start, keep))
    start = graph.units
    for layer in graph.column_layers:
        keep = candidate.columns.get(layer.name, layer.columns)
        inside = bounds.columns[layer.name].nonzero().squeeze(1)
        if keep < len(inside):
            pools.append(Pool(inside + start, keep, layer))
        start += layer.columns
    return tuple(pools)


def split_columns(graph: LayerGraph, values: Tensor) -> dict[str, Tensor]:
    """Return the part of ``values``, one for each group, that is of each layer's columns."""
    layers = graph.column_layers
    parts = values[graph.units :].split([layer.columns for layer in layers])
    return {layer.name: part for layer, part in zip(layers, parts, strict=True)}


def join_groups(graph: LayerGraph, masks: Masks) -> Tensor:
    """Return the list of all groups: whether ``masks`` keep each."""
    return torch.cat([masks.units, *(masks.columns[one.name] for one in graph.column_layers)])
