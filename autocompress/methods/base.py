"""What a pruning method is given and what it returns."""

from dataclasses import dataclass
from typing import Protocol

from torch import nn

from autocompress.graph.layers import LayerGraph
from autocompress.jobs import Candidate
from autocompress.masks.mask import Masks
from autocompress.train.batches import Batches
from autocompress.train.checkpoint import Keeper
from autocompress.train.loop import TrainSettings
from autocompress.train.objective import BatchLoss


@dataclass(frozen=True, kw_only=True)
class Request:
    """Prune ``model`` to ``candidate``.

    Attributes:
        model: Trained in place; weights outside ``within`` are zero.
        graph: Its layers and coupling groups.
        within: What the earlier rounds left; nothing outside may come back.
        candidate: Counts to keep.
        source: Training samples.
        train: Epochs that the method may spend, optimiser and schedule.
        loss: Of (model, inputs, targets).
        seed: Of every draw.
        keeper: Keeps the training of the method, so that one that was killed goes on; None does
            not. The caller clears it once the masks are stored.
    """

    model: nn.Module
    graph: LayerGraph
    within: Masks
    candidate: Candidate
    source: Batches
    train: TrainSettings
    loss: BatchLoss
    seed: int
    keeper: Keeper | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a method returns.

    Attributes:
        masks: Closed masks with the counts that were asked for.
        figures: Flat figures about the run, such as ``admm_residual``.
    """

    masks: Masks
    figures: dict[str, float]


class Method(Protocol):
    """A way to choose what to keep."""

    def find_masks(self, request: Request) -> Found:
        """Return masks for ``request``; its model is trained, but not yet masked."""
        ...

    def count_samples(self, steps: int, batch_size: int) -> int:
        """Return the samples that :meth:`find_masks` sends through the network.

        A forward pass counts 1 per sample, a training pass, forward and backward, 3.

        Args:
            steps: Optimiser steps of ``Request.train``.
            batch_size: Samples of a step.
        """
        ...
