"""A cheap estimate of how good a candidate will be."""

from autocompress.evaluate.base import Base, mask_base, shrink_base
from autocompress.evaluate.prune import prune_base, retrain_base_, score_base
from autocompress.evaluate.quantize import project_base_, quantize_base_
from autocompress.evaluate.settings import EvaluateSettings
from autocompress.evaluate.task import Task
from autocompress.jobs import Candidate
from autocompress.masks.cost import count_masks
from autocompress.masks.project import measure_energies, project_masks
from autocompress.train.loop import reestimate_norms_
from autocompress.train.objective import make_task_loss


def evaluate_fast(
    base: Base, candidate: Candidate, task: Task, settings: EvaluateSettings, *, seed: int
) -> dict[str, float]:
    """Return the figures of :func:`estimate_candidate` alone."""
    return estimate_candidate(base, candidate, task, settings, seed=seed)[1]


def estimate_candidate(
    base: Base, candidate: Candidate, task: Task, settings: EvaluateSettings, *, seed: int
) -> tuple[Base, dict[str, float]]:
    """Return ``candidate`` after little work, masked, and its validation scores and real cost.

    Args:
        base: Where the round starts; not changed.
        candidate: Counts to keep.
        task: Its training set trains, its validation split scores.
        settings: ``settings.fast`` picks the rung of the ladder.
        seed: Of shuffling and augmentation.

    Returns:
        The masked model, and ``val_loss``, ``val_metric``, the known fields of
        :class:`autocompress.masks.cost.Cost` and the method's figures.
    """
    fast = settings.fast
    figures: dict[str, float] = {}
    if fast.fidelity == "one_shot":
        energies = measure_energies(base.graph, base.model)
        masks = project_masks(base.graph, energies, candidate, within=base.masks)
        pruned = mask_base(base.copy(), masks)
        pruned = shrink_base(pruned) if settings.shrunk else pruned
        project_base_(pruned, candidate.bits)
    else:
        pruned, figures = prune_base(base, candidate, task, settings, train=fast.prune, seed=seed)
        loss = make_task_loss(task.loss)
        retrain_base_(pruned, task, fast.retrain, loss=loss, seed=seed + 1)
        figures |= quantize_base_(
            pruned, candidate.bits, task, fast.quantize, loss=loss, seed=seed + 3
        )
    reestimate_norms_(
        pruned.model,
        task.data.train,
        batches=fast.norm_batches,
        batch_size=fast.retrain.batch_size,
        seed=seed + 2,
    )
    scores = score_base(pruned, task)
    cost = count_masks(pruned.graph, pruned.masks, candidate.bits).list_known()
    return pruned, {
        "val_loss": scores.loss,
        "val_metric": scores.metric,
        **{name: float(count) for name, count in cost.items()},
        **figures,
    }
