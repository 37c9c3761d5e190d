from dataclasses import replace

import pytest
import torch
from torch import Tensor

from autocompress.masks.mask import full_masks, weight_mask
from autocompress.methods.group_lasso import (
    GroupLasso,
    GroupLassoSettings,
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
