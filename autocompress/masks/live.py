"""Spend a budget of weights on living paths alone."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from autocompress.graph.layers import LayerGraph
from autocompress.masks.paths import (
    WeightMasks,
    find_ends,
    find_live_units,
    keep_between,
    keep_live,
    reach_units,
)
from autocompress.masks.rank import Rank, choose_among, choose_best, count_weights, score_some
from autocompress.masks.widest import Place, find_paths

PATH_SHARE = 64  # As many missing weights for each path that is added in one go.


def keep_paths(graph: LayerGraph, ranks: Mapping[str, Rank], keep: int, total: int) -> WeightMasks:
    """Return ``keep`` live weights, or as many as can live."""
    live = _spend(graph, ranks, keep, total)
    served = _serve_minimum(graph, ranks, live)
    served = _drop_weakest(graph, ranks, served, count_weights(served) - keep)
    if count_weights(served) <= keep:  # Else the budget is too small for a path through each.
        live = served
    while count_weights(live) < keep:
        live = _fill(graph, ranks, live, keep)
        missing = keep - count_weights(live)
        new = _find_places(graph, ranks, live, missing) if missing else []
        if not new:
            break
        grown = _add(live, new)
        grown = _drop_weakest(graph, ranks, grown, count_weights(grown) - keep, spare=new)
        if not count_weights(live) < count_weights(grown) <= keep:
            break  # The path does not fit.
        live = grown
    return live


def _find_places(
    graph: LayerGraph, ranks: Mapping[str, Rank], live: WeightMasks, missing: int
) -> list[Place]:
    """Return the weights of the widest new paths: of one, or of many where much is missing."""
    found: dict[Place, None] = {}
    for path in find_paths(graph, _score_all(ranks, live), count=max(1, missing // PATH_SHARE)):
        both = {**found, **dict.fromkeys(path)}
        if found and len(both) > missing:
            break
        found = both
    return list(found)


def _spend(graph: LayerGraph, ranks: Mapping[str, Rank], keep: int, total: int) -> WeightMasks:
    """Return the live ones of the best weights: of as many as leave at most ``keep`` alive."""
    chosen = choose_best(ranks, keep)
    live = keep_live(graph, chosen)
    missing, more = keep - count_weights(live), 8
    while missing and keep < total:
        # Masks of a larger budget contain those of a smaller one, and so do their live weights.
        spent, more = min(total, keep + more * missing), 8 * more
        wider = choose_best(ranks, spent)
        if spent == total or count_weights(keep_live(graph, wider)) > keep:
            return keep_live(graph, _take_most(graph, ranks, chosen, wider, keep))
    return live


def _take_most(
    graph: LayerGraph,
    ranks: Mapping[str, Rank],
    chosen: WeightMasks,
    wider: WeightMasks,
    keep: int,
) -> WeightMasks:
    """Return ``chosen`` and as many of the next best in ``wider`` as leave ``keep`` alive."""
    places, scores, ends, fixed = {}, [], {}, {}
    for name, rank in ranks.items():
        extra = wider[name] & ~chosen[name]
        places[name] = extra.flatten().nonzero().squeeze(1)
        scores.append(score_some(rank, rank.magnitudes[extra]))
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


def _serve_minimum(graph: LayerGraph, ranks: Mapping[str, Rank], live: WeightMasks) -> WeightMasks:
    """Return ``live`` with what each layer lacks: best between live units, then on new paths."""
    for name, rank in ranks.items():
        lacking = rank.minimum - int(live[name].sum())
        if lacking > 0:
            extra = choose_among({name: rank}, _find_room(graph, ranks, live), lacking)
            live = {**live, name: live[name] | extra[name]}
        for _ in range(rank.minimum - int(live[name].sum())):
            paths = find_paths(graph, _score_all(ranks, live), through=name)
            live = _add(live, paths[0] if paths else [])
    return live


def _fill(
    graph: LayerGraph, ranks: Mapping[str, Rank], live: WeightMasks, keep: int
) -> WeightMasks:
    """Return ``live`` and the best weights between live units, at most ``keep`` in all."""
    extra = choose_among(ranks, _find_room(graph, ranks, live), keep - count_weights(live))
    return {name: live[name] | extra[name] for name in live}


def _find_room(graph: LayerGraph, ranks: Mapping[str, Rank], live: WeightMasks) -> WeightMasks:
    """Return the allowed weights between live units that are not kept yet."""
    allowed = {name: (rank.magnitudes >= 0) & ~live[name] for name, rank in ranks.items()}
    return keep_between(graph, find_live_units(graph, live), allowed)


def _drop_weakest(
    graph: LayerGraph,
    ranks: Mapping[str, Rank],
    live: WeightMasks,
    count: int,
    *,
    spare: Sequence[Place] = (),
) -> WeightMasks:
    """Return ``live`` without ``count`` weights: the weakest, each with all that dies with it.

    It drops more when no set of exactly ``count`` is found, and fewer when that would take the
    minimum of a layer or what it is told to ``spare``.
    """
    if count <= 0:
        return live
    places = [(name, one) for name in ranks for (one,) in live[name].flatten().nonzero().tolist()]
    scores = [score_some(rank, rank.magnitudes[live[name]]) for name, rank in ranks.items()]
    order = torch.cat(scores).argsort(stable=True).tolist()
    goal = count_weights(live) - count
    for least in (goal, 0):
        for name, place in (places[number] for number in order):
            if count_weights(live) <= goal:
                return live
            smaller = {**live, name: live[name].clone()}
            smaller[name].view(-1)[place] = False
            smaller = keep_live(graph, smaller)
            if count_weights(smaller) >= least and _is_enough(ranks, smaller, spare):
                live = smaller
    return live


def _is_enough(ranks: Mapping[str, Rank], masks: WeightMasks, spare: Sequence[Place]) -> bool:
    return all(int(masks[name].sum()) >= rank.minimum for name, rank in ranks.items()) and all(
        bool(masks[name].view(-1)[place]) for name, place in spare
    )


def _add(masks: WeightMasks, path: list[Place]) -> WeightMasks:
    masks = {name: mask.clone() for name, mask in masks.items()}
    for name, place in path:
        masks[name].view(-1)[place] = True
    return masks


def _score_all(ranks: Mapping[str, Rank], live: WeightMasks) -> dict[str, Tensor]:
    """Return the score of every weight: infinity where it lives, -infinity where it may not."""
    found = {}
    for name, rank in ranks.items():
        scores = score_some(rank, rank.magnitudes)
        found[name] = scores.where(rank.magnitudes >= 0, -torch.inf)
        found[name] = found[name].masked_fill(live[name], torch.inf)
    return found
