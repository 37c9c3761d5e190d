"""What a phase of a pipeline is given."""

from dataclasses import dataclass

from torch import nn

from autocompress.graph.layers import LayerGraph
from autocompress.methods.held import Grip, Held
from autocompress.train.batches import Batches
from autocompress.train.checkpoint import Keeper
from autocompress.train.loop import Hooks, TrainSettings, chain_hooks, count_steps, train_model_
from autocompress.train.objective import BatchLoss


@dataclass(frozen=True, kw_only=True)
class Work:
    """A model in the middle of a pipeline, and what it is trained with.

    Attributes:
        model: Trained in place.
        graph: Its layers.
        held: What the phases before left.
        dense_weights: Weights of the dense model, of which densities are shares.
        source: Training samples.
        loss: Of (model, inputs, targets).
        seed: Of every draw of the phase.
        keeper: Where a training that is cut off goes on; None to start anew.
    """

    model: nn.Module
    graph: LayerGraph
    held: Held
    dense_weights: int
    source: Batches
    loss: BatchLoss
    seed: int
    keeper: Keeper | None = None

    def train_(self, settings: TrainSettings, hooks: Hooks | None = None) -> None:
        """Train the model, ``held`` put back after every step and at the end."""
        grip = Grip(self.model, self.graph, self.held)
        hold = Hooks(on_step=lambda step: grip.apply_())
        train_model_(
            self.model,
            self.source,
            settings,
            loss=self.loss,
            seed=self.seed,
            hooks=chain_hooks(hooks, hold) if hooks else hold,
            keeper=self.keeper,
        )
        grip.apply_()  # A mean over steps remembers what is removed by now.

    def count_steps(self, settings: TrainSettings) -> int:
        """Return the optimiser steps of a training."""
        return count_steps(self.source, settings)
