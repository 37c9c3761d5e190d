"""The evaluator on a tiny task: real digits, a small net, a fraction of an epoch."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from autocompress.data.settings import DataSettings
from autocompress.data.tensors import TensorSource
from autocompress.errors import ArtifactError, SettingError
from autocompress.evaluate.evaluator import Evaluator
from autocompress.evaluate.full import measure_gap
from autocompress.evaluate.settings import (
    EvaluateSettings,
    FastSettings,
    FullSettings,
    PruneSettings,
)
from autocompress.evaluate.task import TaskSettings, open_task
from autocompress.graph.trace import measure_macs
from autocompress.jobs import Candidate, Job
from autocompress.masks.cost import CostModel, count_masks
from autocompress.masks.purify import PurifySettings
from autocompress.methods.choose import MethodSettings
from autocompress.settings import settings_to_json
from autocompress.store.artifacts import load
from autocompress.store.run_folder import RunFolder
from autocompress.train.admm import AdmmSettings
from autocompress.train.loop import TrainSettings
from autocompress.zoo.make import ModelSettings

SHORT = TrainSettings(epochs=1, batch_size=64)
SETTINGS = EvaluateSettings(
    method=MethodSettings(admm=AdmmSettings(updates=2)),
    fast=FastSettings(prune=SHORT, retrain=SHORT, norm_batches=2),
    round=PruneSettings(prune=SHORT, retrain=SHORT),
    full=FullSettings(
        prune=SHORT, retrain=SHORT, final=SHORT, purify=PurifySettings(evaluations=4)
    ),
)
TASK = TaskSettings(
    data=DataSettings(train_limit=256),
    model=ModelSettings(name="digits_cnn"),
    train=replace(SHORT, epochs=3),
    device="cpu",
)


@pytest.fixture
def evaluator(tmp_path: Path) -> Evaluator:
    return Evaluator(open_task(TASK), SETTINGS, RunFolder(tmp_path))


def halve(evaluator: Evaluator, base: str = "") -> Candidate:
    """Return half the filters of each group, and three quarters of the columns left."""
    graph, kept = evaluator.describe(base)
    filters = {name: max(1, keep // 2) for name, keep in kept.filters.items()}
    model = CostModel(graph)
    keeps = [filters.get(group.name, group.size) for group in graph.groups]
    left = model.count_open(torch.tensor(keeps).numpy())
    names = [layer.name for layer in graph.layers]
    by_name = dict(zip(names, left.tolist(), strict=True))
    columns = {name: max(1, by_name[name] * 3 // 4) for name in kept.columns}
    return Candidate(filters=filters, columns=columns)


def test_a_fast_job_costs_what_its_counts_say_and_leaves_the_base(evaluator: Evaluator) -> None:
    candidate = halve(evaluator)
    base = evaluator.open_base("")
    before = {name: value.clone() for name, value in base.model.state_dict().items()}

    outcome = evaluator.run(Job(stage="fast", candidate=candidate, round=0, base="", seed=1))

    cost = CostModel(base.graph).count_candidate(candidate)
    assert not outcome.failed
    assert outcome.energy == outcome.metrics["val_loss"]
    assert outcome.metrics["weights"] == cost.weights
    assert outcome.metrics["macs"] == cost.macs
    for name, value in base.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_same_job_twice_gives_the_same_figures(evaluator: Evaluator) -> None:
    job = Job(stage="fast", candidate=halve(evaluator), round=0, base="", seed=3)

    first, second = evaluator.run(job), evaluator.run(job)

    assert first.energy == second.energy
    assert first.metrics["val_metric"] == second.metrics["val_metric"]


def test_one_shot_is_the_bottom_rung(evaluator: Evaluator) -> None:
    one_shot = replace(SETTINGS, fast=replace(SETTINGS.fast, fidelity="one_shot"))
    cheap = Evaluator(evaluator.task, one_shot, evaluator.folder)

    outcome = cheap.run(Job(stage="fast", candidate=halve(cheap), round=0, base="", seed=1))

    assert not outcome.failed
    assert "admm_residual" not in outcome.metrics


@pytest.mark.parametrize("glances", [False, True])
def test_capacity_is_worth_the_same_for_every_fold_of_weights(
    evaluator: Evaluator, *, glances: bool
) -> None:
    job = Job(stage="fast", candidate=halve(evaluator), round=0, base="", seed=3)
    graph, _ = evaluator.describe("")
    whole = CostModel(graph).count_candidate(Candidate(filters={}, columns={})).weights
    fast = replace(SETTINGS.fast, capacity=0.25)
    other = Evaluator(evaluator.task, replace(SETTINGS, fast=fast), evaluator.folder)
    run = other.glance if glances else other.run

    plain = (evaluator.glance if glances else evaluator.run)(job)
    found = run(job)

    assert found.metrics["val_loss"] == plain.metrics["val_loss"] == plain.energy
    folds = np.log(whole / found.metrics["weights"])
    assert folds > 0.5
    assert found.energy == pytest.approx(plain.energy + 0.25 * folds, rel=1e-6)


def test_capacity_belongs_to_what_a_result_follows_from_only_when_it_is_set() -> None:
    set_to = replace(SETTINGS, fast=replace(SETTINGS.fast, capacity=0.0))

    assert "capacity" not in settings_to_json(SETTINGS)["fast"]
    assert settings_to_json(set_to)["fast"]["capacity"] == 0.0
    with pytest.raises(SettingError, match=r"fast.capacity: want 0 or more, got -1"):
        FastSettings(capacity=-1)


def test_a_glance_is_the_bottom_rung_and_leaves_the_settings(evaluator: Evaluator) -> None:
    job = Job(stage="fast", candidate=halve(evaluator), round=0, base="", seed=1)
    quick = replace(SETTINGS, fast=replace(SETTINGS.fast, fidelity="one_shot"))
    bottom = Evaluator(evaluator.task, quick, evaluator.folder).run(job)

    glance, after = evaluator.glance(job), evaluator.run(job)

    assert glance.energy == bottom.energy != after.energy
    assert evaluator.settings == SETTINGS


def test_a_round_stores_a_base_that_the_next_one_starts_from(evaluator: Evaluator) -> None:
    candidate = halve(evaluator)

    outcome = evaluator.run(Job(stage="round", candidate=candidate, round=0, base="", seed=1))
    reopened = Evaluator(evaluator.task, SETTINGS, evaluator.folder)
    graph, kept = reopened.describe(outcome.artifact)

    assert outcome.energy == -outcome.metrics["val_metric"]
    assert all(kept.filters[name] <= keep for name, keep in candidate.filters.items())
    base = reopened.open_base(outcome.artifact)
    assert count_masks(graph, base.masks).weights == outcome.metrics["weights"]
    assert base.masks.units.all()


def test_zeros_of_a_base_stay_zero_in_the_next_round(evaluator: Evaluator) -> None:
    first = evaluator.run(Job(stage="round", candidate=halve(evaluator), round=0, base="", seed=1))
    smaller = halve(evaluator, first.artifact)

    second = evaluator.run(
        Job(stage="round", candidate=smaller, round=1, base=first.artifact, seed=2)
    )

    _, kept = evaluator.describe(second.artifact)
    assert second.metrics["weights"] < first.metrics["weights"]
    assert all(kept.columns[name] <= keep for name, keep in smaller.columns.items())


def test_a_full_job_gives_a_smaller_model_that_computes_the_same(evaluator: Evaluator) -> None:
    outcome = evaluator.run(
        Job(stage="full", candidate=halve(evaluator), round=0, base="", seed=1)
    )

    model = load(evaluator.folder.path(outcome.artifact))
    params = sum(parameter.numel() for parameter in model.parameters())
    dense = sum(parameter.numel() for parameter in evaluator.open_base("").model.parameters())
    assert outcome.metrics["params"] == params < dense / 2
    assert outcome.metrics["macs"] == measure_macs(model, evaluator.task.example())
    assert outcome.metrics["weights"] <= outcome.metrics["retrained_weights"]
    assert outcome.metrics["compact_gap"] < 1e-5
    assert 0 <= outcome.metrics["test_metric"] <= 1
    assert measure_gap(model, model, evaluator.task) == 0


def test_a_base_that_is_not_there_is_named(evaluator: Evaluator) -> None:
    job = Job(stage="fast", candidate=halve(evaluator), round=1, base="ab" * 32, seed=1)

    with pytest.raises(ArtifactError, match="abababababab is not in the run folder"):
        evaluator.run(job)


def test_a_lost_base_is_the_same_once_it_is_made_again(evaluator: Evaluator) -> None:
    job = Job(stage="round", candidate=halve(evaluator), round=0, base="", seed=1)
    first = evaluator.run(job)
    before = evaluator.open_base(first.artifact).model.state_dict()
    shutil.rmtree(evaluator.folder.path(first.artifact))
    lost = evaluator.has(first.artifact)

    again = Evaluator(evaluator.task, SETTINGS, evaluator.folder)
    second = again.run(job)

    assert not lost
    assert again.has("")
    assert again.has(second.artifact)
    assert second.artifact == first.artifact
    for name, value in again.open_base(second.artifact).model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_lost_dense_model_is_the_same_once_it_is_trained_again(evaluator: Evaluator) -> None:
    shutil.rmtree(evaluator.folder.path(evaluator.dense_key))

    again = Evaluator(evaluator.task, SETTINGS, evaluator.folder)

    assert again.dense_key == evaluator.dense_key
    assert again.dense_metrics == evaluator.dense_metrics
    for name, value in again.open_base("").model.state_dict().items():
        assert torch.equal(value, evaluator.open_base("").model.state_dict()[name]), name


def test_a_packed_evaluator_needs_no_file_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    digits = open_task(TASK).data.validation
    assert isinstance(digits, TensorSource)
    images = digits.images.permute(0, 2, 3, 1).numpy()
    parts = {f"{part}_images": images for part in ("train", "test")}
    parts |= {f"{part}_labels": digits.targets.numpy() for part in ("train", "test")}
    np.savez(path, allow_pickle=False, **parts)
    task = replace(TASK, data=DataSettings(name="npz", root=str(path)))
    first = Evaluator(open_task(task), SETTINGS, RunFolder(tmp_path / "here"))
    stages: tuple[Literal["fast", "full"], ...] = ("fast", "full")
    jobs = [Job(stage=one, candidate=halve(first), round=0, base="", seed=1) for one in stages]
    here = [first.run(job) for job in jobs]

    parcel = pickle.dumps(first.pack())
    path.unlink()
    shutil.rmtree(tmp_path / "here")
    second: Evaluator = pickle.loads(parcel)(str(tmp_path / "there"))
    there = [second.run(job) for job in jobs]

    assert [one.energy for one in here] == [one.energy for one in there]
    assert [one.artifact for one in here] == [one.artifact for one in there]
    assert here[1].metrics["test_metric"] == there[1].metrics["test_metric"]
    assert second.dense_metrics == first.dense_metrics


@pytest.mark.parametrize("name", ["model.safetensors", "masks.safetensors"])
def test_a_damaged_base_says_what_to_delete(evaluator: Evaluator, name: str) -> None:
    job = Job(stage="round", candidate=halve(evaluator), round=0, base="", seed=1)
    path = evaluator.folder.path(evaluator.run(job).artifact)
    (path / name).write_bytes(b"short")

    with pytest.raises(ArtifactError, match=f"if its files are damaged, delete {path}"):
        evaluator.describe(path.name)
