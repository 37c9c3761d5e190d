"""Structured Probabilistic Pruning, and a run of it that is killed and started again."""

import copy
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.masks.mask import Masks, apply_masks_, full_masks, parameter_masks, weight_mask
from autocompress.methods.base import Found, Request
from autocompress.methods.chances import join_groups
from autocompress.methods.spp import MOST_UPDATES, Cover, Spp, SppSettings, plan_updates
from autocompress.train.checkpoint import Keeper, name_tensors
from autocompress.train.loop import TrainSettings, make_optimizer
from tests.asked import CANDIDATES, Loss, Noise, ask
from tests.hand_made import MAKERS, draw_masks
from tests.killed import kill_and_finish

TRAIN = TrainSettings(epochs=20, batch_size=8, weight_decay=1e-2)


def ask_long(epochs: float, net: str = "sequential") -> Request:
    return replace(
        ask(MAKERS[net](), CANDIDATES[net], seed=2), train=replace(TRAIN, epochs=epochs)
    )


@given(
    steps=st.integers(1, 200_000),
    every=st.integers(1, 400),
    updates=st.integers(1, 400),
    hold=st.floats(0, 0.9),
)
def test_updates_fit_into_the_training(steps: int, every: int, updates: int, hold: float) -> None:
    settings = SppSettings(every=every, updates=updates, hold=hold)

    timing = plan_updates(settings, steps)

    assert 1 <= timing.every <= every
    assert 1 <= timing.updates <= MOST_UPDATES
    assert timing.every * timing.updates <= max(1, steps - round(hold * steps))
    assert settings.step <= timing.step <= 1


@pytest.mark.parametrize("steps", [60, 88, 350, 3510, 21_060])
def test_short_and_long_trainings_have_enough_updates(steps: int) -> None:
    timing = plan_updates(SppSettings(), steps)

    assert timing.updates >= min(100, round(0.8 * steps))
    assert timing.every <= 180


@pytest.mark.parametrize("net", MAKERS)
@pytest.mark.parametrize("seed", range(3))
def test_a_hidden_model_is_the_masked_one_and_comes_back_whole(net: str, seed: int) -> None:
    made = MAKERS[net]()
    masks = draw_masks(made.graph, seed, 0.6)
    masked = copy.deepcopy(made.model)
    apply_masks_(masked, parameter_masks(made.graph, masks, masked))
    before = copy.deepcopy(made.model)
    cover = Cover(made.model, made.graph)

    cover.hide_(join_groups(made.graph, masks))
    hidden = copy.deepcopy(made.model)
    cover.show_()

    for name, value in masked.named_parameters():
        assert torch.equal(hidden.get_parameter(name), value)
        assert torch.equal(made.model.get_parameter(name), before.get_parameter(name))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_what_is_left_out_of_a_step_is_not_changed_by_it(optimizer: str) -> None:
    """Neither by its gradient nor by momentum of earlier steps or weight decay."""
    made = MAKERS["residual"]()
    settings = replace(TRAIN, optimizer="sgd" if optimizer == "sgd" else "adam", weight_decay=0.1)
    steps, cover = make_optimizer(made.model, settings), Cover(made.model, made.graph)
    some = draw_masks(made.graph, 1, 0.5)
    for kept in (full_masks(made.graph), some, some):
        before = copy.deepcopy(made.model)
        inputs, targets = next(iter(Noise().batches(8, seed=0)))
        cover.hide_(join_groups(made.graph, kept))
        steps.zero_grad()
        Loss()(made.model, inputs, targets).backward()
        cover.stop_gradients_()
        steps.step()
        cover.show_()

        for name, mask in parameter_masks(made.graph, kept, made.model).items():
            same = made.model.get_parameter(name) == before.get_parameter(name)
            assert bool(same[mask == 0].all())
            assert not bool(same[mask == 1].any())


class Watch:
    """A loss that remembers which weights of a layer were zero at each step."""

    def __init__(self, name: str) -> None:
        self.name, self.zeros, self.loss = name, list[Tensor](), Loss()

    def __call__(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        self.zeros.append(model.get_parameter(f"{self.name}.weight").detach().flatten(1) == 0)
        return self.loss(model, inputs, targets)


def test_masks_are_drawn_at_each_step_and_frozen_in_the_last_part() -> None:
    request, watch = ask_long(8), Watch("6")
    layer = request.graph.by_name["6"]

    found = Spp().find_masks(replace(request, loss=watch))

    steps = len(watch.zeros)
    wanted = ~weight_mask(found.masks, layer)
    assert all(torch.equal(one, wanted) for one in watch.zeros[-steps // 5 :])
    assert not watch.zeros[0].any()
    middle = watch.zeros[steps // 4 : steps // 2]
    assert len({tuple(one.flatten().tolist()) for one in middle}) > len(middle) // 2
    came_back = [one & ~other for one, other in zip(watch.zeros, watch.zeros[1:], strict=False)]
    assert any(bool(one.any()) for one in came_back)


def test_groups_recover_and_little_is_left_to_the_hard_stop() -> None:
    figures = Spp().find_masks(ask_long(16, "residual")).figures

    assert 20 <= figures["spp_updates"] <= MOST_UPDATES
    assert 0 < figures["spp_recovered"] < 1
    assert 0 <= figures["spp_random"] < 0.2


def test_a_hard_stop_ends_with_the_count_as_well() -> None:
    spp = Spp(settings=SppSettings(updates=1, hold=0.9, step=0.01))
    request = ask_long(1)

    found = spp.find_masks(request)

    assert found.figures["spp_updates"] == 1
    assert int(found.masks.units[:4].sum()) == 3
    assert int(found.masks.columns["6"].sum()) == 50


def run(keeper: Keeper | None = None, wait_s: float = 0.0) -> tuple[Found, nn.Module]:
    """Prune by a training of some seconds, were it not for the waiting."""
    request, loss = ask_long(30), Loss()

    def wait(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        time.sleep(wait_s)
        return loss(model, inputs, targets)

    return Spp().find_masks(replace(request, loss=wait, keeper=keeper)), request.model


def flatten(masks: Masks) -> dict[str, Tensor]:
    return {"units": masks.units, **masks.columns}


def prune_slowly(folder: Path) -> None:
    """Prune with a checkpoint every few steps, and store the result; what gets killed."""
    torch.set_num_threads(1)
    kept = (folder / "x.ckpt").exists()
    found, model = run(Keeper(folder / "x.ckpt", seconds=0.02), 0.003)
    result = [kept, flatten(found.masks), found.figures, name_tensors(model)]
    torch.save(result, folder / "draft")
    (folder / "draft").rename(folder / "result")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_process_killed_at_any_moment_goes_on(tmp_path: Path) -> None:
    whole, model = run()
    result = kill_and_finish(__file__, tmp_path)

    resumed, masks, figures, tensors = torch.load(result, weights_only=True)
    assert resumed
    assert figures == whole.figures
    assert all(torch.equal(masks[name], one) for name, one in flatten(whole.masks).items())
    assert all(torch.equal(tensors[name], one) for name, one in name_tensors(model).items())


if __name__ == "__main__":
    prune_slowly(Path(sys.argv[1]))
