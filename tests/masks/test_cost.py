"""Costs counted before a model exists equal those counted on it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.graph.layers import LayerGraph
from autocompress.jobs import Candidate
from autocompress.masks.cost import CostModel, count_masks
from autocompress.masks.mask import Masks, close_masks, count_kept, full_masks, parameter_masks
from tests.hand_made import MAKERS, HandMade, draw_masks

NETS = st.sampled_from(sorted(MAKERS))
SEEDS = st.integers(0, 2**31)
DENSITIES = st.floats(0.0, 1.0)


def count_by_hand(made: HandMade, masks: Masks) -> tuple[int, int, int]:
    """Return (weights, params, macs) as the ones in the masks of all parameters."""
    ones = {
        name: int(mask.sum())
        for name, mask in parameter_masks(made.graph, masks, made.model).items()
    }
    by_layer = {layer: ones[f"{layer.name}.weight"] for layer in made.graph.layers}
    macs = sum(weights * layer.positions for layer, weights in by_layer.items())
    return sum(by_layer.values()), sum(ones.values()), macs


def count_keeps(graph: LayerGraph, masks: Masks) -> np.ndarray:
    return np.array([int(masks.units[list(group.units)].sum()) for group in graph.groups])


@given(NETS, SEEDS, DENSITIES)
def test_costs_of_masks_are_the_ones_in_them(net: str, seed: int, density: float) -> None:
    made = MAKERS[net]()
    masks = draw_masks(made.graph, seed, density)

    cost = count_masks(made.graph, masks)

    assert (cost.weights, cost.params, cost.macs) == count_by_hand(made, masks)


@given(NETS, SEEDS, DENSITIES)
def test_costs_of_counts_are_the_costs_of_any_masks_with_them(
    net: str, seed: int, density: float
) -> None:
    graph = MAKERS[net]().graph
    masks = draw_masks(graph, seed, density)

    foreseen = CostModel(graph).count_candidate(count_kept(graph, masks))
    found = count_masks(graph, masks)

    assert (foreseen.weights, foreseen.params, foreseen.macs) == (
        found.weights,
        found.params,
        found.macs,
    )
    # Counts cannot know that a channel lost all its columns and needs no index.
    assert found.bytes <= foreseen.bytes


@pytest.mark.parametrize("net", sorted(MAKERS))
def test_a_full_model_costs_its_parameters(net: str) -> None:
    made = MAKERS[net]()

    found = count_masks(made.graph, full_masks(made.graph))

    assert found.params == sum(p.numel() for p in made.model.parameters())
    statistics = sum(b.numel() for b in made.model.buffers() if b.ndim)
    assert found.bytes == 4 * (found.params + statistics)
    assert CostModel(made.graph).count_candidate(Candidate(filters={}, columns={})) == found


@given(NETS, SEEDS, DENSITIES)
def test_open_columns_are_those_with_a_living_input(net: str, seed: int, density: float) -> None:
    made = MAKERS[net]()
    graph = made.graph
    units = draw_masks(graph, seed, density).units
    masks = Masks(units, full_masks(graph).columns)

    found = CostModel(graph).count_open(count_keeps(graph, masks))

    for layer, columns in zip(graph.layers, found.tolist(), strict=True):
        alive = [unit < 0 or bool(units[unit]) for unit in layer.in_units]
        depthwise = layer.groups == layer.channels > 1
        assert columns == layer.area * (1 if depthwise else sum(alive) // layer.groups)


@given(NETS, SEEDS, DENSITIES)
def test_more_columns_than_are_left_means_all_of_them(net: str, seed: int, density: float) -> None:
    graph = MAKERS[net]().graph
    model = CostModel(graph)
    filters = count_kept(graph, draw_masks(graph, seed, density)).filters
    every = {layer.name: layer.columns for layer in graph.column_layers}

    with_too_many = model.count_candidate(Candidate(filters=filters, columns=every))

    assert with_too_many == model.count_candidate(Candidate(filters=filters, columns={}))


def test_an_index_is_paid_where_columns_of_a_living_unit_are_gone() -> None:
    made = MAKERS["sequential"]()
    whole = full_masks(made.graph)
    whole.columns["3"][:9] = False
    partial = full_masks(made.graph)
    partial.columns["3"][0] = False
    dead = full_masks(made.graph)
    dead.units[0] = False
    dense = count_masks(made.graph, full_masks(made.graph))

    by_unit = count_masks(made.graph, close_masks(made.graph, dead))
    by_channel = count_masks(made.graph, whole)
    by_column = count_masks(made.graph, partial)

    # Its filter of nine weights, four arrays of its norm, and the 27 weights that read it.
    assert by_unit.bytes == dense.bytes - 4 * (9 + 4 + 27)
    assert by_channel.bytes == dense.bytes - 4 * 9 * 3 + 4 * 27
    assert by_column.bytes == dense.bytes - 4 * 1 * 3 + 4 * 35


def test_a_norm_without_gain_and_shift_costs_its_statistics_only() -> None:
    graph = MAKERS["sequential"]().graph
    bare = replace(graph, norms=tuple(replace(norm, affine=False) for norm in graph.norms))
    whole, less = (count_masks(each, full_masks(each)) for each in (graph, bare))

    assert whole.params - less.params == 2 * 4
    assert whole.bytes - less.bytes == 4 * 2 * 4
    assert CostModel(bare).count_candidate(Candidate(filters={}, columns={})) == less
