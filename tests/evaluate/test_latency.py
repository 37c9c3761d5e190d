"""The evaluator measures latency by a bench of its own; here that has no clock."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.data.settings import DataSettings
from autocompress.deploy.measure import Speedup
from autocompress.deploy.survey import describe_machine
from autocompress.errors import ArtifactError
from autocompress.evaluate.base import Base
from autocompress.evaluate.evaluator import Evaluator
from autocompress.evaluate.latency import TABLE_FILE, DeviceBench
from autocompress.evaluate.settings import (
    EvaluateSettings,
    FastSettings,
    FullSettings,
    LatencySettings,
    PruneSettings,
)
from autocompress.evaluate.task import TaskSettings, open_task
from autocompress.jobs import Candidate, Job, Stage
from autocompress.masks.latency import LatencyTable, Machine
from autocompress.masks.purify import PurifySettings
from autocompress.store.artifacts import load
from autocompress.store.run_folder import RunFolder
from autocompress.train.loop import TrainSettings
from autocompress.zoo.make import ModelSettings
from tests.timed import MACHINE, make_table

SHORT = TrainSettings(epochs=0.2, batch_size=64)
SETTINGS = EvaluateSettings(
    fast=FastSettings(fidelity="one_shot", norm_batches=1),
    round=PruneSettings(prune=SHORT, retrain=SHORT),
    full=FullSettings(
        prune=SHORT, retrain=SHORT, final=SHORT, purify=PurifySettings(evaluations=0)
    ),
)
TASK = TaskSettings(
    data=DataSettings(train_limit=128),
    model=ModelSettings(name="digits_cnn"),
    train=SHORT,
    device="cpu",
)
STAGES: tuple[Stage, ...] = ("fast", "round", "full")


class CountingBench:
    """Says that a model takes as much of the dense model's time as it has of its parameters."""

    def __init__(self, dense: Base, example: Tensor, settings: LatencySettings) -> None:
        self.dense, self.example, self.settings = dense, example, settings

    def survey(self, seed: int) -> LatencyTable:
        return replace(make_table(self.dense.graph), dense_us=100.0 + seed)

    def compare(self, model: nn.Module) -> Speedup:
        assert not model.training
        model(self.example)
        share = count_params(model) / count_params(self.dense.model)
        return Speedup(factor=share, low=share / 2, high=share * 2)

    def fits(self, machine: Machine) -> bool:
        return machine == MACHINE


def count_params(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return RunFolder(tmp_path_factory.mktemp("run"))


def open_evaluator(folder: RunFolder, latency: LatencySettings | None) -> Evaluator:
    settings = replace(SETTINGS, latency=latency)
    return Evaluator(open_task(TASK), settings, folder, make_bench=CountingBench)


def run_stage(evaluator: Evaluator, stage: Stage) -> dict[str, float]:
    graph, _ = evaluator.describe("")
    halved = {group.name: group.size // 2 for group in graph.groups if group.prunable}
    job = Job(
        stage=stage, candidate=Candidate(filters=halved, columns={}), round=0, base="", seed=3
    )
    outcome = evaluator.run(job)
    if outcome.artifact:
        load(evaluator.folder.path(outcome.artifact))
    return dict(outcome.metrics)


def test_nothing_is_measured_where_nobody_asks(folder: RunFolder) -> None:
    evaluator = open_evaluator(folder, None)

    figures = [run_stage(evaluator, stage) for stage in STAGES]

    assert not any(name.startswith("latency") for one in figures for name in one)
    assert figures[2]["speedup"] > 0


@pytest.mark.parametrize("measure", ["finished", "all"])
def test_models_are_measured_and_candidates_if_asked_for(folder: RunFolder, measure: str) -> None:
    latency = LatencySettings(measure="all" if measure == "all" else "finished")
    evaluator = open_evaluator(folder, latency)

    fast, pruned, full = (run_stage(evaluator, stage) for stage in STAGES)

    dense = evaluator.dense_metrics["params"]
    for one in (pruned, full, *([fast] if measure == "all" else [])):
        assert one["latency_share"] == pytest.approx(one["params"] / dense)
        assert one["latency_share_low"] < one["latency_share"] < one["latency_share_high"]
    assert ("latency_share" in fast) == (measure == "all")
    assert "latency" not in full  # The study knows the dense model's microseconds.


def test_a_table_is_stored_and_read_again(folder: RunFolder) -> None:
    evaluator = open_evaluator(folder, LatencySettings())
    full = Candidate(filters={}, columns={})

    outcome = evaluator.run(Job(stage="latency", candidate=full, round=0, base="", seed=5))

    assert outcome.energy == outcome.metrics["dense_us"] == 105.0
    assert outcome.metrics["table_error"] == 0.05
    table = evaluator.read_table(outcome.artifact)
    assert (
        table.to_json() == replace(make_table(evaluator.describe("")[0]), dense_us=105.0).to_json()
    )
    assert evaluator.fits_here(table.machine)


@pytest.mark.parametrize("text", [None, "{", "{}"])
def test_a_damaged_table_is_named(tmp_path: Path, text: str | None) -> None:
    evaluator = open_evaluator(RunFolder(tmp_path), LatencySettings())
    if text is not None:
        found = evaluator.folder.path("broken")
        found.mkdir(parents=True)
        (found / TABLE_FILE).write_text(text)

    with pytest.raises(ArtifactError, match="latency table"):
        evaluator.read_table("broken")


def test_a_real_bench_compares_on_its_device(folder: RunFolder) -> None:
    evaluator = open_evaluator(folder, None)
    base = evaluator.open_base("")
    before = {name: one.clone() for name, one in base.model.state_dict().items()}
    settings = LatencySettings(batch=3, turns=2)
    bench = DeviceBench(base, evaluator.task.example(), settings)
    machine = describe_machine(torch.zeros(3, 1, 8, 8), "contiguous")

    share = bench.compare(evaluator.task.make_model())

    assert 0 < share.low <= share.factor <= share.high < math.inf
    assert bench.fits(replace(machine, threads=1))
    changes: list[dict[str, Any]] = [
        {"threads": 7},
        {"batch": 4},
        {"name": "another"},
        {"torch": "1"},
    ]
    for change in changes:
        assert not bench.fits(replace(machine, **{"threads": 1, **change}))
    after = base.model.state_dict()
    assert all(torch.equal(one, after[name]) for name, one in before.items())
