from itertools import combinations, pairwise, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import SettingError
from autocompress.graph.layers import Group, Layer, LayerGraph
from autocompress.jobs import Candidate
from autocompress.masks.mask import Masks, close_masks, count_kept, full_masks, weight_mask
from autocompress.masks.project import (
    keep_largest,
    measure_energy,
    project_columns,
    project_filters,
    project_masks,
)


def make_chain(widths: list[int]) -> LayerGraph:
    """Return linear layers in a row; the first reads the outside, the last is the output."""
    starts = [sum(widths[1 : i + 1]) for i in range(len(widths))]
    layers, groups = [], []
    for i, (before, after) in enumerate(pairwise(widths)):
        inputs = (-1,) * before if i == 0 else tuple(range(starts[i - 1], starts[i]))
        layers.append(
            Layer(
                name=f"l{i}",
                kind="linear",
                filters=after,
                channels=before,
                kernel=(1, 1),
                groups=1,
                has_bias=False,
                positions=1,
                out_units=tuple(range(starts[i], starts[i] + after)),
                in_units=inputs,
            )
        )
        last = i == len(widths) - 2
        groups.append(
            Group(
                name=f"l{i}",
                start=starts[i],
                size=after,
                prunable=not last,
                producers=(f"l{i}",),
                consumers=() if last else (f"l{i + 1}",),
            )
        )
    return LayerGraph(tuple(layers), (), tuple(groups))


def draw_energies(graph: LayerGraph, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        layer.name: torch.randn(layer.filters, layer.columns, generator=generator).square()
        for layer in graph.layers
    }


@pytest.mark.parametrize("keep", [1, 2, 3, 4])
def test_no_other_choice_of_filters_is_nearer(keep: int) -> None:
    weight = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    energy = weight.flatten(1).square().sum(1)
    losses = [energy.sum() - energy[list(kept)].sum() for kept in combinations(range(4), keep)]

    distance = (weight - project_filters(weight, keep)).square().sum()

    # 48 float32 terms of about 1: rounding stays below 1e-5.
    assert distance.item() == pytest.approx(min(losses).item(), abs=1e-5)


@pytest.mark.parametrize("keep", [1, 3, 6])
def test_no_other_choice_of_columns_is_nearer(keep: int) -> None:
    weight = torch.randn(4, 2, 3, 1, generator=torch.Generator().manual_seed(1))
    energy = weight.flatten(1).square().sum(0)
    losses = [energy.sum() - energy[list(kept)].sum() for kept in combinations(range(6), keep)]

    distance = (weight - project_columns(weight, keep)).square().sum()

    assert distance.item() == pytest.approx(min(losses).item(), abs=1e-5)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.data())
def test_ties_keep_the_lower_index(values: list[int], data: st.DataObject) -> None:
    keep = data.draw(st.integers(0, len(values)))

    kept = keep_largest(torch.tensor(values, dtype=torch.float32), keep)

    wanted = sorted(range(len(values)), key=lambda i: (-values[i], i))[:keep]
    assert kept.nonzero().flatten().tolist() == sorted(wanted)


@pytest.mark.parametrize("keep", [-1, 4])
def test_keep_out_of_range_names_the_limits(keep: int) -> None:
    with pytest.raises(SettingError, match=rf"keep must be 0\.\.3, got {keep}"):
        keep_largest(torch.ones(3), keep)


def test_projection_is_idempotent() -> None:
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(2))

    once = project_columns(project_filters(weight, 3), 10)

    assert torch.equal(project_columns(project_filters(once, 3), 10), once)


def brute_force_energy(
    graph: LayerGraph, energies: dict[str, torch.Tensor], candidate: Candidate
) -> float:
    """Return the most energy that any choice of units and columns keeps."""
    best = 0.0
    groups = [group for group in graph.groups if group.prunable]
    choices = [combinations(group.units, candidate.filters[group.name]) for group in groups]
    for chosen in product(*choices):
        units = torch.zeros(graph.units, dtype=torch.bool)
        for group in graph.groups:
            units[list(group.units)] = not group.prunable
        units[[unit for part in chosen for unit in part]] = True
        masks = close_masks(graph, Masks(units, full_masks(graph).columns))
        columns = {}
        for layer in graph.column_layers:
            kept = (energies[layer.name] * weight_mask(masks, layer)).sum(0)
            keep = min(candidate.columns[layer.name], int(masks.columns[layer.name].sum()))
            columns[layer.name] = keep_largest(kept, keep) & masks.columns[layer.name]
        best = max(best, measure_energy(graph, energies, Masks(units, columns)))
    return best


def test_joint_projection_is_close_to_brute_force() -> None:
    graph = make_chain([5, 4, 4, 3])
    candidate = Candidate(filters={"l0": 2, "l1": 3}, columns={"l0": 3, "l1": 2, "l2": 2})
    shares = []
    for seed in range(40):
        energies = draw_energies(graph, seed)
        masks = project_masks(graph, energies, candidate)
        best = brute_force_energy(graph, energies, candidate)
        shares.append(measure_energy(graph, energies, masks) / best)

    # There is no closed form; the alternation finds the best in most cases and never a bad one.
    assert sum(share > 1 - 1e-6 for share in shares) >= 20
    assert min(shares) > 0.85


@given(st.integers(0, 10_000), st.data())
def test_joint_projection_keeps_exactly_what_was_asked(seed: int, data: st.DataObject) -> None:
    graph = make_chain([6, 5, 4, 3])
    filters = {"l0": data.draw(st.integers(1, 5)), "l1": data.draw(st.integers(1, 4))}
    left = {"l0": 6, "l1": filters["l0"], "l2": filters["l1"]}
    columns = {name: data.draw(st.integers(1, most)) for name, most in left.items()}
    candidate = Candidate(filters=filters, columns=columns)

    masks = project_masks(graph, draw_energies(graph, seed), candidate)

    assert count_kept(graph, masks) == candidate
    assert all(
        torch.equal(close_masks(graph, masks).columns[n], m) for n, m in masks.columns.items()
    )


def test_nothing_comes_back_from_outside_the_bounds() -> None:
    graph = make_chain([6, 5, 4, 3])
    energies = draw_energies(graph, 0)
    tight = Candidate(filters={"l0": 3, "l1": 2}, columns={"l0": 3, "l1": 2, "l2": 1})
    wide = Candidate(filters={"l0": 5, "l1": 4}, columns={"l0": 6, "l1": 5, "l2": 4})
    bounds = project_masks(graph, energies, tight)

    masks = project_masks(graph, energies, wide, within=bounds)

    assert count_kept(graph, masks) == tight
    assert torch.equal(masks.units, bounds.units)
