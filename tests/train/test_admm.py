from collections.abc import Iterator, Mapping
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import SettingError
from autocompress.masks.project import project_filters
from autocompress.train.admm import (
    AdmmSettings,
    add_penalty_,
    make_hooks,
    start_admm,
    update_dual_,
    without_dropout,
)
from autocompress.train.loop import TrainSettings, count_steps, train_model_
from autocompress.train.objective import make_task_loss


class Regression:
    """Samples of a linear map with four outputs."""

    def __len__(self) -> int:
        return 256

    def batches(
        self, size: int, *, seed: int | None = None, augment: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed or 0)
        weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(9))
        for _ in range(len(self) // size):
            inputs = torch.randn(size, 6, generator=generator)
            yield inputs, inputs @ weight.T


def keep_two(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: project_filters(value, 2) for name, value in tensors.items()}


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(6, 4, bias=False)


def run(settings: AdmmSettings) -> list[float]:
    model = make_model()
    source = Regression()
    state = start_admm(model, ["weight"], keep_two, settings)
    train = TrainSettings(epochs=30, batch_size=32, learning_rate=0.02, schedule="constant")
    loss = make_task_loss(nn.functional.mse_loss)
    hooks = make_hooks(state, keep_two, settings, train=train, steps=count_steps(source, train))
    train_model_(model, source, train, loss=loss, seed=0, hooks=hooks)
    return state.residuals


def test_first_gradients_are_finite_and_nothing_pulls_on_what_is_kept() -> None:
    model = make_model()
    state = start_admm(model, ["weight"], keep_two, AdmmSettings(rho_first=0.5, rho_last=0.5))
    weight = state.W["weight"]
    weight.grad = torch.zeros_like(weight)

    add_penalty_(state)

    assert torch.isfinite(weight.grad).all()
    torch.testing.assert_close(weight.grad, 0.5 * (weight.detach() - project_filters(weight, 2)))


def test_penalty_is_the_gradient_of_the_augmented_lagrangian() -> None:
    model = make_model()
    state = start_admm(model, ["weight"], keep_two, AdmmSettings(rho_first=0.3, rho_last=0.3))
    update_dual_(state, keep_two, growth=1.0)
    weight = state.W["weight"]
    weight.grad = torch.zeros_like(weight)
    probe = weight.detach().clone().requires_grad_(True)
    (0.15 * (probe - state.Z["weight"] + state.U["weight"]).square().sum()).backward()

    add_penalty_(state)

    assert probe.grad is not None
    torch.testing.assert_close(weight.grad, probe.grad)


@pytest.mark.parametrize(("form", "rho"), [("gradient", 3.0), ("proximal", 30.0)])
def test_the_model_moves_towards_the_set(
    form: Literal["gradient", "proximal"], rho: float
) -> None:
    # Below the curvature of the loss the dual outgrows W, and the kept filters swap for ever.
    residuals = run(AdmmSettings(form=form, rho_first=rho, rho_last=rho, updates=30))

    assert residuals[-1] < 0.25 * residuals[0]


def test_penalty_ends_where_the_settings_say_for_any_number_of_updates() -> None:
    for updates in (1, 2, 7):
        settings = AdmmSettings(rho_first=0.01, rho_last=0.04, updates=updates)
        state = start_admm(make_model(), ["weight"], keep_two, settings)
        growth = (0.04 / 0.01) ** (1 / max(1, updates - 1))
        for _ in range(updates - 1):
            update_dual_(state, keep_two, growth)

        assert state.rho == pytest.approx(0.01 if updates == 1 else 0.04)


def test_same_seed_gives_the_same_run() -> None:
    settings = AdmmSettings(rho_first=0.1, rho_last=1.0, updates=5)

    assert run(settings) == run(settings)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SettingError, match="rho_first"):
        AdmmSettings(rho_first=1.0, rho_last=0.1)
    with pytest.raises(SettingError, match="updates"):
        AdmmSettings(updates=0)


def test_dropout_is_off_inside_and_back_afterwards() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3))
    dropout = model[1]
    assert isinstance(dropout, nn.Dropout)

    with without_dropout(model):
        inside = dropout.p

    assert (inside, dropout.p) == (0.0, 0.3)
