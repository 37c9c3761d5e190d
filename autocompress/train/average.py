"""The exponential moving average of a model's parameters over the steps of a training."""

from typing import Any

import torch
from torch import Tensor, nn


class Average:
    """Follows the parameters of a model at every step and gives it their mean in the end.

    Source: Polyak and Juditsky's averaging in its exponential form; the decay grows from 0.1 as
    ``min(decay, (1 + step) / (10 + step))``, so that a short training forgets where it began.

    Attributes:
        decay: Weight of the mean so far, 0 or more and below 1; with 0 nothing is done.
        means: Of the floating point parameters, in their order; float32 or wider.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        values = model.parameters() if decay else ()
        self.decay = decay
        self._values = [value for value in values if value.is_floating_point()]
        self.means = [_widen(value.detach()).clone() for value in self._values]

    @torch.no_grad()
    def take_(self, step: int) -> None:
        """Move the means towards the parameters as they are after ``step``, from 0."""
        if self._values:
            decay = min(self.decay, (1 + step) / (10 + step))
            values = [_widen(value.detach()) for value in self._values]
            torch._foreach_lerp_(self.means, values, 1 - decay)

    @torch.no_grad()
    def give_(self) -> None:
        """Set the parameters to their means."""
        for value, mean in zip(self._values, self.means, strict=True):
            value.copy_(mean)

    def state_dict(self) -> dict[str, Any]:
        """Return the means, in shared memory."""
        return {"means": self.means}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Set the means to those of :meth:`state_dict`."""
        for mean, stored in zip(self.means, state["means"], strict=True):
            mean.copy_(stored)


def _widen(value: Tensor) -> Tensor:
    """Return ``value`` in float32 when it is narrower: bfloat16 would round small moves away."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
