"""Exchange kept weights for better ones while training, at a fixed budget."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from autocompress.masks.paths import keep_live
from autocompress.masks.weights import WeightMasks, keep_weights
from autocompress.methods.held import Grip, Held, name_parameters, read_weights
from autocompress.methods.sensitivity import Curvature
from autocompress.methods.steps import RetrainStep
from autocompress.methods.work import Work
from autocompress.train.loop import Hooks

MEMORY = 0.9  # Of the mean gradient that says where a weight would help.


def swap_phase_(step: RetrainStep, work: Work) -> tuple[Held, dict[str, float]]:
    """Train while the least of the kept weights are given up for removed ones.

    What a removed weight would gain is (E g)^2 / sqrt(E g^2), the fall of the quadratic model of
    the loss that makes w^2 sqrt(E g^2) the cost of a kept one. The share that is exchanged falls
    to 0 by a cosine, after RigL (arXiv:1911.11134). Only units that live are connected.

    Returns:
        What is held from here on: at most as many weights as before, none on dead paths.
    """
    swaps = _Swaps(step, work)
    hooks = Hooks(
        on_gradient=lambda _: swaps.follow(),
        on_step=swaps.on_step,
        state_dict=swaps.state_dict,
        load_state_dict=swaps.load_state_dict,
    )
    free = replace(work, held=_open(work.held))
    free.train_(step.train, hooks)
    held = replace(work.held, masks=keep_live(work.graph, swaps.masks))
    Grip(work.model, work.graph, held).apply_()
    return held, {"swapped": float(swaps.swapped)}


def _open(held: Held) -> Held:
    """Return ``held`` with nothing removed: the swaps hold what is."""
    return replace(held, masks={name: torch.ones_like(one) for name, one in held.masks.items()})


class _Swaps:
    """The masks of a training, changed as it goes.

    Attributes:
        masks: Kept weights now.
        swapped: Weights exchanged so far.
    """

    def __init__(self, step: RetrainStep, work: Work) -> None:
        self._step, self._work = step, work
        self._steps = work.count_steps(step.train)
        self._parameters = name_parameters(work.model, work.graph)
        self._curvature = Curvature(work.model, work.graph)
        self._means = {name: torch.zeros_like(one) for name, one in self._parameters.items()}
        self.masks: WeightMasks = dict(work.held.masks)
        self.swapped = 0
        self._fixed = {name for name, one in work.held.frozen.items() if bool(one.any())}
        self._grip = Grip(work.model, work.graph, work.held)

    def follow(self) -> None:
        """Take the gradients as they are now into the means."""
        self._curvature.add_gradient()
        for name, one in self._parameters.items():
            if one.grad is not None:
                self._means[name].lerp_(one.grad, 1 - MEMORY)

    def on_step(self, number: int) -> None:
        """Swap when it is time, and zero what is removed."""
        progress = (number + 1) / (self._step.swap_until * self._steps)
        if (number + 1) % self._step.every == 0 and progress < 1:
            self._swap(self._step.swap * 0.5 * (1 + math.cos(math.pi * progress)))
        self._grip.apply_()

    def state_dict(self) -> dict[str, Any]:
        """Return masks, means and the count."""
        return {
            "masks": self.masks,
            "means": self._means,
            "squares": self._curvature.squares,
            "swapped": self.swapped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a stored state."""
        devices = {name: one.device for name, one in self.masks.items()}
        self.masks = {name: state["masks"][name].to(device) for name, device in devices.items()}
        self.swapped = int(state["swapped"])
        for name, one in self._means.items():
            one.copy_(state["means"][name])
        self._curvature.load(state["squares"])
        self._regrip()

    def _swap(self, share: float) -> None:
        weights = read_weights(self._work.model, self._work.graph)
        # A layer with weights at their levels stays as it is: a new weight would be at none.
        kept = {name: one for name, one in self.masks.items() if name not in self._fixed}
        removed = {name: ~one for name, one in kept.items()}
        count = min(
            round(share * sum(int(one.sum()) for one in kept.values())),
            sum(int(one.sum()) for one in removed.values()),
        )
        if not count:
            return
        costs = {name: one.square() for name, one in self._curvature.scale(weights).items()}
        gains = {
            name: mean.square() / self._curvature.squares[name].sqrt().clamp(min=1e-30)
            for name, mean in self._means.items()
        }
        dropped = _choose({name: -one for name, one in costs.items()}, kept, count)
        grown = _choose(gains, removed, count)
        changed = {name: (one & ~dropped[name]) | grown[name] for name, one in kept.items()}
        self.masks = {**self.masks, **changed}
        self.swapped += count
        self._regrip()

    def _regrip(self) -> None:
        held = replace(self._work.held, masks=self.masks)
        self._grip = Grip(self._work.model, self._work.graph, held)


def _choose(scores: Mapping[str, Tensor], among: WeightMasks, count: int) -> WeightMasks:
    """Return the ``count`` entries of highest score in all layers, of those in ``among``."""
    flat = torch.cat(
        [scores[name].where(one, -torch.inf).reshape(-1) for name, one in among.items()]
    )
    parts = keep_weights(flat, count).split([one.numel() for one in among.values()])
    return {
        name: part.reshape(one.shape)
        for (name, one), part in zip(among.items(), parts, strict=True)
    }
