"""Masks say what is kept, and nothing dead is left alive."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.masks.mask import (
    Masks,
    apply_masks_,
    close_masks,
    count_kept,
    full_masks,
    kept_inputs,
    kept_rows,
    parameter_masks,
    weight_mask,
)
from tests.hand_made import IMAGE, MAKERS, draw_masks

NETS = st.sampled_from(sorted(MAKERS))
SEEDS = st.integers(0, 2**31)
DENSITIES = st.floats(0.0, 1.0)


@given(NETS, SEEDS, DENSITIES)
def test_closing_twice_is_closing_once(net: str, seed: int, density: float) -> None:
    graph = MAKERS[net]().graph
    loose = Masks(draw_masks(graph, seed, density).units, full_masks(graph).columns)

    once = close_masks(graph, loose)
    twice = close_masks(graph, once)

    assert once.units.equal(twice.units)
    assert all(once.columns[name].equal(twice.columns[name]) for name in once.columns)


@given(NETS, SEEDS, DENSITIES)
def test_closing_removes_the_columns_of_dead_inputs_only(
    net: str, seed: int, density: float
) -> None:
    graph = MAKERS[net]().graph
    units = draw_masks(graph, seed, density).units

    closed = close_masks(graph, Masks(units, full_masks(graph).columns))

    for layer in graph.column_layers:
        alive = [unit < 0 or bool(units[unit]) for unit in layer.in_units]
        by_channel = closed.columns[layer.name].reshape(layer.channels, layer.area)
        assert by_channel.all(1).tolist() == alive
        assert by_channel.any(1).tolist() == alive


@pytest.mark.parametrize("net", sorted(MAKERS))
def test_full_masks_keep_every_parameter(net: str) -> None:
    made = MAKERS[net]()

    found = parameter_masks(made.graph, full_masks(made.graph), made.model)

    assert set(found) == {name for name, _ in made.model.named_parameters()}
    assert all(bool((mask == 1).all()) for mask in found.values())


@given(NETS, SEEDS, DENSITIES)
def test_a_dead_unit_loses_filter_bias_gain_and_shift(net: str, seed: int, density: float) -> None:
    made = MAKERS[net]()
    masks = draw_masks(made.graph, seed, density)

    found = parameter_masks(made.graph, masks, made.model)

    for layer in made.graph.layers:
        dead = ~kept_rows(masks, layer)
        assert not found[f"{layer.name}.weight"][dead].any()
        if layer.has_bias:
            assert found[f"{layer.name}.bias"].bool().equal(~dead)
    for norm in made.graph.norms:
        alive = masks.units[list(norm.units)]
        assert found[f"{norm.name}.weight"].bool().equal(alive)
        assert found[f"{norm.name}.bias"].bool().equal(alive)


@given(NETS, SEEDS, DENSITIES)
def test_parameter_masks_have_the_form_of_their_parameters(
    net: str, seed: int, density: float
) -> None:
    made = MAKERS[net]()
    model = made.model.double()

    found = parameter_masks(made.graph, draw_masks(made.graph, seed, density), model)

    for name, parameter in model.named_parameters():
        assert found[name].shape == parameter.shape
        assert found[name].dtype == parameter.dtype


@given(NETS, SEEDS, DENSITIES)
def test_weights_are_kept_where_filter_and_column_are(net: str, seed: int, density: float) -> None:
    graph = MAKERS[net]().graph
    masks = draw_masks(graph, seed, density)

    for layer in graph.column_layers:
        kept = weight_mask(masks, layer)

        rows = kept_rows(masks, layer)
        for row in range(layer.filters):
            expected = masks.columns[layer.name] & rows[row]
            assert kept[row].equal(expected)


@given(NETS, SEEDS, DENSITIES)
def test_masked_outputs_depend_on_nothing_that_is_dead(
    net: str, seed: int, density: float
) -> None:
    made = MAKERS[net]()
    model = made.model.eval()
    masks = draw_masks(made.graph, seed, density)
    found = parameter_masks(made.graph, masks, model)
    images = torch.randn(2, *IMAGE, generator=torch.Generator().manual_seed(seed))
    apply_masks_(model, found)
    expected = model(images)

    with torch.no_grad():
        for layer in made.graph.column_layers:
            # What a weight reads from a dead unit must not matter: that input is zero.
            weight = dict(model.named_parameters())[f"{layer.name}.weight"]
            weight[:, ~kept_inputs(masks, layer)] = 100.0

    # The inputs of the changed weights are zeros, so the sums are the same.
    torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-6)


def test_a_dead_filter_before_a_norm_emits_zero() -> None:
    made = MAKERS["sequential"]()
    norm = made.model.get_submodule("1")
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.bias.fill_(0.7)
    masks = full_masks(made.graph)
    masks.units[2] = False
    seen: list[Tensor] = []
    norm.register_forward_hook(lambda _module, _inputs, output: seen.append(output))

    apply_masks_(made.model, parameter_masks(made.graph, masks, made.model))
    made.model.eval()(torch.randn(2, *IMAGE))

    assert not seen[0][:, 2].any()
    assert seen[0][:, [0, 1, 3]].any()


def test_parameters_without_a_mask_are_left_alone() -> None:
    model = nn.Linear(3, 2)
    bias = model.bias.detach().clone()

    apply_masks_(model, {"weight": torch.zeros(2, 3)})

    assert not model.weight.any()
    assert model.bias.equal(bias)


@given(NETS, SEEDS, DENSITIES)
def test_counts_are_those_of_the_masks(net: str, seed: int, density: float) -> None:
    graph = MAKERS[net]().graph
    masks = draw_masks(graph, seed, density)

    counts = count_kept(graph, masks)

    prunable = [group for group in graph.groups if group.prunable]
    assert counts.filters == {
        group.name: sum(masks.units[list(group.units)].tolist()) for group in prunable
    }
    assert counts.columns == {
        layer.name: sum(masks.columns[layer.name].tolist()) for layer in graph.column_layers
    }
