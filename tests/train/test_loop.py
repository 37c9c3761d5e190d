import copy
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress.errors import EvaluationError, SettingError
from autocompress.train.loop import (
    Hooks,
    TrainSettings,
    chain_hooks,
    count_steps,
    fork_seed,
    make_optimizer,
    reestimate_norms_,
    scale_rate,
    score_model,
    train_model_,
)
from autocompress.train.objective import accuracy, make_task_loss

LOSS = make_task_loss(functional.cross_entropy)


class Blobs:
    """Two classes of points around two centres."""

    def __len__(self) -> int:
        return 64

    def batches(
        self, size: int, *, seed: int | None = None, augment: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(0 if seed is None else seed)
        for _ in range(len(self) // min(size, len(self))):
            targets = torch.randint(0, 2, (min(size, len(self)),), generator=generator)
            noise = torch.randn(len(targets), 3, generator=generator)
            yield noise + 4.0 * targets[:, None], targets


def make_net() -> nn.Module:
    with fork_seed(0):
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_training_learns_and_ends_in_evaluation_mode(optimizer: str) -> None:
    net = make_net()
    settings = TrainSettings(epochs=10, batch_size=16, learning_rate=0.02)
    if optimizer == "sgd":
        settings = TrainSettings(epochs=10, batch_size=16, learning_rate=0.1, optimizer="sgd")
    before = score_model(net, Blobs(), loss=functional.cross_entropy, metric=accuracy)

    train_model_(net, Blobs(), settings, loss=LOSS, seed=0)

    after = score_model(net, Blobs(), loss=functional.cross_entropy, metric=accuracy)
    assert after.loss < before.loss
    assert after.metric > 0.95
    assert not net.training


def test_equal_seeds_give_equal_weights_and_leave_the_global_generator() -> None:
    settings = TrainSettings(epochs=2, batch_size=16)
    nets = [make_net(), make_net()]
    state = torch.get_rng_state()

    for net in nets:
        train_model_(net, Blobs(), settings, loss=LOSS, seed=7)

    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_zeros_held_by_a_hook_stay_zero_against_momentum(optimizer: str) -> None:
    net = make_net()
    weight = net.get_parameter("0.weight")
    mask = torch.ones_like(weight)
    mask[:, 1] = 0

    def hold(_step: int) -> None:
        with torch.no_grad():
            weight.mul_(mask)

    settings = TrainSettings(epochs=3, batch_size=16, learning_rate=0.05)
    if optimizer == "sgd":
        settings = TrainSettings(epochs=3, batch_size=16, learning_rate=0.05, optimizer="sgd")
    train_model_(net, Blobs(), settings, loss=LOSS, seed=0, hooks=Hooks(on_step=hold))

    assert not weight[:, 1].any()
    assert weight[:, 0].any()


def test_a_fraction_of_an_epoch_is_a_fraction_of_the_steps() -> None:
    assert count_steps(Blobs(), TrainSettings(epochs=0.5, batch_size=8)) == 4
    assert count_steps(Blobs(), TrainSettings(epochs=3, batch_size=8)) == 24
    assert count_steps(Blobs(), TrainSettings(epochs=0.01, batch_size=64)) == 1


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
def test_the_rate_stays_within_its_maximum_and_ends_low(schedule: str) -> None:
    rates = [scale_rate(schedule, step, 100) for step in range(100)]

    assert 0 < min(rates) <= max(rates) <= 1.001
    assert rates[-1] == 1 if schedule == "constant" else rates[-1] < 0.01


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_training_leaves_the_mean_of_what_hooks_see_and_buffers_as_they_are(decay: float) -> None:
    net = make_net()
    weight = net.get_parameter("0.weight")
    mean, seen = weight.detach().clone(), []

    def follow(step: int) -> None:
        with torch.no_grad():
            weight[:, step % 3] = 0
        seen.append([weight.detach().clone(), net.get_buffer("1.running_mean").clone()])
        mean.lerp_(seen[-1][0], 1 - min(decay, (1 + step) / (10 + step)))

    settings = TrainSettings(epochs=3, batch_size=16, average=decay)
    train_model_(net, Blobs(), settings, loss=LOSS, seed=0, hooks=Hooks(on_step=follow))

    # The same operations on the same float32 values.
    assert torch.equal(weight, mean)
    assert torch.equal(net.get_buffer("1.running_mean"), seen[-1][1])
    assert torch.equal(weight, seen[-1][0]) == (decay == 0)


def test_what_hooks_see_does_not_depend_on_the_average() -> None:
    def record(decay: float) -> list[Tensor]:
        net, seen = make_net(), []

        def look(_step: int) -> None:
            seen.append(net.get_parameter("0.weight").detach().clone())

        settings = TrainSettings(epochs=2, batch_size=16, average=decay)
        train_model_(net, Blobs(), settings, loss=LOSS, seed=0, hooks=Hooks(on_step=look))
        return seen

    raw, averaged = record(0.0), record(0.9)

    assert len(raw) == 8
    assert all(torch.equal(one, other) for one, other in zip(raw, averaged, strict=True))


def test_chained_hooks_run_in_order_and_each_has_its_own_state() -> None:
    calls: list[tuple[str, int]] = []
    states: dict[str, dict[str, int]] = {"a": {"x": 1}, "b": {"x": 2}, "c": {}}

    def make_hooks(name: str) -> Hooks:
        return Hooks(
            on_gradient=lambda step: calls.append((f"gradient {name}", step)),
            on_step=lambda step: calls.append((f"step {name}", step)),
            state_dict=lambda: states[name],
            load_state_dict=lambda state: states.update({name: state}),
        )

    chain = chain_hooks(make_hooks("a"), chain_hooks(make_hooks("b"), Hooks(), make_hooks("c")))
    chain.on_gradient(3)
    chain.on_step(4)
    before = copy.deepcopy(states)
    stored = copy.deepcopy(chain.state_dict())
    states.update(a={}, b={}, c={"x": 9})
    chain.load_state_dict(stored)

    assert calls[:3] == [("gradient a", 3), ("gradient b", 3), ("gradient c", 3)]
    assert calls[3:] == [("step a", 4), ("step b", 4), ("step c", 4)]
    assert states == before


def test_weight_decay_spares_biases_and_norms() -> None:
    optimizer = make_optimizer(make_net(), TrainSettings(weight_decay=0.1))

    decayed, others = optimizer.param_groups

    assert decayed["weight_decay"] == 0.1
    assert others["weight_decay"] == 0
    assert all(parameter.ndim > 1 for parameter in decayed["params"])


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    def broken(model: nn.Module, inputs: Tensor, _targets: Tensor) -> Tensor:
        return model(inputs).sum() * float("nan")

    with pytest.raises(EvaluationError, match="diverged"):
        train_model_(make_net(), Blobs(), TrainSettings(epochs=1), loss=broken, seed=0)


def test_norms_take_the_statistics_of_what_they_see_now() -> None:
    net = make_net()
    other = copy.deepcopy(net)

    reestimate_norms_(net, Blobs(), batches=4, batch_size=16, seed=3)

    inputs = torch.cat([batch for batch, _ in Blobs().batches(16, seed=3)])
    seen = other.get_submodule("0")(inputs)
    # The mean over batches of equal size is the mean over all; float32 sums of 64 terms.
    torch.testing.assert_close(
        net.get_buffer("1.running_mean"), seen.mean(0), rtol=1e-4, atol=1e-5
    )
    norm = net.get_submodule("1")
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.momentum == 0.1


def test_settings_of_zero_are_refused() -> None:
    with pytest.raises(SettingError, match=r"train\.batch_size: want a value above 0, got 0"):
        TrainSettings(batch_size=0)
    with pytest.raises(SettingError, match=r"train\.epochs: want 0 or more, got -1"):
        TrainSettings(epochs=-1)


def test_no_epochs_leave_a_model_as_it_is() -> None:
    net, settings = make_net(), TrainSettings(epochs=0, average=0.9)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert count_steps(Blobs(), settings) == 0
    mean = train_model_(net, Blobs(), settings, loss=LOSS, seed=0)
    assert math.isnan(mean)
    assert not net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": float("inf")},
        {"momentum": -0.1},
        {"momentum": 1.0},
        {"weight_decay": -1.0},
        {"average": 1.0},
        {"average": -0.1},
    ],
)
def test_settings_that_no_optimiser_takes_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError, match=rf"train\.{next(iter(wrong))}: want "):
        replace(TrainSettings(), **wrong)  # type: ignore[arg-type]


def test_sgd_trains_without_momentum() -> None:
    settings = TrainSettings(epochs=1, batch_size=16, optimizer="sgd", momentum=0.0)

    loss = train_model_(
        make_net(), Blobs(), settings, loss=make_task_loss(functional.cross_entropy), seed=0
    )

    assert loss > 0
