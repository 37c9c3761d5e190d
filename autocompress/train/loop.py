"""Train a model for some epochs, test it, and re-estimate its batch norms."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from autocompress.errors import ArtifactError, EvaluationError, SettingError
from autocompress.train.average import Average
from autocompress.train.batches import Batches, Epochs
from autocompress.train.checkpoint import GlobalDraws, Keeper, Part, Tensors, describe_start
from autocompress.train.effort import FORWARD, TRAINING, count_effort, read_times, spend, take_up
from autocompress.train.objective import BatchLoss, Loss, Metric


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a model is trained.

    Attributes:
        epochs: Passes over the training set; may be a fraction, and 0 leaves a model as it is.
        batch_size: Samples per step.
        optimizer: ``adam`` (with decoupled weight decay) or ``sgd`` (with momentum).
        learning_rate: Its maximum over the schedule.
        momentum: Of ``sgd``, and beta1 of ``adam``.
        weight_decay: On weights of convolutions and linear layers.
        schedule: ``one_cycle`` rises over the first 15 % of the steps and falls by a cosine;
            ``cosine`` only falls; ``constant`` does neither.
        autocast: Whether to run forward passes in bfloat16.
        channels_last: Whether to store images and weights channels last.
        average: Decay of a moving average of the parameters over the steps, 0 or more and below
            1; 0 leaves them as after the last step. See :func:`train_model_`.
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
    average: float = 0.0

    def __post_init__(self) -> None:
        for key in ("batch_size", "learning_rate"):
            if not 0 < getattr(self, key) < math.inf:
                raise SettingError(f"train.{key}: want a value above 0, got {getattr(self, key)}")
        for key in ("momentum", "average"):
            if not 0 <= getattr(self, key) < 1:
                raise SettingError(
                    f"train.{key}: want 0 or more and below 1, got {getattr(self, key)}"
                )
        for key in ("epochs", "weight_decay"):
            if not 0 <= getattr(self, key) < math.inf:
                raise SettingError(f"train.{key}: want 0 or more, got {getattr(self, key)}")


def ignore_step(step: int) -> None:
    """Do nothing at ``step``."""


def ignore_state(state: dict[str, Any]) -> None:
    """Do nothing with ``state``."""


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What to do around each optimiser step; steps are numbered from 0.

    Attributes:
        on_gradient: After the backward pass, before the optimiser's step.
        on_step: After the optimiser's step.
        state_dict: Returns what the hooks keep from step to step, when the training is kept:
            tensors and plain values in dicts, lists and tuples.
        load_state_dict: Sets the hooks to such a state, with its tensors on the CPU, once the
            model has its own again. What hooks changed in the model other than parameters and
            buffers, they change again here.
    """

    on_gradient: Callable[[int], None] = ignore_step
    on_step: Callable[[int], None] = ignore_step
    state_dict: Callable[[], dict[str, Any]] = dict
    load_state_dict: Callable[[dict[str, Any]], None] = ignore_state


def chain_hooks(*hooks: Hooks) -> Hooks:
    """Return hooks that do what each of ``hooks`` does, in this order, each with its own state.

    Its ``load_state_dict`` raises ArtifactError when the state is of another number of hooks.
    """

    def on_gradient(step: int) -> None:
        for hook in hooks:
            hook.on_gradient(step)

    def on_step(step: int) -> None:
        for hook in hooks:
            hook.on_step(step)

    def state_dict() -> dict[str, Any]:
        return {"chain": [hook.state_dict() for hook in hooks]}

    def load_state_dict(state: dict[str, Any]) -> None:
        states = state.get("chain", ())
        if len(states) != len(hooks):
            raise ArtifactError(f"checkpoint: want {len(hooks)} hooks, got {len(states)}")
        for hook, own in zip(hooks, states, strict=True):
            hook.load_state_dict(own)

    return Hooks(
        on_gradient=on_gradient,
        on_step=on_step,
        state_dict=state_dict,
        load_state_dict=load_state_dict,
    )


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
    """Return the optimiser steps that ``settings.epochs`` of ``source`` take.

    At least 1, unless ``settings.epochs`` is 0.
    """
    return count_epoch_steps(len(source), settings)


