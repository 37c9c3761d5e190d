"""From a candidate to a finished, physically smaller model; and the pruning between rounds."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autocompress.deploy.measure import compare_times, measure_models
from autocompress.errors import EvaluationError
from autocompress.evaluate.base import Base, mask_base, shrink_base
from autocompress.evaluate.prune import make_retrain_loss, prune_base, retrain_base_, score_base
from autocompress.evaluate.quantize import drop_zeros, quantize_base_
from autocompress.evaluate.settings import EvaluateSettings
from autocompress.evaluate.task import Task
from autocompress.graph.trace import measure_macs
from autocompress.jobs import Candidate
from autocompress.masks.cost import count_masks
from autocompress.masks.mask import Masks, apply_masks_, parameter_masks
from autocompress.masks.project import measure_energies
from autocompress.masks.purify import PurifySettings, propagate, purify
from autocompress.shrink.compact import compact_model
from autocompress.train.checkpoint import NOT_KEPT, Keepers
from autocompress.train.loop import reestimate_norms_, score_model

# Float32 sums over at most some thousand terms in another order.
EQUAL_WITHIN = 1e-4


@dataclass(frozen=True)
class Finished:
    """A finished model.

    Attributes:
        model: Ordinary modules, and column layers where columns are left out.
        base: The same model as masks over dense layers.
        metrics: Figures by name, see ``report.frames``.
    """

    model: nn.Module
    base: Base
    metrics: dict[str, float]


def evaluate_round(  # noqa: PLR0913 - what a model follows from, then what goes along
    base: Base,
    candidate: Candidate,
    task: Task,
    settings: EvaluateSettings,
    *,
    teacher: Base,
    seed: int,
    keepers: Keepers = NOT_KEPT,
) -> tuple[Base, dict[str, float]]:
    """Return the base of the next round: ``base`` pruned to ``candidate`` and retrained.

    Args:
        base: Where this round starts; not changed.
        candidate: Counts to keep.
        task: Data, loss and metric.
        settings: ``settings.round`` says how long.
        teacher: The dense model, for distillation.
        seed: Of every draw.
        keepers: Of its trainings, so that a job that was killed goes on.

    Returns:
        The new base without dead units, and its validation scores and cost. Its weights are
        not quantised; the cost is that at the bit widths of ``candidate``.
    """
    train, keeper = settings.round.prune, keepers.open("prune")
    pruned, figures = prune_base(
        base, candidate, task, settings, train=train, seed=seed, keeper=keeper
    )
    loss, keeper = make_retrain_loss(task, teacher, settings), keepers.open("retrain")
    retrain_base_(pruned, task, settings.round.retrain, loss=loss, seed=seed + 1, keeper=keeper)
    pruned = shrink_base(mask_base(pruned, propagate(pruned.graph, pruned.masks)))
    return pruned, {**describe_base(pruned, task, candidate.bits), **figures}


def evaluate_full(  # noqa: PLR0913 - what a model follows from, then what goes along
    base: Base,
    candidate: Candidate,
    task: Task,
    settings: EvaluateSettings,
    *,
    teacher: Base,
    seed: int,
    keepers: Keepers = NOT_KEPT,
) -> Finished:
    """Return the finished model of ``candidate``; reads the test set once.

    The method, masked retraining, purification, removal of dead units, final retraining,
    quantisation where the candidate names bit widths, compaction. Arguments as for
    :func:`evaluate_round`.

    Raises:
        EvaluationError: Training diverged, or the compact model computes something else.
    """
    full = settings.full
    train, keeper = full.prune, keepers.open("prune")
    pruned, figures = prune_base(
        base, candidate, task, settings, train=train, seed=seed, keeper=keeper
    )
    loss, keeper = make_retrain_loss(task, teacher, settings), keepers.open("retrain")
    retrain_base_(pruned, task, full.retrain, loss=loss, seed=seed + 1, keeper=keeper)
    figures["retrained_val_metric"] = score_base(pruned, task).metric
    figures["retrained_weights"] = float(count_masks(pruned.graph, pruned.masks).weights)
    purified = shrink_base(purify_base(pruned, task, full.purify, seed=seed + 2))
    keeper = keepers.open("final")
    retrain_base_(purified, task, full.final, loss=loss, seed=seed + 3, keeper=keeper)
    bits = candidate.bits
    figures |= quantize_base_(purified, bits, task, full.quantize, loss=loss, seed=seed + 4)
    purified = drop_zeros(purified, bits)
    compact = compact_model(purified.model, purified.graph, purified.masks).eval()
    gap = measure_gap(purified.model, compact, task)
    if not gap <= EQUAL_WITHIN:
        raise EvaluationError(f"the compact model's outputs differ from the masked one's by {gap}")
    removed = count_removed(purified)
    metrics = {
        **figures,
        **describe_base(purified, task, bits),
        **read_test(compact, task),
        "compact_gap": gap,
        "speedup": measure_speedup(teacher.model.eval(), compact, take_batch(task, 64)),
        "macs": float(measure_macs(compact, task.example())),
        "weights": float(sum(p.numel() for p in compact.parameters() if p.ndim > 1) - removed),
        "params": float(sum(p.numel() for p in compact.parameters()) - removed),
    }
    return Finished(compact, purified, metrics)


def purify_base(base: Base, task: Task, settings: PurifySettings, *, seed: int) -> Base:
    """Return ``base`` with what purification removes masked; its model is not retrained."""
    work = base.copy()

    def measure(masks: Masks) -> float:
        trial = copy.deepcopy(base.model)
        apply_masks_(trial, parameter_masks(base.graph, masks, trial))
        reestimate_norms_(trial, task.data.train, batches=5, batch_size=256, seed=seed)
        metric = score_base(Base(trial, base.graph, masks), task).metric
        return metric if task.settings.metric_direction == "maximize" else -metric

    energies = measure_energies(work.graph, work.model)
    masks, _ = purify(work.graph, energies, work.masks, settings, measure=measure, seed=seed)
    return mask_base(work, masks)


def count_removed(base: Base) -> int:
    """Return the single weights removed within kept filters and columns: zeros of the model."""
    block = Masks(base.masks.units, base.masks.columns)
    return count_masks(base.graph, block).weights - count_masks(base.graph, base.masks).weights


def describe_base(base: Base, task: Task, bits: Mapping[str, int]) -> dict[str, float]:
    """Return validation scores and cost of ``base``, masked and once physically removed.

    Args:
        base: The model.
        task: Its validation split scores.
        bits: Bit widths by layer that ``coded_bytes`` counts.
    """
    scores = score_base(base, task)
    cost = count_masks(base.graph, base.masks, bits).list_known()
    nonzero = {
        layer.name: int((base.model.get_parameter(f"{layer.name}.weight") != 0).sum())
        for layer in base.graph.layers
    }
    return {
        "val_loss": scores.loss,
        "val_metric": scores.metric,
        "masked_weights": float(sum(nonzero.values())),
        "masked_macs": float(
            sum(nonzero[layer.name] * layer.positions for layer in base.graph.layers)
        ),
        **{name: float(count) for name, count in cost.items()},
    }


def read_test(model: nn.Module, task: Task) -> dict[str, float]:
    """Return loss and metric on the test set, and the standard error of an accuracy."""
    scores = score_model(model, task.data.open_test(), loss=task.loss, metric=task.metric)
    figures = {"test_loss": scores.loss, "test_metric": scores.metric}
    if task.settings.metric == "accuracy":
        spread = scores.metric * (1 - scores.metric) / scores.samples
        figures["test_se"] = math.sqrt(max(0.0, spread))
    return figures


def measure_speedup(dense: nn.Module, smaller: nn.Module, inputs: Tensor) -> float:
    """Return how many times faster ``smaller`` is, both as they are: not optimised.

    Args:
        dense: On the device of ``inputs``, in evaluation mode.
        smaller: Likewise.
        inputs: One batch, shape (samples, ...).
    """
    times = measure_models({"dense": dense, "smaller": smaller}, inputs, turns=9, warm_up=1)
    return compare_times(times["dense"], times["smaller"]).factor


def take_batch(task: Task, size: int) -> Tensor:
    """Return the first inputs of the validation split; at most ``size``."""
    return next(iter(task.data.validation.batches(size)))[0]


@torch.no_grad()
def measure_gap(first: nn.Module, second: nn.Module, task: Task) -> float:
    """Return the largest difference of outputs on a validation batch, over the largest output.

    In full float32: with TF32, cuDNN's default, two sums of the same terms differ by more than
    what this is to find.
    """
    inputs = take_batch(task, 256)
    with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
        wanted, given = first(inputs), second(inputs)
    return float((wanted - given).abs().max() / wanted.abs().max().clamp(min=1.0))
