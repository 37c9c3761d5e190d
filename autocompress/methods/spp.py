"""Structured Probabilistic Pruning: groups are left out at random, ever more surely."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.errors import SettingError
from autocompress.graph.layers import LayerGraph
from autocompress.masks.cost import is_depthwise
from autocompress.masks.mask import (
    Masks,
    apply_masks_,
    close_masks,
    kept_rows,
    parameter_masks,
)
from autocompress.masks.project import column_units, measure_energies, rank_masks, score_units
from autocompress.methods.base import Found, Request
from autocompress.methods.chances import Chances
from autocompress.train.effort import TRAINING
from autocompress.train.loop import Hooks, count_steps, train_model_

MOST_UPDATES = 300
# Updates times step: with fewer the curve does not bring the last groups to 1 in time.
_ENOUGH = 7.5


@dataclass(frozen=True, kw_only=True)
class SppSettings:
    """The curve by which probabilities change, and when they do.

    Attributes:
        step: A, the change at rank 0, in (0, 1]; larger where so few updates fit into the
            training that this would not bring the groups to 1.
        share: u, in (0, 1): the curve turns where it has fallen to this share of ``step``.
        every: Optimiser steps between two updates at most, 1 or more.
        updates: Updates that are wanted, 1 or more: in short trainings they are closer.
        hold: Share of the training at its end, in [0, 1), with masks that change no more.
    """

    step: float = 0.05
    share: float = 0.25
    every: int = 180
    updates: int = 120
    hold: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.step <= 1 or not 0 < self.share < 1 or not 0 <= self.hold < 1:
            raise SettingError(
                "method.spp: want step in (0, 1], share in (0, 1) and hold in [0, 1), got "
                f"{self.step}, {self.share} and {self.hold}"
            )
        for key in ("every", "updates"):
            if getattr(self, key) < 1:
                raise SettingError(f"method.spp.{key}: want 1 or more, got {getattr(self, key)}")


@dataclass(frozen=True)
class Timing:
    """When probabilities change in one training.

    Attributes:
        every: Optimiser steps from one update to the next.
        updates: How many there are at most; the last one decides what is still random.
        step: A, the change at rank 0.
    """

    every: int
    updates: int
    step: float


def plan_updates(settings: SppSettings, steps: int) -> Timing:
    """Return when probabilities change in a training of so many optimiser steps."""
    moving = max(1, steps - round(settings.hold * steps))
    every = min(settings.every, max(1, moving // settings.updates))
    updates = min(MOST_UPDATES, moving // every)
    return Timing(every, updates, min(1.0, max(settings.step, _ENOUGH / updates)))


@dataclass(frozen=True, kw_only=True)
class Spp:
    """Structured Probabilistic Pruning (Wang et al., arXiv:1709.06994).

    Each unit (its filters in all layers and the columns that read it) and each column has a
    probability p of being left out of an optimiser step; a weight left out is not updated, and
    takes part again when it is drawn next. Every so many steps groups with small mean L1 norm
    rise and others fall, so that one that was ranked wrongly recovers. A group that reaches p = 1
    is gone for good. When as many are gone as the candidate asks for, or at the hard stop, where
    those of largest p go, the masks are frozen and the rest of the training is masked
    retraining. That also brings statistics of batch norms back, which the draws disturb.

    While a weight is left out its gradient is 0, so its momentum fades; neither that nor weight
    decay changes it.

    Attributes:
        settings: The curve and its timing.
    """

    settings: SppSettings = field(default_factory=SppSettings)

    def find_masks(self, request: Request) -> Found:
        """Return what was never surely left out; removed weights keep their last values."""
        graph, model = request.graph, request.model
        steps = count_steps(request.source, request.train)
        bounds = close_masks(graph, request.within)
        held = parameter_masks(graph, bounds, model)
        run = _Run(
            replace(request, within=bounds), plan_updates(self.settings, steps), self.settings
        )

        def loss(trained: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            run.hide_()
            return request.loss(trained, inputs, targets)

        def on_step(step: int) -> None:
            run.show_()
            apply_masks_(model, held)
            run.update(step)

        train_model_(
            model,
            request.source,
            request.train,
            loss=loss,
            seed=request.seed,
            hooks=Hooks(
                on_gradient=lambda step: run.stop_gradients_(),
                on_step=on_step,
                state_dict=run.state_dict,
                load_state_dict=run.load_state_dict,
            ),
            keeper=request.keeper,
        )
        return Found(masks=run.choose(), figures=run.describe())

    def count_samples(self, steps: int, batch_size: int) -> int:
        """Return three passes for each sample of each step."""
        return TRAINING * steps * batch_size


class _Run:
    """One training: probabilities, draws, and what of the model is left out now."""

    def __init__(self, request: Request, timing: Timing, settings: SppSettings) -> None:
        self._request, self._timing, self._settings = request, timing, settings
        self._chances = Chances(request.graph, request.within, request.candidate)
        drawn = np.random.SeedSequence(request.seed, spawn_key=(1,)).generate_state(1)
        self._generator = torch.Generator().manual_seed(int(drawn[0]))
        self._cover = Cover(request.model, request.graph)
        self._frozen, self._random = False, 0.0

    def hide_(self) -> None:
        """Draw what is left out of this step and zero it."""
        self._cover.hide_(self._chances.draw(self._generator))

    def stop_gradients_(self) -> None:
        """Zero the gradients of what is left out."""
        self._cover.stop_gradients_()

    def show_(self) -> None:
        """Put the values of what was left out back."""
        self._cover.show_()

    def update(self, step: int) -> None:
        """Change the probabilities when that is due after ``step``; freeze them in the end."""
        timing, chances = self._timing, self._chances
        if self._frozen or (step + 1) % timing.every:
            return
        chances.update(self._measure(), step=timing.step, share=self._settings.share)
        if chances.done or chances.updates >= timing.updates:
            self._random = chances.random
            chances.freeze(self.choose())
            self._frozen = True

    def choose(self) -> Masks:
        """Return the counts of the candidate, of what is left out most surely first."""
        graph, model, candidate = self._request.graph, self._request.model, self._request.candidate
        if not self._chances.updates:
            self._chances.means = self._measure().double()
        weights = measure_energies(graph, model) if candidate.weights else {}
        scores = replace(self._chances.rank(), weights=weights)
        return rank_masks(graph, scores, candidate, within=self._request.within)

    def describe(self) -> dict[str, float]:
        """Return the figures of the run."""
        return {
            "spp_updates": float(self._chances.updates),
            "spp_recovered": self._chances.recovery,
            "spp_random": self._random,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return all that goes from step to step; between steps no value is hidden."""
        return {
            "chances": self._chances.state_dict(),
            "generator": self._generator.get_state(),
            "frozen": self._frozen,
            "random": self._random,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a stored state."""
        self._chances.load_state_dict(state["chances"])
        self._generator.set_state(state["generator"])
        self._frozen, self._random = state["frozen"], state["random"]

    def _measure(self) -> Tensor:
        """Return the L1 norms of all groups, of what is not gone."""
        graph, masks = self._request.graph, self._chances.masks()
        sizes = measure_energies(graph, self._request.model, norm=1)
        columns = [
            (sizes[layer.name] * kept_rows(masks, layer)[:, None]).sum(0).double()
            for layer in graph.column_layers
        ]
        return torch.cat([score_units(graph, sizes, masks), *columns])


@dataclass(frozen=True)
class _Place:
    """Where a parameter stands among the groups.

    Attributes:
        parameter: Of the model.
        rows: The group of each entry along its first axis.
        columns: The group of each column; None where rows alone count.
    """

    parameter: nn.Parameter
    rows: Tensor
    columns: Tensor | None


class Cover:
    """Takes groups out of a model for one step, without losing the values of its weights."""

    def __init__(self, model: nn.Module, graph: LayerGraph) -> None:
        parameters = dict(model.named_parameters())
        device = next(iter(parameters.values())).device
        groups = graph.units + sum(layer.columns for layer in graph.column_layers)
        self._places: list[_Place] = []
        self._hidden: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        self._device = device

        def add(name: str, rows: Tensor, columns: Tensor | None = None) -> None:
            if name in parameters:
                rows = rows.where(rows >= 0, groups).to(device)  # Never left out.
                self._places.append(_Place(parameters[name], rows, columns))

        start = graph.units
        for layer in graph.layers:
            rows = torch.tensor(layer.out_units)
            columns = None
            if layer.groups == 1:
                columns = torch.arange(start, start + layer.columns, device=device)
                start += layer.columns
            elif not is_depthwise(layer):
                reads = column_units(layer)
                columns = reads.where(reads >= 0, groups).to(device)
            add(f"{layer.name}.weight", rows, columns)
            add(f"{layer.name}.bias", rows)
        for norm in graph.norms:
            for part in ("weight", "bias"):
                add(f"{norm.name}.{part}", torch.tensor(norm.units))

    @torch.no_grad()
    def hide_(self, kept: Tensor) -> None:
        """Zero the groups that are not ``kept``, shape (groups,), and remember their values."""
        kept = torch.cat([kept, torch.ones(1, dtype=torch.bool)]).to(self._device)
        self._hidden = []
        for place in self._places:
            value, mask = place.parameter, kept[place.rows]
            if place.columns is not None:
                mask = mask[:, None] & kept[place.columns]
            elif value.ndim > 1:
                mask = mask.reshape(-1, *[1] * (value.ndim - 1)).expand(value.shape)
            mask = mask.reshape(value.shape)
            self._hidden.append((value, mask, value.detach().clone()))
            value.masked_fill_(~mask, 0.0)

    @torch.no_grad()
    def stop_gradients_(self) -> None:
        """Zero the gradients of what is hidden."""
        for value, mask, _ in self._hidden:
            if value.grad is not None:
                value.grad.masked_fill_(~mask, 0.0)

    @torch.no_grad()
    def show_(self) -> None:
        """Give what is hidden its values back."""
        for value, mask, before in self._hidden:
            value.copy_(value.where(mask, before))
        self._hidden = []
