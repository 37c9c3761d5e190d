import random
from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autocompress.errors import SettingError
from autocompress.graph.layers import LayerGraph
from autocompress.masks.paths import keep_live
from autocompress.masks.rank import Normalize
from autocompress.masks.weights import (
    Allocation,
    WeightMasks,
    allocate_weights,
    keep_weights,
    project_weights,
)
from tests.hand_made import MAKERS, HandMade
from tests.masks.test_project import make_chain

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
NORMALIZE: list[Normalize] = ["none", "std", "lamp"]
PLAIN = Allocation(normalize="none", minimum=0, live_paths=False)


def draw_weights(graph: LayerGraph, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        layer.name: torch.randn(
            layer.filters, layer.channels // layer.groups, *layer.kernel, generator=generator
        )
        for layer in graph.layers
    }


def count(masks: WeightMasks) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def energy(weights: dict[str, Tensor], masks: WeightMasks) -> float:
    return sum(float(weights[name][masks[name]].double().square().sum()) for name in weights)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.data())
def test_the_largest_are_kept_and_ties_keep_the_lower_index(
    values: list[int], data: st.DataObject
) -> None:
    keep = data.draw(st.integers(0, len(values)))
    dtype = data.draw(st.sampled_from(DTYPES))
    best = sorted(range(len(values)), key=lambda place: (-values[place], place))[:keep]

    kept = keep_weights(torch.tensor(values, dtype=dtype), keep)

    assert kept.nonzero().flatten().tolist() == sorted(best)


def test_any_layout_gives_the_same_mask() -> None:
    scores = torch.randn(3, 4, 5, 2, generator=torch.Generator().manual_seed(0))
    want = keep_weights(scores, 17)

    for other in (
        scores.contiguous(memory_format=torch.channels_last),
        scores.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        torch.stack([scores, scores])[1],
    ):
        assert torch.equal(keep_weights(other, 17), want)
    assert torch.equal(keep_weights(scores.requires_grad_(), 17), want)


@pytest.mark.parametrize("keep", [-1, 7])
def test_a_count_out_of_range_is_refused(keep: int) -> None:
    with pytest.raises(SettingError, match=r"keep must be 0\.\.6"):
        keep_weights(torch.zeros(2, 3), keep)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keep", range(7))
def test_no_tensor_with_so_few_weights_is_nearer(keep: int, dtype: torch.dtype) -> None:
    weight = torch.randn(2, 3, generator=torch.Generator().manual_seed(keep)).to(dtype)
    squares = weight.double().square().flatten()
    least = min(
        float(squares.sum() - squares[list(kept)].sum()) for kept in combinations(range(6), keep)
    )

    near = project_weights(weight, keep)

    assert near.dtype == dtype
    assert int((near != 0).sum()) == keep
    # Six float64 terms of about 1.
    assert float((weight - near).double().square().sum()) == pytest.approx(least, abs=1e-12)
    assert torch.equal(project_weights(near, keep), near)
    assert torch.equal(project_weights(weight * 4, keep), near * 4)
    assert torch.equal(project_weights(-weight, keep), -near)


@pytest.mark.parametrize("keep", [0, 1, 3, 5, 8])
def test_a_global_budget_is_the_exact_projection(keep: int) -> None:
    graph = make_chain([2, 2, 2])
    weights = draw_weights(graph, keep)
    squares = torch.cat([weight.flatten() for weight in weights.values()]).double().square()
    most = max(float(squares[list(kept)].sum()) for kept in combinations(range(8), keep))

    masks = allocate_weights(graph, weights, keep, PLAIN)

    assert count(masks) == keep
    assert energy(weights, masks) == pytest.approx(most, abs=1e-12)


def score_by_definition(weight: Tensor, normalize: Normalize) -> list[float]:
    values = weight.double().abs().flatten()
    if normalize == "lamp":
        energies = values.square()
        return [float(one / energies[energies >= one].sum()) for one in energies]
    scale = float(values.square().mean().sqrt()) if normalize == "std" else 1.0
    return [float(value) / scale for value in values]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("normalize", NORMALIZE)
def test_scores_follow_their_definitions(normalize: Normalize, seed: int) -> None:
    graph = make_chain([4, 6, 5, 3])
    weights = draw_weights(graph, seed)
    weights["l1"] *= 0.1  # What is compared must matter.
    scores = [
        score for weight in weights.values() for score in score_by_definition(weight, normalize)
    ]
    best = sorted(range(len(scores)), key=lambda place: -scores[place])[:30]

    masks = allocate_weights(
        graph, weights, 30, Allocation(normalize=normalize, minimum=0, live_paths=False)
    )

    flat = torch.cat([mask.flatten() for mask in masks.values()])
    assert flat.nonzero().flatten().tolist() == sorted(best)


def test_ties_go_to_the_lower_layer_and_the_lower_index() -> None:
    graph = make_chain([2, 2, 2])
    weights = {name: torch.ones_like(one) for name, one in draw_weights(graph, 0).items()}

    masks = allocate_weights(graph, dict(reversed(weights.items())), 5, PLAIN)

    assert masks["l0"].all()
    assert masks["l1"].flatten().tolist() == [True, False, False, False]


