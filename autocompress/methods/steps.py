"""The steps of a progressive pipeline as settings (arXiv:1810.07378, arXiv:1903.09769).

Every step starts from what the one before left: zeros stay zero, and weights that are held at
their levels stay there.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from autocompress.errors import SettingError
from autocompress.quantize.levels import Levels
from autocompress.train.admm import AdmmSettings
from autocompress.train.loop import TrainSettings

Score = Literal["curvature", "lamp", "std", "magnitude"]


@dataclass(frozen=True, kw_only=True)
class PruneStep:
    """Bring the model to fewer weights.

    Attributes:
        do: ``prune``.
        weights: Kept weights of the whole model, biases not counted; 0 when ``density`` or
            ``layers`` says it.
        density: The same as a share of the dense model's weights, in (0, 1].
        layers: Kept weights by layer instead of one budget; layers not named keep what they have.
        by: ``gradual`` lowers the budget geometrically over the training and drops the weights
            of least score as it goes; ``admm`` pulls the weights to their projection; ``one_shot``
            drops them at once, without training.
        score: What makes weights of different layers comparable. ``curvature``: w^2 sqrt(E g^2),
            what a quadratic model of the loss says their removal costs (optimal brain damage)
            with Adam's diagonal for the curvature; ``lamp`` (arXiv:2010.07611); ``std``: over
            the layer's mean square; ``magnitude``.
        minimum: Fewest weights that a layer keeps.
        hold: Share of the training at its end, in [0, 1), over which ``gradual`` keeps the
            final budget.
        every: Optimiser steps between two choices of ``gradual``, 1 or more.
        train: Training of the step.
        admm: Penalty and updates of ``admm``.
    """

    do: Literal["prune"] = "prune"
    weights: int = 0
    density: float = 0.0
    layers: dict[str, int] = field(default_factory=dict)
    by: Literal["gradual", "admm", "one_shot"] = "admm"
    score: Score = "curvature"
    minimum: int = 1
    hold: float = 0.2
    every: int = 100
    train: TrainSettings = field(default_factory=lambda: TrainSettings(epochs=10))
    admm: AdmmSettings = field(default_factory=AdmmSettings)

    def __post_init__(self) -> None:
        given = [bool(self.weights), bool(self.density), bool(self.layers)]
        if sum(given) != 1:
            raise SettingError(
                "method.steps: a step that prunes wants one of weights, density and layers"
            )
        if self.weights < 0 or any(count < 1 for count in self.layers.values()):
            raise SettingError("method.steps: want 1 weight or more to be kept")
        if not 0 <= self.density <= 1:
            raise SettingError(f"method.steps: want a density in (0, 1], got {self.density}")
        if not 0 <= self.hold < 1 or self.every < 1 or self.minimum < 0:
            raise SettingError(
                "method.steps: want hold in [0, 1), every 1 or more and minimum 0 or more, got "
                f"{self.hold}, {self.every} and {self.minimum}"
            )


@dataclass(frozen=True, kw_only=True)
class RetrainStep:
    """Train what is left, with zeros and levels held.

    Attributes:
        do: ``retrain``.
        swap: Share of the kept weights, in [0, 1), that is exchanged at a time for removed ones
            of living units that promise more (arXiv:1911.11134); it falls to 0 by a cosine.
        swap_until: Share of the training, in (0, 1], in which weights are exchanged.
        every: Optimiser steps between two exchanges, 1 or more.
        train: Training of the step.
    """

    do: Literal["retrain"] = "retrain"
    swap: float = 0.0
    swap_until: float = 0.75
    every: int = 200
    train: TrainSettings = field(default_factory=lambda: TrainSettings(epochs=20))

    def __post_init__(self) -> None:
        if not 0 <= self.swap < 1 or not 0 < self.swap_until <= 1 or self.every < 1:
            raise SettingError(
                "method.steps: want swap in [0, 1), swap_until in (0, 1] and every 1 or more, got "
                f"{self.swap}, {self.swap_until} and {self.every}"
            )


@dataclass(frozen=True, kw_only=True)
class QuantizeStep:
    """Bring the kept weights of some layers to a few levels.

    Attributes:
        do: ``quantize``.
        levels: The levels; one scale for each layer.
        layers: Names of the layers, or ``all``, ``inner`` (all but the first and the last) or
            ``outer`` (those two).
        by: ``admm`` pulls the weights to their levels while they train; ``straight_through``
            runs forward and backward passes with the weights at their levels and applies the
            gradients to hidden real ones (arXiv:1511.00363); ``one_shot`` does not train.
        freeze: After that, shares of the weights in ascending order, in (0, 1): the so many
            nearest to their levels are held there and the others retrained, each time for
            ``retrain`` (arXiv:1702.03044). At the end of the step all are at their levels.
        train: Training of ``admm`` and ``straight_through``.
        retrain: Training after each share.
        admm: Penalty and updates of ``admm``.
    """

    do: Literal["quantize"] = "quantize"
    levels: Levels = field(default_factory=Levels)
    layers: tuple[str, ...] = ("all",)
    by: Literal["admm", "straight_through", "one_shot"] = "admm"
    freeze: tuple[float, ...] = ()
    train: TrainSettings = field(default_factory=lambda: TrainSettings(epochs=10))
    retrain: TrainSettings = field(default_factory=lambda: TrainSettings(epochs=2))
    admm: AdmmSettings = field(default_factory=AdmmSettings)

    def __post_init__(self) -> None:
        if not self.layers:
            raise SettingError('method.steps: want layers to quantise, such as ["all"], got none')
        ascending = list(self.freeze) == sorted(set(self.freeze))
        if not ascending or any(not 0 < share < 1 for share in self.freeze):
            raise SettingError(
                "method.steps: want the shares of freeze ascending and in (0, 1), got "
                f"{list(self.freeze)}"
            )
        if self.by == "straight_through" and (self.freeze or self.train.average):
            raise SettingError(
                'method.steps: by = "straight_through" leaves all weights at their levels: none '
                "is nearer than another for freeze, and their average is at no level; want "
                "neither"
            )


@dataclass(frozen=True, kw_only=True)
class FreezePhase:
    """One share of ``QuantizeStep.freeze``; settings do not name it.

    Attributes:
        step: The step that it belongs to.
        share: Weights held at their levels from here on, of all kept ones of each layer.
    """

    step: QuantizeStep
    share: float


Step = Annotated[PruneStep | RetrainStep | QuantizeStep, Field(discriminator="do")]
Phase = PruneStep | RetrainStep | QuantizeStep | FreezePhase


def expand_steps(steps: tuple[PruneStep | RetrainStep | QuantizeStep, ...]) -> tuple[Phase, ...]:
    """Return what is trained one after the other: each phase is one training at most."""
    phases: list[Phase] = []
    for step in steps:
        phases.append(step)
        if isinstance(step, QuantizeStep):
            phases += [FreezePhase(step=step, share=share) for share in step.freeze]
            # The last share is held without any training: a step that follows may retrain.
            phases += [FreezePhase(step=step, share=1.0)]
    return tuple(phases)


def check_order(steps: tuple[PruneStep | RetrainStep | QuantizeStep, ...]) -> None:
    """Refuse steps whose order cannot work, before hours are spent on the first ones.

    Raises:
        SettingError: A step prunes after one that quantises.
    """
    kinds = [step.do for step in steps]
    if "quantize" in kinds and "prune" in kinds[kinds.index("quantize") :]:
        raise SettingError(
            "method.steps: weights at their levels cannot be pruned; want the steps that prune "
            "before those that quantize"
        )


def lower_budget(begin: int, end: int, progress: float) -> int:
    """Return the budget on the way from ``begin`` to ``end``, geometric in ``progress``.

    Args:
        begin: Weights at the start.
        end: Weights at the end.
        progress: 0 at the start; from 1 on the budget is ``end``.
    """
    share = min(1.0, max(0.0, progress))
    if share >= 1 or end >= begin:
        return min(begin, end)
    return max(end, round(math.exp((1 - share) * math.log(begin) + share * math.log(end))))
