"""Kept weights come to a few levels: by ADMM or straight through, then share by share."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from autocompress.errors import SettingError
from autocompress.graph.layers import LayerGraph
from autocompress.masks.weights import keep_weights
from autocompress.methods.held import Held, name_parameters, read_weights
from autocompress.methods.steps import FreezePhase, QuantizeStep
from autocompress.methods.work import Work
from autocompress.quantize.levels import (
    Levels,
    assign_codes,
    decode_levels,
    project_levels,
)
from autocompress.train.admm import make_hooks, start_admm, without_dropout
from autocompress.train.loop import Hooks


def select_layers(names: tuple[str, ...], graph: LayerGraph) -> tuple[str, ...]:
    """Return the layers that a step names, in the order of the model.

    Raises:
        SettingError: A layer is unknown.
    """
    known = [layer.name for layer in graph.layers]
    ends = {known[0], known[-1]}
    groups = {"all": set(known), "outer": ends, "inner": set(known) - ends}
    wanted: set[str] = set()
    for name in names:
        if name not in groups and name not in known:
            raise SettingError(
                f"method.steps: no layer {name!r} in this model; want all, inner, outer or some "
                f"of {', '.join(known)}"
            )
        wanted |= groups.get(name, {name})
    return tuple(name for name in known if name in wanted)


def quantize_phase_(step: QuantizeStep, work: Work) -> tuple[Held, dict[str, float]]:
    """Train the model of ``work`` towards its levels; its weights are not yet held there.

    Raises:
        SettingError: The step names an unknown layer, or none that could still change.
    """
    names = [name for name in select_layers(step.layers, work.graph) if not _is_frozen(name, work)]
    if not names:
        raise SettingError(
            "method.steps: want a layer to quantise that is not held at its levels yet, got none "
            f"in {' '.join(step.layers)}"
        )
    if step.by == "one_shot":
        return work.held, {}
    if step.by == "straight_through":
        hidden = _HiddenWeights(names, step.levels, work)
        hooks = Hooks(
            on_gradient=lambda _: hidden.show_(),
            on_step=lambda _: hidden.hide_(),
            state_dict=lambda: dict(hidden.weights),
            load_state_dict=hidden.load,
        )
        hidden.hide_()
        work.train_(step.train, hooks)
        return work.held, {}

    def project(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: _project(one, name.removesuffix(".weight"), step.levels, work.held)
            for name, one in tensors.items()
        }

    state = start_admm(work.model, [f"{name}.weight" for name in names], project, step.admm)
    steps = work.count_steps(step.train)
    with without_dropout(work.model):
        work.train_(
            step.train, make_hooks(state, project, step.admm, train=step.train, steps=steps)
        )
    return work.held, state.describe()


def freeze_phase_(phase: FreezePhase, work: Work) -> tuple[Held, dict[str, float]]:
    """Hold the share of weights nearest to their levels there; retrain the others."""
    held, levels = work.held, phase.step.levels
    weights = read_weights(work.model, work.graph)
    frozen, scales = dict(held.frozen), dict(held.scales)
    for name in select_layers(phase.step.layers, work.graph):
        weight, kept = weights[name], held.masks[name]
        scales.setdefault(name, project_levels(weight, levels, kept=kept).scale)
        near = _round(weight, levels, scales[name])
        distance = (weight - near).abs().where(kept, torch.inf)
        if name in frozen:  # What is held stays where it is, of whatever levels it was.
            distance = distance.where(~frozen[name], -1.0)
        count = round(phase.share * int(kept.sum()))
        chosen = keep_weights(-distance, count)
        _set_(weight, near, chosen & ~frozen.get(name, torch.zeros_like(chosen)))
        frozen[name] = chosen
    held = Held(held.masks, frozen, scales)
    if phase.share < 1:
        replace(work, held=held).train_(phase.step.retrain)
        return held, {}
    return _drop_zeros(held, weights), {}


def _drop_zeros(held: Held, weights: Mapping[str, Tensor]) -> Held:
    """Return ``held`` with the frozen weights that came to the level 0 removed."""
    masks = {name: mask & (weights[name] != 0) for name, mask in held.masks.items()}
    frozen = {name: mask & masks[name] for name, mask in held.frozen.items()}
    return Held(masks, frozen, held.scales)


def _is_frozen(name: str, work: Work) -> bool:
    frozen = work.held.frozen.get(name)
    return frozen is not None and bool((frozen == work.held.masks[name]).all())


def _project(weight: Tensor, name: str, levels: Levels, held: Held) -> Tensor:
    return project_levels(weight, levels, kept=held.masks[name]).values


def _round(weight: Tensor, levels: Levels, scale: float) -> Tensor:
    """Return the levels of a known scale nearest to ``weight``."""
    codes = assign_codes(weight.float().abs(), levels, scale)
    return decode_levels(torch.where(weight < 0, -codes, codes), levels, scale).to(weight.dtype)


@torch.no_grad()
def _set_(weight: Tensor, values: Tensor, where: Tensor) -> None:
    weight.copy_(values.where(where, weight))


class _HiddenWeights:
    """Real weights that take the gradients of the model at its levels.

    Attributes:
        weights: By layer; the model itself holds their projections between two steps.
    """

    def __init__(self, names: list[str], levels: Levels, work: Work) -> None:
        self._shown = {
            name: one
            for name, one in name_parameters(work.model, work.graph).items()
            if name in names
        }
        self._levels, self._held = levels, work.held
        self.weights = {name: one.detach().clone() for name, one in self._shown.items()}

    @torch.no_grad()
    def show_(self) -> None:
        """Give the optimiser the real weights."""
        for name, one in self._shown.items():
            one.copy_(self.weights[name])

    @torch.no_grad()
    def hide_(self) -> None:
        """Take the real weights as the optimiser left them; the model holds their levels."""
        for name, one in self._shown.items():
            self.weights[name].copy_(one)
            one.copy_(_project(one.detach(), name, self._levels, self._held))

    def load(self, state: dict[str, Any]) -> None:
        """Go on from stored real weights."""
        for name, one in self.weights.items():
            one.copy_(state[name])
