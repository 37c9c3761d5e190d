"""Laws that every method of the list obeys."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from autocompress.jobs import Candidate
from autocompress.masks.mask import (
    Masks,
    apply_masks_,
    block_mask,
    close_masks,
    count_kept,
    open_columns,
    parameter_masks,
    weight_mask,
)
from autocompress.methods.base import Found
from autocompress.methods.choose import METHODS, MethodName, MethodSettings, make_method
from autocompress.methods.group_lasso import GroupLassoSettings
from autocompress.methods.spp import SppSettings
from autocompress.methods.taylor import TaylorSettings
from autocompress.train.admm import AdmmSettings
from autocompress.train.checkpoint import Keeper, name_tensors
from autocompress.train.loop import TrainSettings, count_steps
from tests.asked import CANDIDATES, TRAIN, KilledError, Loss, Noise, ask, keep_once
from tests.hand_made import MAKERS, HandMade, draw_masks

NAMES: tuple[MethodName, ...] = get_args(MethodName)
TRAINED: tuple[MethodName, ...] = ("admm", "group_lasso", "spp")

each_method = pytest.mark.parametrize("method", NAMES)
each_trained = pytest.mark.parametrize("method", TRAINED)


@dataclass
class Case:
    """A method, what it is asked, and the model it works on."""

    method: MethodName
    net: str = "sequential"
    seed: int = 0
    train: TrainSettings = TRAIN
    within: Masks | None = None
    candidate: Candidate | None = None
    loss: Loss = field(default_factory=Loss)
    made: HandMade = field(init=False)

    def __post_init__(self) -> None:
        self.made = MAKERS["sequential" if self.net == "fine" else self.net]()
        self.candidate = self.candidate or CANDIDATES[self.net]

    def find(self, keeper: Keeper | None = None) -> Found:
        assert self.candidate is not None
        settings = MethodSettings(
            name=self.method,
            admm=AdmmSettings(rho_first=30.0, rho_last=30.0, updates=4),
            taylor=TaylorSettings(batches=3),
            group_lasso=GroupLassoSettings(updates=5),
            spp=SppSettings(updates=15),
        )
        request = replace(
            ask(self.made, self.candidate, seed=self.seed),
            train=self.train,
            loss=self.loss,
            keeper=keeper,
        )
        if self.within is not None:
            request = replace(request, within=self.within)
        return make_method(settings).find_masks(request)


def same_masks(one: Masks, other: Masks) -> bool:
    assert one.columns.keys() == other.columns.keys()
    assert one.weights.keys() == other.weights.keys()
    return (
        torch.equal(one.units, other.units)
        and all(torch.equal(one.columns[name], kept) for name, kept in other.columns.items())
        and all(torch.equal(one.weights[name], kept) for name, kept in other.weights.items())
    )


def same_model(one: nn.Module, other: nn.Module) -> bool:
    pair = name_tensors(one), name_tensors(other)
    return all(torch.equal(value, pair[1][name]) for name, value in pair[0].items())


def test_all_names_of_the_settings_are_methods() -> None:
    assert set(METHODS) == set(NAMES)


@pytest.mark.parametrize("epochs", [0.0, 2.0])
@pytest.mark.parametrize("net", CANDIDATES)
@each_method
def test_masks_are_closed_and_keep_exactly_what_was_asked(
    method: MethodName, net: str, epochs: float
) -> None:
    case = Case(method, net, train=replace(TRAIN, epochs=epochs))

    masks = case.find().masks

    assert count_kept(case.made.graph, masks) == CANDIDATES[net]
    assert same_masks(close_masks(case.made.graph, masks), masks)


@pytest.mark.parametrize("net", MAKERS)
@pytest.mark.parametrize("seed", range(2))
@each_method
def test_nothing_comes_back_and_counts_are_exact_within_any_masks(
    method: MethodName, seed: int, net: str
) -> None:
    graph = MAKERS[net]().graph
    bounds = draw_masks(graph, seed, 0.8)
    filters = {one.name: max(1, one.size - 1 - seed % 2) for one in graph.groups if one.prunable}
    columns = {one.name: max(1, one.columns // (2 + seed)) for one in graph.column_layers}
    candidate = Candidate(filters=filters, columns=columns)
    case = Case(method, net, seed, within=bounds, candidate=candidate)
    apply_masks_(case.made.model, parameter_masks(graph, bounds, case.made.model))
    dead = {
        layer.name: ~weight_mask(bounds, layer).reshape(
            case.made.model.get_parameter(f"{layer.name}.weight").shape
        )
        for layer in graph.layers
    }

    masks = case.find().masks

    for group in (one for one in graph.groups if one.prunable):
        span = slice(group.start, group.start + group.size)
        there = int(bounds.units[span].sum())
        assert int(masks.units[span].sum()) == min(filters[group.name], there)
    for layer in graph.column_layers:
        opened = int((bounds.columns[layer.name] & open_columns(masks, layer)).sum())
        assert int(masks.columns[layer.name].sum()) == min(columns[layer.name], opened)
    for layer in graph.layers:
        assert not (weight_mask(masks, layer) & ~weight_mask(bounds, layer)).any()
        weight = case.made.model.get_parameter(f"{layer.name}.weight").detach()
        assert not weight[dead[layer.name]].any()
    assert same_masks(close_masks(graph, masks), masks)


@each_method
def test_single_weights_lie_within_filters_and_columns_and_stay_away(method: MethodName) -> None:
    first = Case(method, "fine")
    found = first.find().masks
    apply_masks_(first.made.model, parameter_masks(first.made.graph, found, first.made.model))
    again = Case(method, "fine", within=found, candidate=replace(CANDIDATES["fine"], weights={}))
    again.made = first.made

    masks = again.find().masks

    assert count_kept(again.made.graph, masks) == CANDIDATES["fine"]
    for name, kept in found.weights.items():
        assert not (kept & ~block_mask(found, again.made.graph.by_name[name])).any()
        weight = again.made.model.get_parameter(f"{name}.weight").detach().flatten(1)
        assert not weight[~kept].any()


@each_method
def test_the_same_seed_gives_the_same_result(method: MethodName) -> None:
    cases = [Case(method, seed=5), Case(method, seed=5)]

    found = [case.find() for case in cases]

    assert same_masks(found[0].masks, found[1].masks)
    assert found[0].figures == found[1].figures
    assert same_model(cases[0].made.model, cases[1].made.model)


@pytest.mark.parametrize("method", [*TRAINED, "taylor"])
def test_another_seed_gives_another_result(method: MethodName) -> None:
    cases = [Case(method, seed=seed) for seed in (5, 6)]

    found = [case.find() for case in cases]

    assert not same_masks(found[0].masks, found[1].masks) or not same_model(
        cases[0].made.model, cases[1].made.model
    )


@each_method
def test_no_epochs_leave_the_model_as_it_was(method: MethodName) -> None:
    case = Case(method, train=replace(TRAIN, epochs=0))
    before = copy.deepcopy(case.made.model.train())

    case.find()

    assert same_model(before, case.made.model)
    assert not case.made.model.training


@pytest.mark.parametrize("method", ["magnitude", "taylor"])
def test_what_does_not_train_leaves_the_model_as_it_was(method: MethodName) -> None:
    case = Case(method)
    before = copy.deepcopy(case.made.model)

    case.find()

    assert same_model(before, case.made.model)
    assert all(one.grad is None for one in case.made.model.parameters())


@pytest.mark.parametrize("method", ["admm", "spp"])
def test_what_is_removed_keeps_its_weights_until_it_is_masked(method: MethodName) -> None:
    case = Case(method)

    masks = case.find().masks

    removed = ~weight_mask(masks, case.made.graph.by_name["3"])
    weight = case.made.model.get_parameter("3.weight").detach().flatten(1)
    assert (weight[removed] != 0).double().mean() > 0.99


@each_method
def test_the_callers_draws_go_on_as_if_nothing_had_been(method: MethodName) -> None:
    state = torch.get_rng_state()

    Case(method).find()

    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("epochs", [0.0, 2.0])
@each_method
def test_as_many_samples_go_through_the_network_as_it_says(
    method: MethodName, epochs: float
) -> None:
    case = Case(method, train=replace(TRAIN, epochs=epochs))
    steps = count_steps(Noise(), case.train)
    made = make_method(MethodSettings(name=method, taylor=TaylorSettings(batches=3)))

    case.find()

    assert made.count_samples(steps, case.train.batch_size) == 3 * case.loss.samples


def end_as_if_uninterrupted(case: Callable[[], Case], step: int, path: Path) -> None:
    """Kill a training after ``step`` steps, go on, and compare with one that was left alone."""
    whole, killed, again = case(), case(), case()
    killed.loss.kill_at = step + 1
    wanted = whole.find()

    with pytest.raises(KilledError):
        killed.find(keep_once(path, step))
    found = again.find(keep_once(path, 1e9))

    assert again.loss.calls == whole.loss.calls - step
    assert same_masks(found.masks, wanted.masks)
    assert found.figures == wanted.figures
    assert same_model(again.made.model, whole.made.model)


ADAM = replace(TRAIN, weight_decay=1e-2)
SGD = replace(ADAM, optimizer="sgd", average=0.9)


@pytest.mark.parametrize(("step", "settings"), [(2, SGD), (8, ADAM), (13, SGD), (22, ADAM)])
@each_trained
def test_a_training_that_is_killed_ends_with_the_same_bits(
    tmp_path: Path, method: MethodName, step: int, settings: TrainSettings
) -> None:
    end_as_if_uninterrupted(
        lambda: Case(method, "sequential", 3, settings), step, tmp_path / "x.ckpt"
    )


@pytest.mark.slow
@pytest.mark.parametrize("settings", [ADAM, SGD])
@pytest.mark.parametrize("net", ["fine", "residual", "depthwise"])
@each_trained
def test_it_does_not_matter_after_which_step(
    tmp_path: Path, method: MethodName, net: str, settings: TrainSettings
) -> None:
    for step in range(2, 23):
        end_as_if_uninterrupted(
            lambda: Case(method, net, 3, settings), step, tmp_path / f"{step}.ckpt"
        )