def count_epoch_steps(samples: int, settings: TrainSettings) -> int:
    """Return :func:`count_steps` for a training set of so many samples."""
    if settings.epochs == 0:
        return 0
    return max(1, round(settings.epochs * max(1, samples // settings.batch_size)))


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


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        step: The next one.
        total: Sum of the losses of the last tenth of the steps.
        samples: Sent through networks so far, see :class:`~autocompress.train.effort.Effort`.
        before: Wall and CPU seconds of the processes before this one.
        begun: Times at which this one began.
    """

    step: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    samples: int = 0
    before: tuple[float, float] = (0.0, 0.0)
    begun: tuple[float, float] = (0.0, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Return all of it."""
        spent = zip(self.before, self.begun, read_times(), strict=True)
        seconds, cpu_s = (before + now - begun for before, begun, now in spent)
        counts = {"step": self.step, "total": self.total, "samples": self.samples}
        return {**counts, "seconds": seconds, "cpu_s": cpu_s}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Set all of it; earlier versions counted neither samples nor seconds."""
        self.step, self.total = state["step"], state["total"]
        self.samples = state.get("samples", 0)
        self.before = state.get("seconds", 0.0), state.get("cpu_s", 0.0)


def train_model_(  # noqa: PLR0913 - what a training follows from, then what goes along
    model: nn.Module,
    source: Batches,
    settings: TrainSettings,
    *,
    loss: BatchLoss,
    seed: int,
    hooks: Hooks | None = None,
    keeper: Keeper | None = None,
) -> float:
    """Train ``model`` in place with a fresh optimiser and leave it in evaluation mode.

    With ``settings.average`` the model ends with the moving average of its parameters, decayed by
    ``min(average, (1 + step) / (10 + step))`` at each step; hooks see the raw ones. Weights that
    a hook masks later than from the start are not zero in the average: apply the masks again.
    Buffers are those of the last step, so re-estimate batch norms: theirs are of raw weights.

    Args:
        model: On the device of the source's batches; as it was at the start also when
            ``keeper`` holds a later state.
        source: Training samples.
        settings: Epochs, optimiser and schedule.
        loss: Of (model, inputs, targets).
        seed: Of shuffling, augmentation and dropout.
        hooks: Called around each optimiser step.
        keeper: Keeps the training now and then; one that was killed goes on from there and ends
            with the same bits on a CPU. The caller clears it once the result is stored; where
            training diverged it is cleared already.

    Returns:
        The mean loss of the last tenth of the steps; NaN when there are none.

    Raises:
        EvaluationError: The loss became infinite or NaN.
        ArtifactError: What ``keeper`` holds is damaged.
    """
    hooks = hooks or Hooks()
    steps = count_steps(source, settings)
    if steps == 0:  # Not even the moving average of a model that did not move.
        model.eval()
        return math.nan
    optimizer = make_optimizer(model, settings)
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)
    average, epochs = Average(model, settings.average), Epochs(source, settings.batch_size, seed)
    progress, tail = Progress(begun=read_times()), max(1, steps // 10)
    model.train()
    with fork_seed(seed), count_effort() as effort:
        if keeper is not None:
            start = describe_start(
                model, asdict(settings), seed=seed, steps=steps, samples=len(source)
            )
            parts: dict[str, Part] = {
                "progress": progress,
                "model": Tensors(model),
                "optimizer": optimizer,
                "average": average,
                "hooks": hooks,
                "epochs": epochs,
                "draws": GlobalDraws(),  # Last: to skip batches may draw, too.
            }
            keeper.open(start, parts)
            take_up(
                progress.samples, *progress.before
            )  # What is kept was spent: resumed, it costs the same.
        for step in range(progress.step, steps):
            inputs, targets = next(epochs)
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * scale_rate(settings.schedule, step, steps)
            with autocast(inputs, on=settings.autocast):
                value = loss(model, order(inputs, settings), targets)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            spend(TRAINING * len(inputs))
            hooks.on_gradient(step)
            optimizer.step()
            hooks.on_step(step)
            average.take_(step)
            if step >= steps - tail:
                progress.total = progress.total.to(value.device) + value.detach().float()
            progress.step, progress.samples = step + 1, effort.samples
            if keeper is not None:
                # The end too: on a GPU its last minute would not come to the same bits again.
                (keeper.write if step + 1 == steps else keeper.write_when_due)()
    average.give_()
    model.eval()
    mean = float(progress.total) / tail
    if not math.isfinite(mean):
        if keeper is not None:  # Who tries again shall not go on from there.
            keeper.clear()
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
        spend(FORWARD * len(inputs))
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
    norms = list_norms(model)
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
        spend(FORWARD * len(inputs))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(was_training)


def list_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Return the batch norms of ``model``."""
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
