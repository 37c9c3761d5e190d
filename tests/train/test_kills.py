"""A training that is killed and started again ends as if it had not been."""

import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress.data.source import InputSpec
from autocompress.data.tensors import Augmentation, TensorSource
from autocompress.errors import ArtifactError
from autocompress.train.checkpoint import Keeper, name_tensors
from autocompress.train.loop import Hooks, TrainSettings, chain_hooks, fork_seed, train_model_
from autocompress.train.objective import make_task_loss
from tests.killed import kill_and_finish

LOSS = make_task_loss(functional.cross_entropy)
SETTINGS = TrainSettings(
    epochs=4, batch_size=8, learning_rate=0.02, weight_decay=1e-2, average=0.9
)
STEPS = 20  # 43 samples: 5 batches an epoch, the rest of 3 is dropped.


class KilledError(Exception):
    """Stands for the end of the process."""


def make_source(device: str) -> TensorSource:
    draw = torch.Generator().manual_seed(0)
    return TensorSource(
        images=torch.randint(256, (43, 2, 6, 6), generator=draw).to(torch.uint8).to(device),
        targets=torch.randint(3, (43,), generator=draw).to(device),
        spec=InputSpec(shape=(2, 6, 6), mean=(0.5, 0.5), std=(0.2, 0.3)),
        device=torch.device(device),
        augmentation=Augmentation(crop=1, flip=True),
    )


def make_net() -> nn.Module:
    with fork_seed(0):
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.4),
            nn.Linear(144, 3),
        )


@dataclass
class Drift:
    """Hooks with a state: a pull towards where the weight was, and ever more zeros."""

    weight: nn.Parameter
    mean: Tensor = field(init=False)
    dropped: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.mean = torch.zeros_like(self.weight)

    @torch.no_grad()
    def on_gradient(self, step: int) -> None:
        assert self.weight.grad is not None
        self.weight.grad.add_(self.weight - self.mean, alpha=0.1)

    @torch.no_grad()
    def on_step(self, step: int) -> None:
        self.mean.lerp_(self.weight, 0.2)
        if step % 3 == 2:
            self.dropped.append(int(self.mean.abs().flatten().argmin()))
        mask = torch.ones(self.weight.numel(), device=self.weight.device)
        mask[self.dropped] = 0
        self.weight.mul_(mask.view_as(self.weight))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean.copy_(state["mean"])
        self.dropped[:] = state["dropped"]

    def hooks(self) -> Hooks:
        return Hooks(
            on_gradient=self.on_gradient,
            on_step=self.on_step,
            state_dict=lambda: {"mean": self.mean, "dropped": self.dropped},
            load_state_dict=self.load_state_dict,
        )


@dataclass
class Run:
    """A training of the net; may be killed before a step is over.

    Attributes:
        steps: Those that were begun.
        loss: What training returned.
    """

    settings: TrainSettings
    device: str = "cpu"
    steps: list[int] = field(default_factory=list)
    loss: float = 0.0
    net: nn.Module = field(default_factory=make_net)
    on_step: Callable[[int], None] = lambda step: None

    def train(self, keeper: Keeper | None = None, kill_at: int | None = None) -> "Run":
        def on_gradient(step: int) -> None:
            self.steps.append(step)
            if step == kill_at:
                raise KilledError

        self.net.to(self.device)
        weights = [self.net.get_parameter(name) for name in ("0.weight", "5.weight")]
        hooks = chain_hooks(
            Hooks(on_gradient=on_gradient, on_step=self.on_step),
            *(Drift(weight).hooks() for weight in weights),
        )
        source = make_source(self.device)
        self.loss = train_model_(
            self.net, source, self.settings, loss=LOSS, seed=3, hooks=hooks, keeper=keeper
        )
        return self

    def kill(self, keeper: Keeper, step: int) -> None:
        with pytest.raises(KilledError):
            self.train(keeper, kill_at=step)


def keep_often(path: Path, every: float) -> Keeper:
    """Return a keeper that writes after every so many steps: its clock ticks once a step."""
    return Keeper(path, seconds=every, clock=map(float, itertools.count()).__next__)


def to_bits(tensor: Tensor) -> Tensor:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8)


def same_bits(one: Run, other: Run) -> bool:
    """Return whether two trainings ended alike."""
    pair = name_tensors(one.net), name_tensors(other.net)
    equal = all(
        torch.equal(to_bits(tensor), to_bits(pair[1][name])) for name, tensor in pair[0].items()
    )
    return equal and one.loss == other.loss and not one.net.training and not other.net.training


