from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import ArtifactError, SettingError
from autocompress.masks.weights import project_weights
from autocompress.quantize.levels import Levels, project_levels
from autocompress.train.admm import (
    AdmmSettings,
    AdmmState,
    add_penalty_,
    has_converged,
    make_hooks,
    pull_,
    start_admm,
    update_dual_,
)
from autocompress.train.loop import Hooks, TrainSettings, count_steps, train_model_
from autocompress.train.objective import make_task_loss

NAMES = ["0.weight", "2.weight"]
TRAIN = TrainSettings(epochs=4, batch_size=16, learning_rate=0.02, schedule="constant")
SETTINGS = AdmmSettings(rho_first=5.0, rho_last=20.0, updates=6)


class Samples:
    """Samples of a linear map with three outputs."""

    def __len__(self) -> int:
        return 256

    def batches(
        self, size: int, *, seed: int | None = None, augment: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed or 0)
        weight = torch.randn(3, 6, generator=torch.Generator().manual_seed(9))
        for _ in range(len(self) // size):
            inputs = torch.randn(size, 6, generator=generator)
            yield inputs, inputs @ weight.T


def keep_five(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: project_weights(value, 5) for name, value in tensors.items()}


def to_ternary(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    levels = Levels(kind="ternary")
    return {name: project_levels(value, levels).values for name, value in tensors.items()}


def make_model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).to(dtype)


def start(model: nn.Module, settings: AdmmSettings = SETTINGS) -> AdmmState:
    return start_admm(model, NAMES, keep_five, settings)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float32])
