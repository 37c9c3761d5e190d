from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from autocompress.masks.mask import full_masks, weight_mask
from autocompress.methods.group_lasso import (
    GroupLasso,
    GroupLassoSettings,
    choose_masks,
    number_groups,
    shrink_,
)
from tests.asked import CANDIDATES, TRAIN, ask
from tests.hand_made import MAKERS, draw_masks


def penalty(weights: dict[str, Tensor], numbers: dict[str, Tensor], limits: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for number, limit in enumerate(limits.tolist()):
        parts = [one.flatten(1)[numbers[name] == number] for name, one in weights.items()]
        # Smooth at zero, so that it can be minimised by its gradient.
        total = total + limit * (torch.cat(parts).square().sum() + 1e-14).sqrt()
    return total


@pytest.mark.parametrize("seed", range(4))
def test_the_proximal_step_is_the_minimum(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    start = {
        "one": torch.randn(4, 2, 3, generator=draw, dtype=torch.float64),
        "two": torch.randn(3, 5, generator=draw, dtype=torch.float64),
    }
    numbers = {
        name: torch.randint(5, one.flatten(1).shape, generator=draw) for name, one in start.items()
    }
    limits = torch.cat([torch.zeros(1), 3 * torch.rand(4, generator=draw)])
    found = {name: one.clone() for name, one in start.items()}

    shrink_(found, numbers, limits)

    free = {name: one.clone().requires_grad_() for name, one in start.items()}
    solver = torch.optim.LBFGS(
        list(free.values()), max_iter=2000, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def measure() -> Tensor:
        distance = sum((free[name] - one).square().sum() / 2 for name, one in start.items())
        return distance + penalty(free, numbers, limits)

    def descend() -> Tensor:
        solver.zero_grad()
        value = measure()
        value.backward()
        return value

    solver.step(descend)
    for name, one in found.items():
        torch.testing.assert_close(one, free[name].detach(), rtol=1e-3, atol=1e-3)


def test_groups_above_their_limit_lose_it_and_others_vanish() -> None:
    weights = {"a": torch.tensor([[3.0, 4.0, 0.3, 0.4, 7.0]])}
    numbers = {"a": torch.tensor([[1, 1, 2, 2, 0]])}

    shrink_(weights, numbers, torch.tensor([0.0, 1.0, 1.0]))

    torch.testing.assert_close(weights["a"], torch.tensor([[2.4, 3.2, 0.0, 0.0, 7.0]]))


@pytest.mark.parametrize("net", MAKERS)
@pytest.mark.parametrize("seed", range(3))
def test_every_removed_weight_is_of_one_group_and_no_kept_one_is(net: str, seed: int) -> None:
    graph = MAKERS[net]().graph
    masks, full = draw_masks(graph, seed, 0.5), full_masks(graph)

    numbers, count = number_groups(graph, masks, full)

    inner: list[int] = []
    for layer in graph.layers:
        kept, found = weight_mask(masks, layer), numbers[layer.name]
        assert torch.equal(found == 0, kept)
        assert int(found.max()) < count
        for row, unit in enumerate(layer.out_units):
            if not masks.units[unit]:
                assert (found[row] == unit + 1).all()
        inner += found[found > graph.units].unique().tolist()
    assert len(inner) == len(set(inner))  # A column is of one layer.


def left(strength: float, net: str) -> float:
    made = MAKERS[net]()
    train = replace(TRAIN, epochs=4)
    request = replace(ask(made, CANDIDATES[net]), train=train)
    settings = GroupLassoSettings(strength=strength)
    return GroupLasso(settings=settings).find_masks(request).figures["group_lasso_left"]


@pytest.mark.parametrize("net", ["sequential", "residual"])
def test_what_is_removed_has_shrunk_to_almost_nothing(net: str) -> None:
    assert left(1e-6, net) > 0.1
    assert left(4.0, net) < 0.02


def test_pulls_grow_with_the_steps_and_sum_to_the_strength() -> None:
    """Where no gradient moves anything, in units of groups of typical weights."""
    made, strength = MAKERS["residual"](), 0.6
    graph, model = made.graph, made.model
    train = replace(TRAIN, optimizer="sgd", momentum=0.0)
    request = replace(ask(made, CANDIDATES["residual"]), train=train)
    numbers, count = number_groups(graph, choose_masks(request), full_masks(graph))
    norms: list[Tensor] = []

    def read_squares() -> dict[str, Tensor]:
        weights = {one.name: model.get_parameter(f"{one.name}.weight") for one in graph.layers}
        return {name: one.detach().flatten(1).double().square() for name, one in weights.items()}

    def measure(squares: dict[str, Tensor]) -> Tensor:
        total = torch.zeros(count, dtype=torch.float64)
        for name, one in squares.items():
            total.index_add_(0, numbers[name].flatten(), one.flatten())
        return total.sqrt()[1:]

    def still(model: nn.Module, inputs: Tensor, _: Tensor) -> Tensor:
        norms.append(measure(read_squares()))
        outputs: Tensor = model(inputs)
        return outputs.sum() * 0

    typical = {name: one.mean().expand(one.shape) for name, one in read_squares().items()}
    settings = GroupLassoSettings(strength=strength, updates=1)
    GroupLasso(settings=settings).find_masks(replace(request, loss=still))

    norms.append(measure(read_squares()))
    steps, reaches = len(norms) - 1, measure(typical)
    for step, (before, after) in enumerate(pairwise(norms), 1):
        pull = strength * reaches * step / sum(range(steps + 1))
        torch.testing.assert_close(after, (before - pull).clamp(min=0), rtol=1e-4, atol=1e-6)
    assert bool((norms[-1] > 0).any())
