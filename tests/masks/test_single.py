"""Single weights within kept filters and columns: chosen, cut, counted and left out."""

import copy
from itertools import combinations

import pytest
import torch

from autocompress.graph.trace import trace_graph
from autocompress.jobs import Candidate
from autocompress.masks.cost import count_masks
from autocompress.masks.mask import (
    Masks,
    apply_masks_,
    count_kept,
    full_masks,
    parameter_masks,
    weight_mask,
)
from autocompress.masks.project import measure_energies, measure_energy, project_masks
from autocompress.masks.purify import drop_empty, propagate
from autocompress.shrink.compact import compact_model
from autocompress.shrink.filters import shrink_filters, slice_graph
from tests.hand_made import MAKERS
from tests.nets import draw_input, draw_masks, make_random

SLOW = pytest.param("torchvision:mobilenet_v2", marks=pytest.mark.slow)  # Depthwise layers.
NAMES = ["lenet5", "resnet20", SLOW]


def thin(masks: Masks, name: str, seed: int = 0, density: float = 0.3) -> Masks:
    """Return ``masks`` with single weights of every layer of a net left out."""
    graph = trace_graph(make_random(name), draw_input(name))
    generator = torch.Generator().manual_seed(seed)
    weights = {
        layer.name: torch.rand(layer.filters, layer.columns, generator=generator) < density
        for layer in graph.layers
    }
    return Masks(masks.units, masks.columns, weights)


@pytest.mark.parametrize("keep", [1, 3, 7])
def test_no_other_choice_within_the_block_keeps_more_energy(keep: int) -> None:
    made = MAKERS["sequential"]()
    energies = measure_energies(made.graph, made.model)
    first = made.graph.layers[0]
    candidate = Candidate(filters={}, columns={first.name: 4}, weights={first.name: keep})

    masks = project_masks(made.graph, energies, candidate)

    kept = weight_mask(masks, first)
    block = weight_mask(Masks(masks.units, masks.columns), first)
    inside = energies[first.name][block]
    best = max(float(inside[list(one)].sum()) for one in combinations(range(len(inside)), keep))
    assert int(kept.sum()) == keep
    assert not bool((kept & ~block).any())
    assert float(energies[first.name][kept].sum()) == pytest.approx(best)


@pytest.mark.parametrize("name", NAMES)
def test_a_projection_keeps_what_was_asked_and_stays_within(name: str) -> None:
    model = make_random(name)
    graph = trace_graph(model, draw_input(name))
    energies = measure_energies(graph, model)
    within = thin(draw_masks(graph), name)
    kept = count_kept(graph, within)
    asked = {layer: max(1, count // 2) for layer, count in kept.weights.items()}
    some = Candidate(filters=kept.filters, columns=kept.columns, weights=asked)

    masks = project_masks(graph, energies, some, within=within)
    again = project_masks(graph, energies, count_kept(graph, masks), within=masks)

    for layer in graph.layers:
        found = weight_mask(masks, layer)
        assert not bool((found & ~weight_mask(within, layer)).any())
        assert int(found.sum()) == asked[layer.name]
        assert torch.equal(weight_mask(again, layer), found)
    assert measure_energy(graph, energies, masks) <= measure_energy(graph, energies, within)


@pytest.mark.parametrize("name", NAMES)
def test_sliced_masks_cost_and_keep_the_same(name: str) -> None:
    model = make_random(name)
    graph = trace_graph(model, draw_input(name))
    masks = thin(draw_masks(graph), name)

    smaller, left = slice_graph(graph, masks)

    assert count_masks(smaller, left) == count_masks(graph, masks)
    # The masks are cut as the weights are: nothing kept is zero, nothing else is not.
    shrunk = shrink_filters(model, graph, masks)
    for layer in smaller.layers:
        weight = shrunk.get_parameter(f"{layer.name}.weight").flatten(1)
        assert torch.equal(weight != 0, weight_mask(left, layer))


@pytest.mark.parametrize("name", NAMES)
def test_the_compact_model_computes_what_the_masked_one_does(name: str) -> None:
    model, inputs = make_random(name), draw_input(name)
    graph = trace_graph(model, inputs)
    masks = propagate(graph, thin(draw_masks(graph), name))
    masked = copy.deepcopy(model)
    apply_masks_(masked, parameter_masks(graph, masks, masked))

    compact = compact_model(model, graph, masks)

    with torch.no_grad():
        # float64: sums in another order differ by less than 1e-9 of the largest output.
        assert torch.allclose(compact(inputs), masked(inputs), atol=1e-9)


def test_columns_without_any_weight_go_and_take_their_units_along() -> None:
    model, inputs = make_random("lenet5"), draw_input("lenet5")
    graph = trace_graph(model, inputs)
    weights = torch.ones(50, 500, dtype=torch.bool)
    weights[:, :25] = False  # Nothing of conv2 reads the first map of conv1.
    masks = Masks(full_masks(graph).units, full_masks(graph).columns, {"conv2": weights})

    found = propagate(graph, masks)

    assert not bool(found.columns["conv2"][:25].any())
    assert not bool(found.units[graph.group_by_name["conv1"].start])
    assert int(found.units.sum()) == graph.units - 1
    assert torch.equal(propagate(graph, found).units, found.units)


def test_a_layer_that_lost_all_its_weights_keeps_its_columns() -> None:
    graph = MAKERS["sequential"]().graph
    last = graph.column_layers[-1]
    none = torch.zeros(last.filters, last.columns, dtype=torch.bool)
    full = full_masks(graph)

    found = drop_empty(graph, Masks(full.units, full.columns, {last.name: none}))

    assert bool(found.columns[last.name].all())
