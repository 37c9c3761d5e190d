"""Losses and metrics by name; a user's own as ``package.module:function``."""

import importlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress.errors import SettingError
from autocompress.train.effort import FORWARD, spend

Loss = Callable[[Tensor, Tensor], Tensor]
Metric = Callable[[Tensor, Tensor], Tensor]
BatchLoss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the share of samples whose largest logit is the target class.

    Args:
        outputs: Shape (samples, classes, ...).
        targets: Shape (samples, ...), integer.
    """
    return (outputs.argmax(1) == targets).float().mean()


LOSSES: dict[str, Loss] = {"cross_entropy": functional.cross_entropy, "mse": functional.mse_loss}
METRICS: dict[str, Metric] = {"accuracy": accuracy, "mse": functional.mse_loss}


def resolve_loss(name: str) -> Loss:
    """Return the loss called ``name``, or the function at ``package.module:function``.

    Raises:
        SettingError: There is no such loss.
    """
    return LOSSES[name] if name in LOSSES else import_function(name, "task.loss", sorted(LOSSES))


def resolve_metric(name: str) -> Metric:
    """Return the metric called ``name``, or the function at ``package.module:function``.

    Raises:
        SettingError: There is no such metric.
    """
    if name in METRICS:
        return METRICS[name]
    return import_function(name, "task.metric", sorted(METRICS))


def import_function(path: str, key: str, known: list[str]) -> Callable[..., Tensor]:
    """Return the function at ``package.module:function``, given by the user's settings.

    Raises:
        SettingError: It is not there; the message names ``key`` and the ``known`` names.
    """
    module, _, name = path.partition(":")
    if not name:
        raise SettingError(f"{key}: want one of {known} or package.module:function, got {path!r}")
    try:
        function: Callable[..., Tensor] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SettingError(f"{key}: cannot import {path!r}: {error}") from error
    return function


def make_task_loss(loss: Loss) -> BatchLoss:
    """Return ``loss`` of the model's outputs on a batch."""

    def task_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return loss(model(inputs), targets)

    return task_loss


def make_distilled_loss(
    loss: Loss, teacher: nn.Module, *, share: float, distance: Loss
) -> BatchLoss:
    """Return a mix of ``loss`` and the distance to a teacher's outputs.

    ``(1 - share) * loss(outputs, targets) + share * distance(outputs, teacher's outputs)``.
    Source: Hinton et al., arXiv:1503.02531, section 2.

    Args:
        loss: On (outputs, targets).
        teacher: In evaluation mode.
        share: Weight of the teacher, 0..1.
        distance: On (outputs, teacher's outputs): :func:`make_soft_distance` for a classifier,
            the mean squared error for anything else.
    """

    def distilled_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        outputs = model(inputs)
        with torch.no_grad():
            wanted = teacher(inputs)
        spend(FORWARD * len(inputs))
        taught = distance(outputs.float(), wanted.float())
        return (1 - share) * loss(outputs, targets) + share * taught

    return distilled_loss


def make_soft_distance(temperature: float) -> Loss:
    """Return ``T^2 * KL(teacher / T || student / T)`` of logits.

    Args:
        temperature: Above 0.
    """

    def soft_distance(outputs: Tensor, wanted: Tensor) -> Tensor:
        given = functional.log_softmax(outputs / temperature, 1)
        target = functional.log_softmax(wanted / temperature, 1)
        gap = functional.kl_div(given, target, reduction="batchmean", log_target=True)
        return temperature**2 * gap

    return soft_distance
