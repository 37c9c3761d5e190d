"""Which single weights of a model are kept."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from autocompress.errors import SettingError
from autocompress.graph.layers import LayerGraph
from autocompress.masks.paths import (
    WeightMasks,
    find_ends,
    find_live_units,
    keep_between,
    keep_live,
    reach_units,
)
from autocompress.masks.widest import find_path

__all__ = ["Allocation", "WeightMasks", "allocate_weights", "keep_weights", "project_weights"]


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """How one budget of weights is shared among the layers; also its TOML table.

    Attributes:
        normalize: What makes the weights of different layers comparable: ``none`` compares
            abs(w), ``std`` abs(w) / std of the layer, ``lamp`` w^2 / sum of those w'^2 of the
            layer that are not smaller (arXiv:2010.07611).
        minimum: Least weights of each layer, 0 or more.
        live_paths: Whether weights on dead paths are removed and their budget spent again.
    """

    normalize: Literal["none", "std", "lamp"] = "lamp"
    minimum: int = 1
    live_paths: bool = True

    def __post_init__(self) -> None:
        if self.minimum < 0:
            raise SettingError(f"allocation.minimum: want 0 or more, got {self.minimum}")


def keep_weights(scores: Tensor, keep: int) -> Tensor:
    """Return which ``keep`` entries of ``scores`` are largest; ties keep the lower index.

    A selection, not a sort: 25 million entries take about a tenth of a second.

    Args:
        scores: Any shape, no NaN.
        keep: 0..entries.

    Returns:
        The shape and device of ``scores``, bool.

    Raises:
        SettingError: ``keep`` is out of range.
    """
    if not 0 <= keep <= scores.numel():
        raise SettingError(f"keep must be 0..{scores.numel()}, got {keep}")
    if keep == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    flat = scores.detach().reshape(-1)
    limit = _find_largest(flat, keep)
    kept = flat > limit
    missing = keep - int(kept.sum())
    kept[(flat == limit).nonzero().squeeze(1)[:missing]] = True
    return kept.reshape(scores.shape)


def project_weights(weight: Tensor, keep: int) -> Tensor:
    """Return the nearest tensor to ``weight`` with at most ``keep`` non-zero entries.

    Keeping the largest magnitudes is the exact projection (arXiv:1804.03294).

    Args:
        weight: Any shape, floating point, finite.
        keep: Weights to keep, 0..entries.

    Returns:
        A new tensor with the shape, dtype and device of ``weight``.
    """
    return torch.where(keep_weights(weight.abs(), keep), weight, torch.zeros_like(weight))


def allocate_weights(
    graph: LayerGraph,
    weights: Mapping[str, Tensor],
    keep: int,
    allocation: Allocation,
    *,
    within: WeightMasks | None = None,
) -> WeightMasks:
    """Return masks that keep the ``keep`` weights of highest score in the whole model.

    With live paths, a budget spent on weights of dead units is spent again until ``keep`` live
    weights are found, or no more can live. With ``normalize = "none"``, no minimum and no live
    paths this is the exact projection on "at most ``keep`` weights".

    Args:
        graph: The layers and their coupling groups.
        weights: Weights by layer name, in their own shapes, finite, on one device.
        keep: Weights to keep, at least ``minimum`` per layer.
        allocation: Scores, minimum and live paths.
        within: Keep nothing outside these masks; everything is allowed when None.

    Returns:
        Masks of all ``weights``; the same arguments give the same masks.

    Raises:
        SettingError: ``keep`` is less than the minimum of all layers.
    """
    sizes = {
        name: weight.numel() if within is None else int(within[name].sum())
        for name, weight in weights.items()
    }
    least = sum(min(size, allocation.minimum) for size in sizes.values())
    if keep < max(least, 0):
        raise SettingError(f"keep must be {least} or more for {len(sizes)} layers, got {keep}")
    ranks = {
        name: _rank_layer(weight, None if within is None else within[name], allocation)
        for name, weight in weights.items()
    }
    total = sum(sizes.values())
    keep = min(keep, total)
    if not allocation.live_paths:
        return _choose(ranks, keep)
    return _keep_paths(graph, ranks, keep, total)


@dataclass(frozen=True)
class _Rank:
    """What a layer offers.

    Attributes:
        magnitudes: abs(w) in the weight's shape, -1 where nothing may be kept.
        scores: Of the allowed weights in any order, infinity for those that fill the minimum.
        scale: Divisor of magnitudes; ``lamp`` does not read it.
        table: For ``lamp``, the allowed magnitudes, descending, and their scores.
        minimum: Least weights of the layer.
    """

    magnitudes: Tensor
    scores: Tensor
    scale: float
    table: tuple[Tensor, Tensor] | None
    minimum: int


def _rank_layer(weight: Tensor, within: Tensor | None, allocation: Allocation) -> _Rank:
    magnitudes = weight.detach().abs()
    if magnitudes.dtype not in (torch.float32, torch.float64):
        magnitudes = magnitudes.float()
    values = magnitudes.reshape(-1) if within is None else magnitudes[within]
    if within is not None:
        magnitudes = magnitudes.where(within, -1.0)
    scale, table = 1.0, None
    if allocation.normalize == "lamp":
        values = _sort_descending(values)
        scores = _score_lamp(values)
        table = (values, scores)
    else:
        if allocation.normalize == "std":
            scale = _measure_scale(values)
        scores = values / scale
    minimum = min(allocation.minimum, len(values))
    if minimum:
        scores = scores.masked_fill(keep_weights(values, minimum), torch.inf)
    return _Rank(magnitudes, scores, scale, table, minimum)


def _score_lamp(values: Tensor) -> Tensor:
    """Return w^2 / (the sum of it and all before it) of descending magnitudes, in float64."""
    energies = values.double().square()
    return energies / energies.cumsum(0).clamp(min=torch.finfo(torch.float64).tiny)


def _measure_scale(values: Tensor) -> float:
    """Return the root mean square of magnitudes: the std of weights, whose mean is near 0."""
    return (
        max(float(values.square().mean(dtype=torch.float64).sqrt()), 1e-30) if len(values) else 1
    )


def _score(rank: _Rank, values: Tensor) -> Tensor:
    """Return the scores of some of a layer's magnitudes."""
    if rank.table is None:
        return values / rank.scale
    known, scores = rank.table
    return scores[torch.searchsorted(-known, -values)]