def test_z_and_u_are_float32_beside_weights_of_any_dtype(dtype: torch.dtype) -> None:
    model = make_model(dtype)
    state = start(model)
    update_dual_(state, keep_five, 1.1)
    for value in state.W.values():
        value.grad = torch.ones_like(value)
    add_penalty_(state)
    pull_(state, 0.1)

    for name in NAMES:
        value = state.W[name]
        assert state.Z[name].dtype == state.U[name].dtype == torch.float32
        assert state.Z[name].device == state.U[name].device == value.device
        assert value.dtype == dtype
        assert value.grad is not None
        assert value.grad.dtype == dtype


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_z_and_u_are_on_the_device_of_the_weights() -> None:
    state = start(make_model(torch.bfloat16).cuda())
    update_dual_(state, to_ternary, 1.1)
    pull_(state, 0.1)

    assert all(one.is_cuda for one in (*state.Z.values(), *state.U.values(), *state.W.values()))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_steps_are_those_of_the_formulas(layout: torch.memory_format) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    state = start(model)
    model.to(memory_format=layout)
    update_dual_(state, keep_five, 1.5)
    with torch.no_grad():
        state.W["0.weight"].add_(0.1)
    value = state.W["0.weight"]
    weight, target = value.detach().clone(), state.Z["0.weight"] - state.U["0.weight"]
    for one in state.W.values():
        one.grad = torch.zeros_like(one)

    add_penalty_(state)
    pull_(state, 0.3)

    assert state.rho == pytest.approx(7.5)
    assert value.grad is not None
    # One rounding of each of three float32 terms below 10.
    torch.testing.assert_close(value.grad, 7.5 * (weight - target), rtol=1e-5, atol=1e-5)
    pulled = (weight + 0.3 * 7.5 * target) / (1 + 0.3 * 7.5)
    torch.testing.assert_close(value.detach(), pulled, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("project", [keep_five, to_ternary])
def test_an_update_projects_and_its_dual_is_what_is_left(project: Any) -> None:
    state = start_admm(make_model(), NAMES, project, SETTINGS)
    update_dual_(state, project, 1.0)
    inputs = {name: state.W[name].detach() + state.U[name] for name in NAMES}

    update_dual_(state, project, 1.0)

    for name in NAMES:
        assert torch.equal(state.Z[name], project(inputs)[name])
        assert torch.equal(state.U[name], inputs[name] - state.Z[name])


def test_parameters_without_a_gradient_are_left_alone() -> None:
    state = start(make_model())
    state.W["0.weight"].grad = torch.zeros_like(state.W["0.weight"])

    add_penalty_(state)

    assert state.W["0.weight"].grad.any()
    assert state.W["2.weight"].grad is None


def test_figures_of_each_update_are_kept_for_each_parameter() -> None:
    state = start(make_model())
    before = {name: value.clone() for name, value in state.Z.items()}
    with torch.no_grad():
        for value in state.W.values():
            value.copy_(value.flip(0))
    weights = {name: value.detach().clone() for name, value in state.W.items()}

    update_dual_(state, keep_five, 2.0)

    changed = 0
    for name in NAMES:
        (gap,) = state.gaps[name]
        turned = int(((before[name] != 0) != (state.Z[name] != 0)).sum())
        changed += turned
        assert gap.primal == pytest.approx(float((weights[name] - state.Z[name]).norm()))
        # With the penalty before it grew.
        assert gap.dual == pytest.approx(5.0 * float((state.Z[name] - before[name]).norm()))
        assert gap.change == turned / 5
    total = sum(float((weights[name] - state.Z[name]).square().sum()) for name in NAMES)
    norm = sum(float(value.square().sum()) for value in weights.values())
    assert state.residuals == [pytest.approx((total / norm) ** 0.5)]
    assert state.changes == [changed / sum(value.numel() for value in weights.values())]
    assert state.turnovers == [changed / 10]
    assert changed > 0


def test_convergence_takes_two_good_updates_in_a_row() -> None:
    settings = AdmmSettings(stop_change=0.01, stop_residual=0.01)
    state = start(make_model())

    def judge(changes: list[float], residuals: list[float]) -> bool:
        state.turnovers, state.residuals = changes, residuals
        return has_converged(state, settings)

    assert not judge([], [])
    assert not judge([0.0], [0.0])
    assert judge([0.5, 0.0, 0.0], [0.5, 0.001, 0.001])
    assert not judge([0.0, 0.5, 0.0], [0.0, 0.001, 0.001])
    assert not judge([0.0, 0.0], [0.02, 0.001])
    state.turnovers, state.residuals = [0.0, 0.0], [0.0, 0.0]
    assert not has_converged(state, AdmmSettings())


def train(settings: AdmmSettings) -> AdmmState:
    model, source = make_model(), Samples()
    state = start(model, settings)
    hooks = make_hooks(state, keep_five, settings, train=TRAIN, steps=count_steps(source, TRAIN))
    loss = make_task_loss(nn.functional.mse_loss)
    train_model_(model, source, TRAIN, loss=loss, seed=0, hooks=hooks)
    return state


def test_a_training_that_arrives_says_so() -> None:
    strict = AdmmSettings(rho_first=20.0, rho_last=20.0, updates=6)
    loose = replace(strict, stop_change=0.5, stop_residual=0.9)

    assert train(loose).converged
    assert not train(strict).converged


@pytest.mark.parametrize("form", ["gradient", "proximal"])
def test_a_state_that_is_loaded_goes_on_as_the_one_that_was_saved(
    form: Literal["gradient", "proximal"],
) -> None:
    settings = AdmmSettings(form=form, rho_first=0.1, rho_last=2.0, updates=5)
    model, other = make_model(), make_model()
    state = start(model, settings)
    hooks = make_hooks(state, keep_five, settings, train=TRAIN, steps=50)
    fresh = start(other, settings)
    fresh_hooks = make_hooks(fresh, keep_five, settings, train=TRAIN, steps=50)

    def take_steps(own: Hooks, own_state: AdmmState, steps: range) -> None:
        for step in steps:
            for number, value in enumerate(own_state.W.values()):
                value.grad = torch.full_like(value, 0.01 * (step - number))
            own.on_gradient(step)
            with torch.no_grad():
                for value in own_state.W.values():
                    assert value.grad is not None
                    value.sub_(value.grad, alpha=0.1)
            own.on_step(step)

    take_steps(hooks, state, range(25))
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    kept = hooks.state_dict()
    take_steps(hooks, state, range(25, 50))
    other.load_state_dict(saved)
    fresh_hooks.load_state_dict(kept)
    take_steps(fresh_hooks, fresh, range(25, 50))

    for name in NAMES:
        assert torch.equal(state.W[name], fresh.W[name])
        assert torch.equal(state.Z[name], fresh.Z[name])
        assert torch.equal(state.U[name], fresh.U[name])
    assert (state.rho, state.residuals, state.gaps) == (fresh.rho, fresh.residuals, fresh.gaps)


def test_a_state_of_other_parameters_is_refused() -> None:
    state = start(make_model())
    saved = state.state_dict()
    saved["Z"] = {"0.weight": saved["Z"]["0.weight"]}

    with pytest.raises(ArtifactError, match="want Z of"):
        state.load_state_dict(saved)


def test_limits_below_zero_are_refused() -> None:
    with pytest.raises(SettingError, match="stop_change"):
        AdmmSettings(stop_change=-1.0)
    with pytest.raises(SettingError, match="stop_residual"):
        AdmmSettings(stop_residual=-1.0)
