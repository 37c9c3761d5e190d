"""Models of a given share of the MACs, as the experiments of this folder measure them."""

import copy
from dataclasses import asdict

import torch
from torch import Tensor, nn

from autocompress.graph.layers import LayerGraph
from autocompress.graph.trace import trace_graph
from autocompress.jobs import Candidate
from autocompress.masks.cost import count_masks
from autocompress.masks.project import measure_energies, project_masks
from autocompress.search.bounds import make_bounds
from autocompress.search.counts import make_candidate, make_flat
from autocompress.search.space import SpaceSettings
from autocompress.shrink.compact import compact_model
from autocompress.zoo.make import ModelSettings, make_model

SHAPE = (3, 32, 32)
WHOLE = (1.0, 1.0)
KINDS = {
    "filters": SpaceSettings(column_density=WHOLE),
    "aligned filters": SpaceSettings(column_density=WHOLE, filters_multiple_of=8),
    "columns": SpaceSettings(filter_density=WHOLE),
    "both": SpaceSettings(),
}


def make_dense(name: str, seed: int) -> nn.Module:
    """Return an untrained model: as fast as a trained one."""
    torch.manual_seed(seed)
    model = make_model(ModelSettings(name=name), SHAPE, 10).eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return model


def make_example(batch: int, seed: int) -> Tensor:
    """Return random images, shape (batch, 3, 32, 32)."""
    return torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(seed))


def shrink_to(dense: nn.Module, kind: str, share: float) -> tuple[nn.Module, float]:
    """Return ``dense`` with one density for all layers and that share of its MACs, physically.

    Args:
        dense: Its largest filters and columns are kept.
        kind: What is removed, one of :data:`KINDS`.
        share: Of the MACs, above 0 and at most 1.

    Returns:
        The compact model, and the share that it reached: at most ``share``.
    """
    graph = trace_graph(copy.deepcopy(dense).eval(), make_example(2, 0))
    candidate = fit_candidate(graph, KINDS[kind], share)
    masks = project_masks(graph, measure_energies(graph, dense), candidate)
    full = project_masks(graph, measure_energies(graph, dense), Candidate(filters={}, columns={}))
    reached = count_masks(graph, masks).macs / count_masks(graph, full).macs
    return compact_model(dense, graph, masks).eval(), reached


def fit_candidate(graph: LayerGraph, space: SpaceSettings, share: float) -> Candidate:
    """Return counts of one density for all layers which use up that share of the MACs."""
    full = Candidate(filters={}, columns={})
    bounds = make_bounds(space, graph, graph, full)
    macs = asdict(bounds.model.count_candidate(full))["macs"]
    return make_candidate(bounds, make_flat(bounds), {"macs": share * macs})