def _share(scores: Mapping[str, Tensor], keep: int) -> dict[str, int]:
    """Return how many of the ``keep`` largest scores are in each layer."""
    sizes = [len(values) for values in scores.values()]
    kept = keep_weights(torch.cat(list(scores.values())), keep)
    counts = [int(part.sum()) for part in kept.split(sizes)]
    return dict(zip(scores, counts, strict=True))


def _choose(ranks: Mapping[str, _Rank], keep: int) -> WeightMasks:
    """Return the ``keep`` weights of highest score."""
    counts = _share({name: rank.scores for name, rank in ranks.items()}, keep)
    return {name: keep_weights(rank.magnitudes, counts[name]) for name, rank in ranks.items()}


def _choose_among(ranks: Mapping[str, _Rank], among: WeightMasks, keep: int) -> WeightMasks:
    """Return the ``keep`` weights of highest score among some, or all of those."""
    offers, scores = {}, {}
    for name, rank in ranks.items():
        offers[name] = rank.magnitudes.where(among[name], -1.0)
        best = keep_weights(offers[name], min(keep, int(among[name].sum())))
        scores[name] = _score(rank, offers[name][best])
    counts = _share(scores, min(keep, sum(len(values) for values in scores.values())))
    return {name: keep_weights(offers[name], counts[name]) for name in ranks}


def _keep_paths(
    graph: LayerGraph, ranks: Mapping[str, _Rank], keep: int, total: int
) -> WeightMasks:
    """Return ``keep`` live weights, or as many as can live."""
    live = _spend(graph, ranks, keep, total)
    live = _serve_minimum(graph, ranks, live)
    live = _drop_weakest(graph, ranks, live, _count(live) - keep)
    while _count(live) < keep:
        live = _fill(graph, ranks, live, keep)
        missing = keep - _count(live)
        path = find_path(graph, _score_all(ranks, live)) if missing else []
        if not path:
            break
        room = _drop_weakest(graph, ranks, live, len(path) - missing)
        grown = keep_live(graph, _add(room, path))
        if _count(grown) <= _count(live):
            break  # No path fits.
        live = grown
    return live


def _spend(graph: LayerGraph, ranks: Mapping[str, _Rank], keep: int, total: int) -> WeightMasks:
    """Return the live ones of the best weights: of as many as leave at most ``keep`` alive."""
    chosen = _choose(ranks, keep)
    live = keep_live(graph, chosen)
    missing, more = keep - _count(live), 8
    while missing and keep < total:
        # Masks of a larger budget contain those of a smaller one, and so do their live weights.
        spent, more = min(total, keep + more * missing), 8 * more
        wider = _choose(ranks, spent)
        if spent == total or _count(keep_live(graph, wider)) > keep:
            return keep_live(graph, _take_most(graph, ranks, chosen, wider, keep))
    return live


