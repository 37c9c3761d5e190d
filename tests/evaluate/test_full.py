"""Jobs that are cut off in the middle and run again."""

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autocompress.data.settings import DataSettings
from autocompress.errors import EvaluationError
from autocompress.evaluate.base import Base, make_base
from autocompress.evaluate.evaluator import Evaluator
from autocompress.evaluate.full import Finished, evaluate_full, evaluate_round
from autocompress.evaluate.settings import (
    DistillSettings,
    EvaluateSettings,
    FullSettings,
    PruneSettings,
)
from autocompress.evaluate.task import Task, TaskSettings, open_task, train_dense
from autocompress.jobs import Candidate, Job, Stage
from autocompress.masks.purify import PurifySettings
from autocompress.methods.choose import MethodSettings
from autocompress.store.run_folder import RunFolder
from autocompress.train.admm import AdmmSettings
from autocompress.train.checkpoint import NOT_KEPT, Keepers
from autocompress.train.loop import TrainSettings
from autocompress.zoo.make import ModelSettings

SHORT = TrainSettings(epochs=1, batch_size=64)  # Four steps each.
SETTINGS = EvaluateSettings(
    method=MethodSettings(admm=AdmmSettings(updates=2)),
    round=PruneSettings(prune=SHORT, retrain=SHORT),
    full=FullSettings(
        prune=SHORT, retrain=SHORT, final=SHORT, purify=PurifySettings(evaluations=2)
    ),
    distill=DistillSettings(share=0.0),
)
TASK = TaskSettings(
    data=DataSettings(train_limit=256),
    model=ModelSettings(name="digits_cnn"),
    train=replace(SHORT, epochs=2),
    device="cpu",
)
STEPS = 12  # Of a full evaluation.


class KilledError(Exception):
    """Stands for the end of the process."""


@dataclass
class Mortal:
    """A loss that ends the process at one of its calls with gradients; they count from 0."""

    loss: object
    last: int
    calls: int = 0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss, or end it all."""
        if outputs.requires_grad:
            if self.calls == self.last:
                raise KilledError
            self.calls += 1
        assert callable(self.loss)
        value = self.loss(outputs, targets)
        assert isinstance(value, Tensor)
        return value


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> tuple[Task, Base]:
    opened = open_task(TASK)
    model, _, _ = train_dense(opened, RunFolder(tmp_path_factory.mktemp("dense")))
    return opened, make_base(model, opened)


def halve(base: Base) -> Candidate:
    filters = {name: max(1, keep // 2) for name, keep in base.count().filters.items()}
    return Candidate(filters=filters, columns={})


def finish(task: Task, base: Base, keepers: Keepers) -> Finished:
    return evaluate_full(base, halve(base), task, SETTINGS, teacher=base, seed=3, keepers=keepers)


def same(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("last", [1, 3, 4, 6, 9, 11])
def test_a_full_evaluation_that_was_cut_off_ends_with_the_same_bits(
    task: tuple[Task, Base], tmp_path: Path, last: int
) -> None:
    opened, base = task
    whole = finish(opened, base, NOT_KEPT)
    keepers = Keepers(tmp_path, "job", 0.0)
    mortal = Mortal(opened.loss, last)
    with pytest.raises(KilledError):
        finish(replace(opened, loss=mortal), base, keepers)
    counted = Mortal(opened.loss, -1)

    again = finish(replace(opened, loss=counted), base, keepers)

    assert same(whole.model, again.model)
    # Each training is kept after every step: only what was never done is done.
    assert counted.calls == STEPS - last
    assert list(tmp_path.iterdir())
    keepers.clear()
    assert not list(tmp_path.iterdir())


@dataclass
class Shaky:
    """A loss that no two runs have the same gradients of, as on a GPU."""

    loss: object
    draw: torch.Generator
    calls: int = 0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss, a little changed."""
        assert callable(self.loss)
        self.calls += outputs.requires_grad
        value = self.loss(outputs, targets)
        assert isinstance(value, Tensor)
        return value * (1 + 0.01 * torch.rand((), generator=self.draw))


def test_trainings_that_were_over_are_not_done_again_where_bits_differ(
    task: tuple[Task, Base], tmp_path: Path
) -> None:
    opened, base = task
    draw, keepers = torch.Generator().manual_seed(0), Keepers(tmp_path, "job", 1e9)
    dying = replace(opened, loss=Mortal(Shaky(opened.loss, draw), 9))
    with pytest.raises(KilledError):  # In the last of three trainings.
        finish(dying, base, keepers)
    counted = Shaky(opened.loss, draw)

    finish(replace(opened, loss=counted), base, keepers)

    assert counted.calls == STEPS // 3


