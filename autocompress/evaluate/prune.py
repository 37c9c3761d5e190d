"""Prune a base to a candidate and retrain what is left; shared by all evaluations."""

from autocompress.evaluate.base import Base, mask_base, shrink_base
from autocompress.evaluate.settings import EvaluateSettings
from autocompress.evaluate.task import Task
from autocompress.jobs import Candidate
from autocompress.masks.mask import apply_masks_, parameter_masks
from autocompress.methods.base import Request
from autocompress.methods.choose import make_method
from autocompress.train.checkpoint import Keeper
from autocompress.train.loop import Hooks, Scores, TrainSettings, score_model, train_model_
from autocompress.train.objective import (
    LOSSES,
    BatchLoss,
    make_distilled_loss,
    make_soft_distance,
    make_task_loss,
)


def prune_base(  # noqa: PLR0913 - what a pruning follows from, then what goes along
    base: Base,
    candidate: Candidate,
    task: Task,
    settings: EvaluateSettings,
    *,
    train: TrainSettings,
    seed: int,
    keeper: Keeper | None = None,
) -> tuple[Base, dict[str, float]]:
    """Return ``base`` pruned to ``candidate`` by the method of ``settings``, and its figures.

    Returns:
        A new base, physically smaller when ``settings.shrunk``; its model is not yet retrained.
    """
    work = base.copy()
    request = Request(
        model=work.model,
        graph=work.graph,
        within=work.masks,
        candidate=candidate,
        source=task.data.train,
        train=train,
        loss=make_task_loss(task.loss),
        seed=seed,
        keeper=keeper,
    )
    found = make_method(settings.method).find_masks(request)
    pruned = mask_base(work, found.masks)
    return (shrink_base(pruned) if settings.shrunk else pruned), found.figures


def retrain_base_(
    base: Base,
    task: Task,
    train: TrainSettings,
    *,
    loss: BatchLoss,
    seed: int,
    keeper: Keeper | None = None,
) -> float:
    """Retrain the model of ``base`` with a fresh optimiser, zeros held after every step.

    Returns:
        The mean training loss over the last tenth of the steps.
    """
    held = parameter_masks(base.graph, base.masks, base.model)
    hooks = Hooks(on_step=lambda step: apply_masks_(base.model, held))
    return train_model_(
        base.model, task.data.train, train, loss=loss, seed=seed, hooks=hooks, keeper=keeper
    )


def score_base(base: Base, task: Task) -> Scores:
    """Return loss and metric of ``base`` on the validation split."""
    return score_model(base.model, task.data.validation, loss=task.loss, metric=task.metric)


def make_retrain_loss(task: Task, teacher: Base, settings: EvaluateSettings) -> BatchLoss:
    """Return the loss of retraining: distilled from ``teacher`` when settings ask for it."""
    distill = settings.distill
    if distill.share == 0:
        return make_task_loss(task.loss)
    classes = task.settings.loss == "cross_entropy"
    return make_distilled_loss(
        task.loss,
        teacher.model,
        share=distill.share,
        distance=make_soft_distance(distill.temperature) if classes else LOSSES["mse"],
    )
