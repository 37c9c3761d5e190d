"""Fewer weights: at once, gradually while training, or by ADMM."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from torch import Tensor

from autocompress.errors import SettingError
from autocompress.masks.weights import WeightMasks
from autocompress.methods.held import Grip, Held, read_weights
from autocompress.methods.sensitivity import Curvature, choose_weights, measure_curvature
from autocompress.methods.steps import PruneStep, lower_budget
from autocompress.methods.work import Work
from autocompress.train.admm import make_hooks, start_admm, without_dropout
from autocompress.train.batches import Epochs
from autocompress.train.loop import Hooks, chain_hooks

CURVATURE_BATCHES = 50  # Of the estimate that a step starts from; training goes on with it.

Choose = Callable[[Mapping[str, Tensor], int, WeightMasks], WeightMasks]


def prune_phase_(step: PruneStep, work: Work) -> tuple[Held, dict[str, float]]:
    """Prune the model of ``work`` in place; return what is held from here on, and figures.

    Raises:
        SettingError: The step names an unknown layer, or comes after levels.
    """
    if work.held.frozen:
        raise SettingError("method.steps: weights at their levels cannot be pruned; prune before")
    keep = find_budget(step, work)
    curvature = _start_curvature(step, work)

    def choose(weights: Mapping[str, Tensor], budget: int, within: WeightMasks) -> WeightMasks:
        return choose_weights(
            step, work.graph, weights, keep=budget, within=within, curvature=curvature
        )

    follow = Hooks() if curvature is None else _follow_curvature(curvature)
    masks, figures = work.held.masks, {}
    if step.by == "gradual":
        masks = _lower_gradually_(step, work, keep, choose, follow)
    elif step.by == "admm":
        figures = _pull_(step, work, keep, choose, follow)
    masks = choose(read_weights(work.model, work.graph), keep, masks)
    held = replace(work.held, masks=masks)
    Grip(work.model, work.graph, held).apply_()
    return held, figures


def find_budget(step: PruneStep, work: Work) -> int:
    """Return the weights that the whole model keeps: what is asked for, at most all there are.

    Raises:
        SettingError: A layer is unknown.
    """
    names = [layer.name for layer in work.graph.layers]
    unknown = [name for name in step.layers if name not in names]
    if unknown:
        raise SettingError(
            f"method.steps: no layer {unknown[0]!r} in this model; known: {', '.join(names)}"
        )
    there = {name: int(mask.sum()) for name, mask in work.held.masks.items()}
    if step.layers:
        return sum(min(step.layers.get(name, count), count) for name, count in there.items())
    return min(
        step.weights or max(1, round(step.density * work.dense_weights)), sum(there.values())
    )


def _start_curvature(step: PruneStep, work: Work) -> Curvature | None:
    if step.score != "curvature":
        return None
    size = step.train.batch_size
    count = min(CURVATURE_BATCHES, max(1, len(work.source) // size))
    batches = islice(Epochs(work.source, size, work.seed), count)
    return measure_curvature(work.model, work.graph, batches, work.loss)


def _follow_curvature(curvature: Curvature) -> Hooks:
    def load(state: dict[str, Any]) -> None:
        curvature.load(state)

    return Hooks(
        on_gradient=lambda step: curvature.add_gradient(),
        state_dict=lambda: dict(curvature.squares),
        load_state_dict=load,
    )


def _lower_gradually_(
    step: PruneStep, work: Work, keep: int, choose: Choose, follow: Hooks
) -> WeightMasks:
    """Train while the budget falls; return the masks at the end."""
    begin = work.held.count()
    steps = work.count_steps(step.train)
    masks = dict(work.held.masks)
    grip = Grip(work.model, work.graph, work.held)

    def on_step(number: int) -> None:
        nonlocal masks, grip
        progress = (number + 1) / max(1.0, steps * (1 - step.hold))
        if (number + 1) % step.every == 0 and sum(int(m.sum()) for m in masks.values()) > keep:
            budget = lower_budget(begin, keep, progress)
            masks = choose(read_weights(work.model, work.graph), budget, masks)
            grip = Grip(work.model, work.graph, replace(work.held, masks=masks))
        grip.apply_()

    def load(state: dict[str, Any]) -> None:
        nonlocal masks, grip
        masks = {name: state[name].to(one.device) for name, one in masks.items()}
        grip = Grip(work.model, work.graph, replace(work.held, masks=masks))

    lower = Hooks(on_step=on_step, state_dict=lambda: dict(masks), load_state_dict=load)
    work.train_(step.train, chain_hooks(follow, lower))
    return masks


def _pull_(
    step: PruneStep, work: Work, keep: int, choose: Choose, follow: Hooks
) -> dict[str, float]:
    """Train by ADMM towards the best ``keep`` weights; return the figures of its last update."""

    def project(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weights = {name.removesuffix(".weight"): one for name, one in tensors.items()}
        masks = choose(weights, keep, work.held.masks)
        return {f"{name}.weight": one * masks[name] for name, one in weights.items()}

    names = [f"{layer.name}.weight" for layer in work.graph.layers]
    state = start_admm(work.model, names, project, step.admm)
    steps = work.count_steps(step.train)
    hooks = make_hooks(state, project, step.admm, train=step.train, steps=steps)
    with without_dropout(work.model):
        work.train_(step.train, chain_hooks(follow, hooks))
    return state.describe()
