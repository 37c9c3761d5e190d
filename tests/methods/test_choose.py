"""Laws that every method of the list obeys."""

from collections.abc import Iterator
from typing import Literal

import pytest
import torch
from torch import Tensor

from autocompress.jobs import Candidate
from autocompress.masks.mask import (
    Masks,
    apply_masks_,
    close_masks,
    count_kept,
    full_masks,
    parameter_masks,
)
from autocompress.methods.base import Found, Request
from autocompress.methods.choose import METHODS, MethodSettings, make_method
from autocompress.train.admm import AdmmSettings
from autocompress.train.loop import TrainSettings
from autocompress.train.objective import make_task_loss
from tests.hand_made import IMAGE, MAKERS, HandMade

Name = Literal["admm", "magnitude"]
CANDIDATES = {
    "sequential": Candidate(filters={"0": 3, "3": 2}, columns={"0": 7, "3": 20, "6": 50}),
    "residual": Candidate(filters={"left": 2}, columns={"left": 5, "right": 6, "last": 11}),
    "concat": Candidate(
        filters={"left": 2, "right": 1}, columns={"left": 5, "right": 6, "last": 20}
    ),
    "depthwise": Candidate(filters={"0": 3}, columns={"0": 1, "3": 4}),
    "grouped": Candidate(filters={"0": 2, "1": 1}, columns={"0": 6, "2": 15}),
}


class Noise:
    """Random images whose target is the mean of the output."""

    def __len__(self) -> int:
        return 96

    def batches(
        self, size: int, *, seed: int | None = None, augment: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed or 0)
        for _ in range(len(self) // size):
            images = torch.randn(size, *IMAGE, generator=generator)
            yield images, images.mean((1, 2, 3))


def mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.flatten(1).mean(1) - targets).square().mean()


def find(method: Name, made: HandMade, candidate: Candidate, within: Masks, seed: int) -> Found:
    settings = MethodSettings(
        name=method, admm=AdmmSettings(rho_first=30.0, rho_last=30.0, updates=4)
    )
    request = Request(
        model=made.model,
        graph=made.graph,
        within=within,
        candidate=candidate,
        source=Noise(),
        train=TrainSettings(epochs=4, batch_size=8),
        loss=make_task_loss(mean_loss),
        seed=seed,
    )
    return make_method(settings).find_masks(request)


@pytest.mark.parametrize("net", CANDIDATES)
@pytest.mark.parametrize("method", METHODS)
def test_masks_are_closed_and_keep_exactly_what_was_asked(method: Name, net: str) -> None:
    made = MAKERS[net]()

    masks = find(method, made, CANDIDATES[net], full_masks(made.graph), 0).masks

    assert count_kept(made.graph, masks) == CANDIDATES[net]
    closed = close_masks(made.graph, masks)
    assert all(torch.equal(closed.columns[name], kept) for name, kept in masks.columns.items())


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_masks(method: Name) -> None:
    found = [
        find(method, made, CANDIDATES["sequential"], full_masks(made.graph), 5)
        for made in (MAKERS["sequential"](), MAKERS["sequential"]())
    ]

    assert torch.equal(found[0].masks.units, found[1].masks.units)
    assert found[0].figures == found[1].figures


@pytest.mark.parametrize("method", METHODS)
def test_what_an_earlier_round_removed_stays_away(method: Name) -> None:
    made = MAKERS["sequential"]()
    first = find(method, made, CANDIDATES["sequential"], full_masks(made.graph), 0).masks
    apply_masks_(made.model, parameter_masks(made.graph, first, made.model))
    weights = made.model.get_parameter("3.weight").detach().clone()

    second = find(method, made, CANDIDATES["sequential"], first, 1).masks

    assert torch.equal(second.units, first.units)
    now = made.model.get_parameter("3.weight").detach()
    assert not (now[weights == 0] != 0).any()