def _take_most(
    graph: LayerGraph,
    ranks: Mapping[str, _Rank],
    chosen: WeightMasks,
    wider: WeightMasks,
    keep: int,
) -> WeightMasks:
    """Return ``chosen`` and as many of the next best in ``wider`` as leave ``keep`` alive."""
    places, scores, ends, fixed = {}, [], {}, {}
    for name, rank in ranks.items():
        extra = wider[name] & ~chosen[name]
        places[name] = extra.flatten().nonzero().squeeze(1)
        scores.append(_score(rank, rank.magnitudes[extra]))
        fixed[name] = find_ends(graph.by_name[name], chosen[name].flatten().nonzero().squeeze(1))
        ends[name] = find_ends(graph.by_name[name], places[name])
    order = torch.cat(scores).argsort(descending=True, stable=True).argsort()
    ranked = dict(zip(ranks, order.split([len(one) for one in scores]), strict=True))

    def count_live(limit: int) -> int:
        both = []
        for layer in graph.layers:
            first, (sources, targets) = fixed[layer.name], ends[layer.name]
            new = ranked[layer.name] < limit
            both.append((torch.cat([first[0], sources[new]]), torch.cat([first[1], targets[new]])))
        units = torch.cat([reach_units(graph, both), both[0][0].new_ones(1, dtype=torch.bool)])
        return sum(int((units[one] & units[other]).sum()) for one, other in both)

    limit = bisect_right(range(len(order) + 1), keep, key=count_live) - 1
    found = {name: mask.clone() for name, mask in chosen.items()}
    for name, mask in found.items():
        mask.view(-1)[places[name][ranked[name] < limit]] = True
    return found


def _serve_minimum(
    graph: LayerGraph, ranks: Mapping[str, _Rank], live: WeightMasks
) -> WeightMasks:
    """Return ``live`` with a path through each layer for each weight that it lacks."""
    for name, rank in ranks.items():
        for _ in range(rank.minimum - int(live[name].sum())):
            path = find_path(graph, _score_all(ranks, live), through=name)
            live = _add(live, path)
    return live


def _fill(
    graph: LayerGraph, ranks: Mapping[str, _Rank], live: WeightMasks, keep: int
) -> WeightMasks:
    """Return ``live`` and the best weights between live units, at most ``keep`` in all."""
    everything = {name: rank.magnitudes >= 0 for name, rank in ranks.items()}
    between = keep_between(graph, find_live_units(graph, live), everything)
    among = {name: between[name] & ~live[name] for name in live}
    extra = _choose_among(ranks, among, keep - _count(live))
    return {name: live[name] | extra[name] for name in live}


def _drop_weakest(
    graph: LayerGraph, ranks: Mapping[str, _Rank], live: WeightMasks, count: int
) -> WeightMasks:
    """Return ``live`` without the ``count`` weakest that no other weight's life hangs on."""
    if count <= 0:
        return live
    places = {name: mask.nonzero() for name, mask in live.items()}
    scores = [_score(rank, rank.magnitudes[live[name]]) for name, rank in ranks.items()]
    owners = [(name, one) for name in ranks for one in places[name]]
    left = _count(live)
    for number in torch.cat(scores).argsort(stable=True).tolist():
        name, place = owners[number]
        if int(live[name].sum()) <= ranks[name].minimum:
            continue
        smaller = {**live, name: live[name].clone()}
        smaller[name][tuple(place)] = False
        if _count(keep_live(graph, smaller)) == left - 1:
            live, left, count = smaller, left - 1, count - 1
        if count == 0:
            break
    return live


def _add(masks: WeightMasks, path: list[tuple[str, int]]) -> WeightMasks:
    masks = {name: mask.clone() for name, mask in masks.items()}
    for name, place in path:
        masks[name].view(-1)[place] = True
    return masks


def _score_all(ranks: Mapping[str, _Rank], live: WeightMasks) -> dict[str, Tensor]:
    """Return the score of every weight: infinity where it lives, -infinity where it may not."""
    found = {}
    for name, rank in ranks.items():
        scores = _score(rank, rank.magnitudes)
        found[name] = scores.where(rank.magnitudes >= 0, -torch.inf)
        found[name] = found[name].masked_fill(live[name], torch.inf)
    return found


def _count(masks: WeightMasks) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def _find_largest(flat: Tensor, keep: int) -> Tensor:
    """Return the ``keep``-th largest entry; shape ()."""
    place = len(flat) - keep
    if flat.device.type == "cpu" and flat.dtype in (torch.float32, torch.float64):
        found = np.partition(flat.numpy(), place)[place]  # 5 times as fast as kthvalue
        return torch.tensor(found, dtype=flat.dtype)
    if flat.dtype not in (torch.float32, torch.float64):
        return flat.float().kthvalue(place + 1).values.to(flat.dtype)
    return flat.kthvalue(place + 1).values


def _sort_descending(values: Tensor) -> Tensor:
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy())).flip(0)  # 20 times as fast as sort
    return values.sort(descending=True).values