CASES = {
    "all": SETTINGS,
    "sgd": replace(SETTINGS, optimizer="sgd"),
    "no momentum": replace(SETTINGS, optimizer="sgd", momentum=0.0, average=0.0),
    "raw": replace(SETTINGS, average=0.0, schedule="cosine"),
    "autocast": replace(SETTINGS, autocast=True, channels_last=True, schedule="constant"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_training_killed_twice_ends_with_the_same_bits(tmp_path: Path, case: str) -> None:
    settings, path = CASES[case], tmp_path / "x.ckpt"
    whole = Run(settings).train()

    Run(settings).kill(keep_often(path, 3), 8)
    second, third = Run(settings), Run(settings)
    second.kill(keep_often(path, 3), 16)
    third.train(keep_often(path, 3))

    assert 0 < second.steps[0] < 8
    assert second.steps[0] < third.steps[0] < 16
    assert third.steps == list(range(third.steps[0], STEPS))
    assert same_bits(whole, third)


@pytest.mark.parametrize("step", range(1, STEPS))
def test_it_does_not_matter_after_which_step(tmp_path: Path, step: int) -> None:
    whole, again = Run(SETTINGS).train(), Run(SETTINGS)

    Run(SETTINGS).kill(keep_often(tmp_path / "x.ckpt", 0), step)
    again.train(keep_often(tmp_path / "x.ckpt", 0))

    assert again.steps[0] == step
    assert same_bits(whole, again)


def test_killed_before_the_first_write_it_begins_again(tmp_path: Path) -> None:
    whole, again = Run(SETTINGS).train(), Run(SETTINGS)

    Run(SETTINGS).kill(keep_often(tmp_path / "x.ckpt", 9), 7)
    again.train(keep_often(tmp_path / "x.ckpt", 9))

    assert again.steps[0] == 0
    assert same_bits(whole, again)


@pytest.mark.parametrize("every", [0.0, 13.0, 1e9])
def test_killed_once_it_is_over_nothing_is_trained_again(tmp_path: Path, every: float) -> None:
    whole, again = Run(SETTINGS), Run(SETTINGS)

    whole.train(keep_often(tmp_path / "x.ckpt", every))
    again.train(keep_often(tmp_path / "x.ckpt", every))

    assert again.steps == []
    assert same_bits(whole, again)


def test_a_cleared_keeper_trains_again_from_the_start(tmp_path: Path) -> None:
    keeper, again = keep_often(tmp_path / "x.ckpt", 0), Run(SETTINGS)
    Run(SETTINGS).train(keeper)

    keeper.clear()
    again.train(keeper)

    assert again.steps[0] == 0


@pytest.mark.parametrize("every", [0.0, 3.0, float("inf")])
def test_keeping_changes_nothing(tmp_path: Path, every: float) -> None:
    state = torch.get_rng_state()

    kept = Run(SETTINGS).train(keep_often(tmp_path / "x.ckpt", every))

    assert same_bits(Run(SETTINGS).train(), kept)
    assert (tmp_path / "x.ckpt").exists()
    assert torch.equal(torch.get_rng_state(), state)


def test_another_training_does_not_take_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    others = [Run(replace(SETTINGS, learning_rate=0.01)), Run(replace(SETTINGS, epochs=3))]
    others.append(Run(SETTINGS))
    with torch.no_grad():
        others[-1].net.get_parameter("5.bias").add_(1e-3)
    for other in others:
        Run(SETTINGS).kill(keep_often(path, 0), 8)

        other.train(keep_often(path, 0))

        assert other.steps[0] == 0


def test_the_state_of_other_hooks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    Run(SETTINGS).kill(keep_often(path, 0), 8)

    with pytest.raises(ArtifactError, match="want 1 hooks, got 3"):
        train_model_(
            make_net(),
            make_source("cpu"),
            SETTINGS,
            loss=LOSS,
            seed=3,
            hooks=chain_hooks(Hooks()),
            keeper=keep_often(path, 0),
        )


@pytest.mark.gpu
def test_on_a_gpu_it_goes_on_with_the_same_draws(tmp_path: Path) -> None:
    whole, again = Run(SETTINGS, device="cuda").train(), Run(SETTINGS, device="cuda")

    Run(SETTINGS, device="cuda").kill(keep_often(tmp_path / "x.ckpt", 3), 11)
    again.train(keep_often(tmp_path / "x.ckpt", 3))

    assert again.steps[0] > 0
    for name, tensor in name_tensors(again.net).items():
        # A GPU adds in any order; other draws of dropout would differ by far more.
        torch.testing.assert_close(tensor, name_tensors(whole.net)[name], rtol=1e-3, atol=1e-3)


def train_slowly(folder: Path) -> None:
    """Train with a checkpoint every few steps, and store the result; what gets killed."""
    torch.set_num_threads(1)
    keeper = Keeper(folder / "x.ckpt", seconds=0.02)
    run = Run(replace(SETTINGS, epochs=40), on_step=lambda step: time.sleep(0.002)).train(keeper)
    torch.save([run.loss, run.steps[0], name_tensors(run.net)], folder / "draft")
    (folder / "draft").rename(folder / "result")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_process_killed_at_any_moment_goes_on(tmp_path: Path) -> None:
    whole = Run(replace(SETTINGS, epochs=40)).train()
    result = kill_and_finish(__file__, tmp_path)

    loss, first, tensors = torch.load(result, weights_only=True)
    assert first > 0
    assert loss == whole.loss
    assert all(
        torch.equal(tensors[name], value) for name, value in name_tensors(whole.net).items()
    )


if __name__ == "__main__":
    train_slowly(Path(sys.argv[1]))
