"""Train a model for some epochs, test it, and re-estimate its batch norms."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.errors import EvaluationError, SettingError
from autocompress.train.objective import BatchLoss, Loss, Metric


class Batches(Protocol):
    """Where samples come from; ``data.source.Source`` is one."""

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def batches(
        self, size: int, *, seed: int | None = None, augment: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Return one epoch of (inputs, targets), shuffled by ``seed`` when it is given."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a model is trained.

    Attributes:
        epochs: Passes over the training set, above 0; may be a fraction.
        batch_size: Samples per step.
        optimizer: ``adam`` (with decoupled weight decay) or ``sgd`` (with momentum).
        learning_rate: Its maximum over the schedule.
        momentum: Of ``sgd``, and beta1 of ``adam``.
        weight_decay: On weights of convolutions and linear layers.
        schedule: ``one_cycle`` rises over the first 15 % of the steps and falls by a cosine;
            ``cosine`` only falls; ``constant`` does neither.
        autocast: Whether to run forward passes in bfloat16.
        channels_last: Whether to store images and weights channels last.
    """

    epochs: float = 10.0
    batch_size: int = 128
    optimizer: Literal["sgd", "adam"] = "adam"
    learning_rate: float = 2e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    autocast: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "learning_rate"):
            if not 0 < getattr(self, key) < math.inf:
                raise SettingError(f"train.{key}: want a value above 0, got {getattr(self, key)}")
        if not 0 <= self.momentum < 1:
            raise SettingError(f"train.momentum: want 0 or more and below 1, got {self.momentum}")
        if not 0 <= self.weight_decay < math.inf:
            raise SettingError(f"train.weight_decay: want 0 or more, got {self.weight_decay}")


def ignore_step(step: int) -> None:
    """Do nothing at ``step``."""


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What to do around each optimiser step; steps are numbered from 0.

    Attributes:
        on_gradient: After the backward pass, before the optimiser's step.
        on_step: After the optimiser's step.
    """

    on_gradient: Callable[[int], None] = ignore_step
    on_step: Callable[[int], None] = ignore_step


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Means over a data set.

    Attributes:
        loss: Mean loss per sample.
        metric: Mean metric per sample, in its own direction.
        samples: Samples seen.
    """

    loss: float
    metric: float
    samples: int


def count_steps(source: Batches, settings: TrainSettings) -> int:
    """Return the optimiser steps that ``settings.epochs`` of ``source`` take, at least 1."""
    return max(1, round(settings.epochs * max(1, len(source) // settings.batch_size)))


def scale_rate(schedule: str, step: int, steps: int) -> float:
    """Return the factor on the learning rate at ``step`` of ``steps``, in (0, 1.001]."""
    if schedule == "constant":
        return 1.0
    rise = max(1, round(0.15 * steps)) if schedule == "one_cycle" else 0
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) + 1e-3


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Return a fresh optimiser; weight decay acts on matrices and kernels only."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        nesterov = settings.momentum > 0  # PyTorch refuses it without momentum.
        return torch.optim.SGD(
            groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=nesterov
        )
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.momentum, 0.999))


def repeat_epochs(
    source: Batches, settings: TrainSettings, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return shuffled and augmented batches for ever; epoch ``e`` depends on (seed, e) only."""
    epoch = 0
    while True:
        state = np.random.SeedSequence(seed, spawn_key=(epoch,)).generate_state(1)
        yield from source.batches(settings.batch_size, seed=int(state[0]), augment=True)
        epoch += 1


def train_model_(
    model: nn.Module,
    source: Batches,
    settings: TrainSettings,
    *,
    loss: BatchLoss,
    seed: int,
    hooks: Hooks | None = None,
) -> float:
    """Train ``model`` in place with a fresh optimiser and leave it in evaluation mode.

    Args:
        model: On the device of the source's batches.
        source: Training samples.
        settings: Epochs, optimiser and schedule.
        loss: Of (model, inputs, targets).
        seed: Of shuffling, augmentation and dropout.
        hooks: Called around each optimiser step.

    Returns:
        The mean loss of the last tenth of the steps.

    Raises:
        EvaluationError: The loss became infinite or NaN.
    """
    hooks = hooks or Hooks()
    optimizer = make_optimizer(model, settings)
    steps = count_steps(source, settings)
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)
    total, tail = torch.zeros(()), max(1, steps // 10)
    model.train()
    with fork_seed(seed):
        for step, (inputs, targets) in enumerate(
            islice(repeat_epochs(source, settings, seed), steps)
        ):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * scale_rate(settings.schedule, step, steps)
            with autocast(inputs, on=settings.autocast):
                value = loss(model, order(inputs, settings), targets)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            hooks.on_gradient(step)
            optimizer.step()
            hooks.on_step(step)
            if step >= steps - tail:
                total = total.to(value.device) + value.detach().float()
    model.eval()
    mean = float(total) / tail
    if not math.isfinite(mean):
        raise EvaluationError(f"training diverged after {steps} steps: the loss is {mean}")
    return mean


def order(inputs: Tensor, settings: TrainSettings) -> Tensor:
    """Return ``inputs`` in the memory order that ``settings`` ask for."""
    if settings.channels_last and inputs.ndim == 4:
        return inputs.contiguous(memory_format=torch.channels_last)
    return inputs


def autocast(inputs: Tensor, *, on: bool) -> AbstractContextManager[object]:
    """Return a context that computes in bfloat16 when ``on``."""
    return torch.autocast(inputs.device.type, dtype=torch.bfloat16) if on else nullcontext()


class fork_seed(AbstractContextManager[None]):  # noqa: N801 - reads as a verb in a with statement
    """Seed torch's global generators inside a block (dropout needs them), restore them after."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        self._fork = torch.random.fork_rng(devices=list(devices))

    def __enter__(self) -> None:
        """Save the states and seed."""
        self._fork.__enter__()
        torch.manual_seed(self.seed)

    def __exit__(self, *exc_info: object) -> None:
        """Restore the states."""
        self._fork.__exit__(None, None, None)


@torch.no_grad()
def score_model(
    model: nn.Module, source: Batches, *, loss: Loss, metric: Metric, batch_size: int = 1000
) -> Scores:
    """Return the mean loss and metric of ``model`` over all of ``source``, in evaluation mode."""
    if not len(source):
        raise EvaluationError("want samples to score a model on, got an empty set")
    was_training = model.training
    model.eval()
    losses, metrics, samples = 0.0, 0.0, 0
    for inputs, targets in source.batches(batch_size):
        outputs = model(inputs).float()
        losses += float(loss(outputs, targets)) * len(inputs)
        metrics += float(metric(outputs, targets)) * len(inputs)
        samples += len(inputs)
    model.train(was_training)
    return Scores(loss=losses / samples, metric=metrics / samples, samples=samples)


@torch.no_grad()
def reestimate_norms_(
    model: nn.Module, source: Batches, *, batches: int, batch_size: int, seed: int
) -> None:
    """Replace the running statistics of batch norms by their means over some training batches."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    was_training = model.training
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # None averages over all batches instead of decaying.
        norm.train()
    for inputs, _ in islice(source.batches(batch_size, seed=seed, augment=True), batches):
        model(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(was_training)