@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_exactly_the_budget_lives(make: Callable[[], HandMade], normalize: Normalize) -> None:
    graph = make().graph
    total = sum(layer.weights for layer in graph.layers)
    settings = Allocation(normalize=normalize)

    for seed, keep in enumerate([len(graph.layers) + 2, 20, total // 8, total // 2, total]):
        weights = draw_weights(graph, seed)
        masks = allocate_weights(graph, weights, keep, settings)

        assert count(masks) == keep
        assert all(torch.equal(masks[n], mask) for n, mask in keep_live(graph, masks).items())
        assert all(mask.any() for mask in masks.values())
        again = allocate_weights(graph, weights, keep, settings)
        assert all(torch.equal(masks[name], again[name]) for name in masks)


def find_most_alive(graph: LayerGraph, keep: int) -> int:
    """Return how many of at most ``keep`` weights can live, by trying all of their sets."""
    sizes = [layer.weights for layer in graph.layers]
    for size in range(keep, 0, -1):
        for places in combinations(range(sum(sizes)), size):
            flat = torch.zeros(sum(sizes), dtype=torch.bool)
            flat[list(places)] = True
            masks = {
                layer.name: part.reshape(layer.filters, layer.channels)
                for layer, part in zip(graph.layers, flat.split(sizes), strict=True)
            }
            if count(keep_live(graph, masks)) == size:
                return size
    return 0


@pytest.mark.parametrize("widths", [[2, 2, 2], [1, 3, 1], [1, 1, 1, 1]])
def test_as_many_live_as_can(widths: list[int]) -> None:
    graph = make_chain(widths)
    total = sum(layer.weights for layer in graph.layers)

    for keep in range(total + 1):
        most = find_most_alive(graph, keep)
        for seed in range(4):
            masks = allocate_weights(
                graph, draw_weights(graph, seed), keep, Allocation(minimum=0, normalize="none")
            )

            assert count(masks) == count(keep_live(graph, masks)) == most


def test_the_budget_of_dead_weights_is_spent_on_the_best_living_ones() -> None:
    graph = make_chain([1, 2, 1])
    weights = {"l0": torch.tensor([[9.0], [3.0]]), "l1": torch.tensor([[1.0, 2.0]])}

    dead = allocate_weights(graph, weights, 2, PLAIN)
    live = allocate_weights(graph, weights, 2, Allocation(normalize="none"))

    assert dead["l0"].all()  # 9 and 3, and nothing reads them.
    assert live["l0"].flatten().tolist() == [False, True]
    assert live["l1"].flatten().tolist() == [False, True]


def test_layers_keep_their_minimum_and_nothing_outside_the_mask() -> None:
    graph = make_chain([6, 6, 6, 3])
    weights = draw_weights(graph, 0)
    weights["l1"] *= 1e-3
    within = {
        name: torch.rand(one.shape, generator=torch.Generator().manual_seed(1)) < 0.6
        for name, one in weights.items()
    }

    for normalize in NORMALIZE:
        settings = Allocation(normalize=normalize, minimum=5)
        masks = allocate_weights(graph, weights, 25, settings, within=within)

        assert count(masks) == 25
        assert all(int(mask.sum()) >= 5 for mask in masks.values())
        assert all(bool((within[name] | ~mask).all()) for name, mask in masks.items())
        everything = allocate_weights(graph, weights, 10**6, settings, within=within)
        live = keep_live(graph, within)
        assert all(torch.equal(everything[name], live[name]) for name in live)


def test_a_branch_that_would_die_keeps_a_path() -> None:
    graph = MAKERS["concat"]().graph
    weights = draw_weights(graph, 0)
    weights["right"] *= 1e-6
    weights["last"][:, 4:] *= 1e-6

    masks = allocate_weights(graph, weights, 12, Allocation(normalize="none"))
    without = allocate_weights(graph, weights, 12, Allocation(normalize="none", minimum=0))

    assert not without["right"].any()
    assert int(masks["right"].sum()) == 1
    assert count(masks) == count(keep_live(graph, masks)) == 12


def test_tensors_without_any_signal_are_accepted() -> None:
    graph = make_chain([3, 3, 2])
    zeros = {name: torch.zeros_like(one) for name, one in draw_weights(graph, 0).items()}

    for normalize in NORMALIZE:
        masks = allocate_weights(graph, zeros, 6, Allocation(normalize=normalize))

        assert count(keep_live(graph, masks)) == 6


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_dtype_allocates_as_float32_does(dtype: torch.dtype) -> None:
    graph = make_chain([5, 5, 4])
    weights = {name: one.to(dtype) for name, one in draw_weights(graph, 0).items()}
    wide = {name: one.float() for name, one in weights.items()}

    for seed in range(3):
        keep = random.Random(seed).randint(5, 40)
        masks = allocate_weights(graph, weights, keep, Allocation())

        want = allocate_weights(graph, wide, keep, Allocation())
        assert all(torch.equal(masks[name], want[name]) for name in masks)


def test_settings_and_budgets_out_of_range_are_refused() -> None:
    graph = make_chain([2, 2, 2])

    with pytest.raises(SettingError, match="minimum"):
        Allocation(minimum=-1)
    with pytest.raises(SettingError, match="keep must be 4 or more for 2 layers, got 3"):
        allocate_weights(graph, draw_weights(graph, 0), 3, Allocation(minimum=2))
