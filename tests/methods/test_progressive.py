"""Phases of a pipeline on a small convolutional net."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from autocompress.data.settings import DataSettings
from autocompress.errors import SettingError
from autocompress.evaluate.stage import begin_stage
from autocompress.evaluate.task import Task, TaskSettings, open_task
from autocompress.masks.paths import keep_live
from autocompress.methods.held import Held, read_weights
from autocompress.methods.lower import find_budget
from autocompress.methods.progressive import run_phase_
from autocompress.methods.sensitivity import choose_weights
from autocompress.methods.settle import select_layers
from autocompress.methods.steps import FreezePhase, Phase, PruneStep, QuantizeStep, RetrainStep
from autocompress.methods.work import Work
from autocompress.quantize.levels import Levels, project_levels
from autocompress.train.admm import AdmmSettings
from autocompress.train.loop import TrainSettings
from autocompress.train.objective import make_task_loss

SHORT = TrainSettings(epochs=2, batch_size=32, learning_rate=1e-2)
ADMM = AdmmSettings(updates=4)


@pytest.fixture(scope="module")
def task() -> Task:
    return open_task(TaskSettings(data=DataSettings(train_limit=256), device="cpu"))


def make_work(task: Task, held: Held | None = None, model: nn.Module | None = None) -> Work:
    stage = begin_stage(model or task.make_model(), task)
    return Work(
        model=stage.model,
        graph=stage.graph,
        held=held or stage.held,
        dense_weights=sum(layer.weights for layer in stage.graph.layers),
        source=task.data.train,
        loss=make_task_loss(task.loss),
        seed=3,
    )


def count_nonzero(work: Work) -> int:
    return sum(int((one != 0).sum()) for one in read_weights(work.model, work.graph).values())


def run(work: Work, phase: Phase) -> Work:
    """Return the work after ``phase``; its model is the same."""
    return replace(work, held=run_phase_(phase, work)[0])


@pytest.mark.parametrize("by", ["one_shot", "gradual", "admm"])
@pytest.mark.parametrize("score", ["curvature", "lamp"])
def test_a_prune_step_keeps_its_budget_of_living_weights(task: Task, by: str, score: str) -> None:
    work = make_work(task)
    step = PruneStep(weights=500, by=by, score=score, every=3, train=SHORT, admm=ADMM)  # type: ignore[arg-type]

    done = run(work, step)

    assert done.held.count() == 500
    assert count_nonzero(done) <= 500
    alive = keep_live(done.graph, done.held.masks)
    assert all(torch.equal(alive[name], mask) for name, mask in done.held.masks.items())


def test_budgets_by_layer_and_by_density_are_met(task: Task) -> None:
    work = make_work(task)
    names = [layer.name for layer in work.graph.layers]

    by_layer = run(work, PruneStep(layers={names[0]: 20, names[-1]: 33}, by="one_shot"))
    dense = by_layer.dense_weights
    sparse = run(by_layer, PruneStep(density=0.1, by="one_shot"))

    assert int(by_layer.held.masks[names[0]].sum()) == 20
    assert int(by_layer.held.masks[names[-1]].sum()) == 33
    assert bool(by_layer.held.masks[names[1]].all())
    assert sparse.held.count() == round(0.1 * dense)


def test_counts_by_layer_are_reached_along_a_falling_budget(task: Task) -> None:
    work = make_work(task)
    layers = {layer.name: 50 for layer in work.graph.layers[1:]}
    step = PruneStep(layers=layers, by="gradual", score="magnitude")
    weights, masks = read_weights(work.model, work.graph), work.held.masks
    end = find_budget(step, work)

    for keep in (20_000, 5_000, 5_000, 1_000, end):
        before = masks
        masks = choose_weights(step, work.graph, weights, keep=keep, within=before, curvature=None)
        # Each of the layers is rounded to whole weights.
        assert abs(sum(int(one.sum()) for one in masks.values()) - keep) <= len(masks)
        assert not any(bool((masks[name] & ~one).any()) for name, one in before.items())

    assert {name: int(masks[name].sum()) for name in layers} == layers
    assert bool(masks[work.graph.layers[0].name].all())


@pytest.mark.parametrize("channels_last", [False, True])
def test_zeros_stay_zero_in_every_later_phase(task: Task, channels_last: bool) -> None:
    work = run(make_work(task), PruneStep(density=0.2, by="one_shot"))
    train = replace(SHORT, channels_last=channels_last)
    before = work.held.masks
    phases: list[Phase] = [
        RetrainStep(train=replace(train, average=0.9, momentum=0.9)),
        PruneStep(density=0.1, by="admm", train=train, admm=ADMM),
        QuantizeStep(levels=Levels(bits=3), train=train, admm=ADMM),
        QuantizeStep(levels=Levels(kind="ternary"), by="straight_through", train=train),
        FreezePhase(step=QuantizeStep(levels=Levels(bits=3), retrain=train), share=0.4),
    ]

    for phase in phases:
        work = run(replace(work, model=copy.deepcopy(work.model)), phase)
        for name, weight in read_weights(work.model, work.graph).items():
            assert not weight[~before[name]].any()
            assert not weight[~work.held.masks[name]].any()


@pytest.mark.parametrize("by", ["admm", "straight_through"])
@pytest.mark.parametrize("kind", ["equal_distance", "powers_of_two", "ternary", "binary"])
def test_all_weights_end_on_the_levels_of_one_scale(task: Task, kind: str, by: str) -> None:
    levels = Levels(kind=kind, bits=3)  # type: ignore[arg-type]
    step = QuantizeStep(levels=levels, train=SHORT, retrain=SHORT, admm=ADMM)
    step = replace(step, by=by)  # type: ignore[arg-type]
    work = run(make_work(task), step)
    for share in (0.5, 1.0):
        work = run(work, FreezePhase(step=step, share=share))

    held = {name: one.clone() for name, one in read_weights(work.model, work.graph).items()}
    biases = work.model.get_parameter(f"{work.graph.layers[-1].name}.bias").detach().clone()
    work = run(work, RetrainStep(train=SHORT))

    for name, weight in read_weights(work.model, work.graph).items():
        kept = work.held.masks[name]
        assert torch.equal(weight, held[name])
        assert torch.equal(project_levels(weight, levels, kept=kept).values, weight)
        assert 1 < len(weight[kept].unique()) <= 2 * len(levels.positive)
        assert bool((weight[kept] != 0).all())
    assert not torch.equal(work.model.get_parameter(f"{work.graph.layers[-1].name}.bias"), biases)


def test_held_weights_do_not_move_while_others_are_retrained(task: Task) -> None:
    step = QuantizeStep(levels=Levels(bits=4), train=SHORT, retrain=SHORT, admm=ADMM)
    work = run(make_work(task), step)
    half = run(work, FreezePhase(step=step, share=0.5))
    before = {name: one.clone() for name, one in read_weights(half.model, half.graph).items()}

    run(half, RetrainStep(train=SHORT))

    for name, weight in read_weights(half.model, half.graph).items():
        frozen = half.held.frozen[name]
        assert int(frozen.sum()) == round(0.5 * weight.numel())
        assert torch.equal(weight[frozen], before[name][frozen])
        assert not torch.equal(weight[~frozen], before[name][~frozen])


def test_the_weights_nearest_to_their_levels_are_held_first(task: Task) -> None:
    work = make_work(task)
    step = QuantizeStep(levels=Levels(bits=3), retrain=replace(SHORT, epochs=0.01))
    name = work.graph.layers[1].name
    weight = read_weights(work.model, work.graph)[name].clone()
    levels = project_levels(weight, step.levels).values

    held, _ = run_phase_(FreezePhase(step=step, share=0.3), work)

    distance = (weight - levels).abs()
    frozen = held.frozen[name]
    assert float(distance[frozen].max()) <= float(distance[~frozen].min())


def test_groups_of_layers_are_named(task: Task) -> None:
    graph = make_work(task).graph
    names = tuple(layer.name for layer in graph.layers)

    assert select_layers(("all",), graph) == names
    assert select_layers(("inner",), graph) == names[1:-1]
    assert select_layers(("outer",), graph) == (names[0], names[-1])
    assert select_layers((names[2], names[1]), graph) == names[1:3]
    with pytest.raises(SettingError, match="no layer 'conv9' in this model"):
        select_layers(("conv9",), graph)


def test_what_is_at_its_levels_is_not_pruned(task: Task) -> None:
    work = run(make_work(task), FreezePhase(step=QuantizeStep(), share=1.0))

    with pytest.raises(SettingError, match="cannot be pruned"):
        run_phase_(PruneStep(weights=100, by="one_shot"), work)


def test_weights_are_swapped_for_others_at_the_same_budget(task: Task) -> None:
    work = run(make_work(task), PruneStep(weights=800, by="one_shot"))
    before = work.held.masks
    step = RetrainStep(swap=0.2, every=3, train=replace(SHORT, channels_last=True))

    held, figures = run_phase_(step, work)

    turned = sum(int((held.masks[name] & ~one).sum()) for name, one in before.items())
    assert 0 < turned <= figures["swapped"]
    assert 700 < held.count() <= 800
    alive = keep_live(work.graph, held.masks)
    for name, weight in read_weights(work.model, work.graph).items():
        assert torch.equal(alive[name], held.masks[name])
        assert not weight[~held.masks[name]].any()


def test_what_is_at_its_levels_is_not_swapped(task: Task) -> None:
    step = QuantizeStep(levels=Levels(bits=3), layers=("inner",))
    work = run(make_work(task), PruneStep(density=0.3, by="one_shot"))
    work = run(work, FreezePhase(step=step, share=1.0))
    before = {name: one.clone() for name, one in read_weights(work.model, work.graph).items()}

    done = run(work, RetrainStep(swap=0.3, every=2, train=SHORT))

    for name, frozen in work.held.frozen.items():
        after = read_weights(done.model, done.graph)[name]
        alive = done.held.masks[name]
        assert torch.equal(after[frozen & alive], before[name][frozen & alive])
        assert not bool((alive & ~frozen).any())  # A new weight would be at no level.
    others = [name for name in work.held.masks if name not in work.held.frozen]
    assert any(bool((done.held.masks[n] & ~work.held.masks[n]).any()) for n in others)


def test_levels_that_are_held_are_not_asked_for_again(task: Task) -> None:
    step = QuantizeStep(levels=Levels(bits=8), by="one_shot")
    work = run(run(make_work(task), step), FreezePhase(step=step, share=1.0))

    with pytest.raises(SettingError, match="not held at its levels yet, got none in all"):
        run(work, replace(step, levels=Levels(bits=4)))