def test_a_round_that_was_cut_off_ends_with_the_same_bits(
    task: tuple[Task, Base], tmp_path: Path
) -> None:
    opened, base = task
    candidate = halve(base)
    whole, _ = evaluate_round(base, candidate, opened, SETTINGS, teacher=base, seed=3)
    keepers = Keepers(tmp_path, "job", 0.0)
    dying = replace(opened, loss=Mortal(opened.loss, 6))
    with pytest.raises(KilledError):
        evaluate_round(base, candidate, dying, SETTINGS, teacher=base, seed=3, keepers=keepers)

    again, _ = evaluate_round(
        base, candidate, opened, SETTINGS, teacher=base, seed=3, keepers=keepers
    )

    assert same(whole.model, again.model)


def test_a_damaged_checkpoint_only_costs_the_work(task: tuple[Task, Base], tmp_path: Path) -> None:
    opened, base = task
    keepers = Keepers(tmp_path, "job", 0.0)
    whole = finish(opened, base, keepers)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-7])

    assert same(whole.model, finish(opened, base, keepers).model)


def test_a_dense_training_that_was_cut_off_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_task(TASK)
    whole, key, _ = train_dense(opened, RunFolder(tmp_path / "whole"))
    folder = RunFolder(tmp_path / "cut")
    monkeypatch.setattr("autocompress.evaluate.task.Keepers", partial(Keepers, seconds=0.0))
    with pytest.raises(KilledError):
        train_dense(replace(opened, loss=Mortal(opened.loss, 5)), folder)
    assert list(folder.checkpoints.iterdir())

    counted = Mortal(opened.loss, -1)
    again, same_key, _ = train_dense(replace(opened, loss=counted), folder)

    assert (same(whole, again), same_key, counted.calls) == (True, key, 3)
    assert not list(folder.checkpoints.iterdir())


@dataclass
class Spoilt:
    """A loss that is no number from one of its calls with gradients on."""

    loss: object
    first: int
    calls: int = 0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss, or NaN."""
        assert callable(self.loss)
        value = self.loss(outputs, targets)
        assert isinstance(value, Tensor)
        self.calls += outputs.requires_grad
        return value * math.nan if outputs.requires_grad and self.calls > self.first else value


@pytest.mark.parametrize("stage", ["round", "full"])
def test_another_attempt_does_not_go_on_from_one_that_diverged(
    task: tuple[Task, Base], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    opened, base = task
    monkeypatch.setattr("autocompress.evaluate.evaluator.Keepers", partial(Keepers, seconds=0.0))
    evaluator = Evaluator(opened, SETTINGS, RunFolder(tmp_path))
    job = Job(stage=stage, candidate=halve(base), round=0, base="", seed=0)
    evaluator.task = replace(opened, loss=Spoilt(opened.loss, 6))
    with pytest.raises(EvaluationError, match="diverged"):
        evaluator.run(job)
    assert not list(evaluator.folder.checkpoints.iterdir())

    evaluator.task = opened

    assert math.isfinite(evaluator.run(job).energy)


def test_a_dense_training_that_diverged_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, folder = open_task(TASK), RunFolder(tmp_path)
    monkeypatch.setattr("autocompress.evaluate.task.Keepers", partial(Keepers, seconds=0.0))

    with pytest.raises(EvaluationError, match="diverged"):
        train_dense(replace(opened, loss=Spoilt(opened.loss, 3)), folder)

    assert not list(folder.checkpoints.iterdir())


def test_a_job_that_was_cut_off_has_cost_what_a_whole_one_costs(
    task: tuple[Task, Base], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, base = task
    job = Job(stage="full", candidate=halve(base), round=0, base="", seed=0)
    monkeypatch.setattr("autocompress.evaluate.evaluator.Keepers", partial(Keepers, seconds=0.0))
    ticks = Mortal(opened.loss, -1)  # The clock ticks once a step of training.
    for module in ("train.loop", "evaluate.evaluator"):
        monkeypatch.setattr(f"autocompress.{module}.read_times", lambda: (ticks.calls,) * 2)

    evaluator = Evaluator(opened, SETTINGS, RunFolder(tmp_path))
    evaluator.task = replace(opened, loss=ticks)
    whole = evaluator.run(job).metrics
    ticks.last = ticks.calls + 7
    with pytest.raises(KilledError):
        evaluator.run(job)
    ticks.last = -1

    again = evaluator.run(job).metrics

    assert whole["seconds"] == whole["cpu_s"] == STEPS
    for name in ("samples", "seconds", "cpu_s"):
        assert again[name] == whole[name]
