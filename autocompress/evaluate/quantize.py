"""Bring the weights of a pruned model to the levels of a candidate's bit widths."""

from collections.abc import Mapping

import torch
from torch import Tensor

from autocompress.evaluate.base import Base
from autocompress.evaluate.prune import retrain_base_
from autocompress.evaluate.settings import QuantizeSettings
from autocompress.evaluate.task import Task
from autocompress.masks.mask import Masks, apply_masks_, parameter_masks
from autocompress.quantize.levels import Levels, project_levels
from autocompress.train.admm import make_hooks, start_admm, without_dropout
from autocompress.train.loop import Hooks, count_steps, train_model_
from autocompress.train.objective import BatchLoss


def quantize_base_(
    base: Base,
    bits: Mapping[str, int],
    task: Task,
    settings: QuantizeSettings,
    *,
    loss: BatchLoss,
    seed: int,
) -> dict[str, float]:
    """Train ``base`` towards the levels of ``bits``, project it on them and let the rest settle.

    ADMM with the projection on levels, zeros held; then everything else is retrained while the
    weights stay at their levels exactly. Source: arXiv:1903.09769, section on quantisation.

    Args:
        base: Masked; its model is trained in place.
        bits: Bit widths by layer; with none nothing is done.
        task: Its training set trains.
        settings: How long.
        loss: Of (model, inputs, targets).
        seed: Of shuffling and augmentation.

    Returns:
        ``quantize_residual``, how far the weights were from their levels before the projection.
    """
    if not bits:
        return {}
    model, source, train = base.model, task.data.train, settings.train
    held = parameter_masks(base.graph, base.masks, model)

    def project(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return project_tensors(tensors, bits, held)

    state = start_admm(model, [f"{name}.weight" for name in bits], project, settings.admm)
    steps = count_steps(source, train)
    hooks = make_hooks(state, project, settings.admm, train=train, steps=steps)

    def on_step(step: int) -> None:
        hooks.on_step(step)
        apply_masks_(model, held)

    with without_dropout(model):
        both = Hooks(on_gradient=hooks.on_gradient, on_step=on_step)
        train_model_(model, source, train, loss=loss, seed=seed, hooks=both)
    project_base_(base, bits)
    settle_base_(base, bits, task, settings, loss=loss, seed=seed + 1)
    return {"quantize_residual": state.residuals[-1]} if state.residuals else {}


def settle_base_(
    base: Base,
    bits: Mapping[str, int],
    task: Task,
    settings: QuantizeSettings,
    *,
    loss: BatchLoss,
    seed: int,
) -> None:
    """Retrain what is not quantised; nothing else is touched, nor anything when all is."""
    fixed = [base.model.get_parameter(f"{name}.weight") for name in bits]
    values = [one.detach().clone() for one in fixed]
    for one in fixed:
        one.requires_grad_(False)  # noqa: FBT003 - the name of PyTorch's own argument
    if any(one.requires_grad for one in base.model.parameters()):
        retrain_base_(base, task, settings.settle, loss=loss, seed=seed)
    with torch.no_grad():
        for one, value in zip(fixed, values, strict=True):
            one.copy_(value)  # A moving average of the parameters may have rounded them.
            one.requires_grad_(True)  # noqa: FBT003


@torch.no_grad()
def project_base_(base: Base, bits: Mapping[str, int]) -> None:
    """Replace the weights of the layers of ``bits`` by the nearest ones on their levels."""
    parameters = {f"{name}.weight": base.model.get_parameter(f"{name}.weight") for name in bits}
    held = parameter_masks(base.graph, base.masks, base.model)
    for name, values in project_tensors(parameters, bits, held).items():
        parameters[name].copy_(values)


def project_tensors(
    tensors: Mapping[str, Tensor], bits: Mapping[str, int], held: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return weights on equal distances: those of ``b`` bits are q {-M..M}, M = 2^(b - 1) - 1.

    Args:
        tensors: By parameter name.
        bits: By layer.
        held: Masks by parameter name, 1 where a weight is kept; the others become 0.
    """
    names = {f"{layer}.weight": Levels(bits=width) for layer, width in bits.items()}
    return {
        name: project_levels(tensors[name], levels, kept=held[name].bool()).values
        for name, levels in names.items()
    }


def drop_zeros(base: Base, bits: Mapping[str, int]) -> Base:
    """Return ``base`` with kept weights at level 0 taken out of its masks; the same model."""
    weights = dict(base.masks.weights)
    for name in bits:
        weights[name] = (base.model.get_parameter(f"{name}.weight").flatten(1) != 0).cpu()
    return Base(base.model, base.graph, Masks(base.masks.units, base.masks.columns, weights))
