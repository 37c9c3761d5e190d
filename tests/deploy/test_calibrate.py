"""From layers to whole models: the least squares, the random shapes, the counts of masks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.deploy.calibrate import draw_masks, read_widths, solve_positive
from autocompress.graph.trace import trace_graph
from autocompress.masks.cost import CostModel
from autocompress.masks.mask import count_kept, full_masks
from autocompress.shrink.columns import ColumnConv2d, ColumnLinear
from autocompress.shrink.compact import compact_model
from tests.nets import draw_input, make_random
from tests.nets import draw_masks as draw_any_masks


@given(st.integers(0, 10_000))
def test_least_squares_meet_the_conditions_of_an_optimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = int(rng.integers(1, 9)), int(rng.integers(1, 5))
    features, wanted = rng.normal(size=(rows, columns)), rng.normal(size=rows)

    found = solve_positive(features, wanted)

    # Karush, Kuhn and Tucker: no way down, but through what is 0 already.
    slope = features.T @ (features @ found - wanted)
    assert (found >= 0).all()
    assert (slope >= -1e-9).all()
    assert np.abs(slope[found > 0]).max(initial=0.0) < 1e-9


def test_features_of_any_size_are_solved_alike() -> None:
    features = np.array([[1e9, 1e-6], [2e9, 5e-6], [3e9, 1e-6]])
    found = solve_positive(features, features @ [2e-9, 3e5])
    assert found == pytest.approx([2e-9, 3e5])


@pytest.mark.parametrize("name", ["digits_cnn", "resnet20"])
def test_widths_are_those_of_the_compact_model(name: str) -> None:
    model = make_random(name)
    graph = trace_graph(model, draw_input(name))
    masks = draw_any_masks(graph, 1)

    channels, rows, taken = read_widths(graph, masks)

    modules = dict(compact_model(model, graph, masks).named_modules())
    for place, layer in enumerate(graph.layers):
        module = modules[layer.name]
        weight = module.get_parameter("weight")
        assert weight.shape[0] == rows[place]
        assert weight[0].numel() == taken[place]
        if isinstance(module, ColumnConv2d):
            assert module.channels == channels[place]
        elif isinstance(module, ColumnLinear):
            assert module.features == channels[place]
        elif layer.groups == 1:
            assert weight.shape[1] == channels[place]


def test_random_shapes_differ_and_are_aligned() -> None:
    model = make_random("resnet20")
    graph = trace_graph(model, draw_input("resnet20"))

    drawn = [count_kept(graph, masks) for masks in draw_masks(model, graph, 8, 9, seed=3)]

    again = [count_kept(graph, masks) for masks in draw_masks(model, graph, 8, 9, seed=3)]
    assert drawn == again
    assert len({one.key() for one in drawn}) == 9
    dense = count_kept(graph, full_masks(graph))
    for number, one in enumerate(drawn):
        assert all(keep % 8 == 0 for keep in one.filters.values())
        assert (one.filters == dense.filters) == (number % 3 == 1)
        keeps = np.array([one.filters.get(group.name, group.size) for group in graph.groups])
        opened = CostModel(graph).count_open(keeps).tolist()
        assert (list(one.columns.values()) == opened) == (number % 3 == 0)
