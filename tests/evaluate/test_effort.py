"""The forecast of a fast evaluation's cost is what the evaluation then costs."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from autocompress.data.settings import DataSettings
from autocompress.evaluate.base import make_base
from autocompress.evaluate.effort import count_fast_samples
from autocompress.evaluate.evaluator import Evaluator
from autocompress.evaluate.fast import evaluate_fast
from autocompress.evaluate.settings import EvaluateSettings
from autocompress.evaluate.task import Task, open_task
from autocompress.jobs import Candidate, Job
from autocompress.methods.choose import METHODS
from autocompress.settings import change_settings
from autocompress.store.run_folder import RunFolder
from autocompress.train.effort import count_effort
from autocompress.train.loop import list_norms
from autocompress.zoo.make import ModelSettings
from tests.tiny import TINY

CHANGES = {
    "tiny": {},
    "nothing is trained": {"fast.prune.epochs": 0, "fast.retrain.epochs": 0},
    "parts of epochs": {"fast.prune.epochs": 0.4, "fast.retrain.epochs": 1.7},
    "batches of other sizes": {"fast.prune.batch_size": 33, "fast.retrain.batch_size": 50},
    "batches beyond the set": {"fast.prune.batch_size": 999, "fast.retrain.batch_size": 999},
    "more batches for norms than there are": {"fast.norm_batches": 99},
    "one shot": {"fast.fidelity": "one_shot"},
}


def open_small(model: str = "digits_cnn") -> Task:
    data = DataSettings(train_limit=100)
    return open_task(replace(TINY.task, data=data, model=ModelSettings(name=model)))


def compare(task: Task, evaluate: EvaluateSettings, candidate: Candidate | None = None) -> None:
    base = make_base(task.make_model().eval(), task)
    candidate = candidate or halve(base.count())

    with count_effort() as effort:
        evaluate_fast(base, candidate, task, evaluate, seed=0)

    assert effort.samples == count_fast_samples(
        evaluate,
        len(task.data.train),
        len(task.data.validation),
        has_norms=bool(list_norms(base.model)),
        quantizes=bool(candidate.bits),
    )


def halve(kept: Candidate) -> Candidate:
    """Return half of the filters."""
    filters = {name: max(1, count // 2) for name, count in kept.filters.items()}
    return Candidate(filters=filters, columns=dict.fromkeys(kept.columns, 1))


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("changes", list(CHANGES.values()), ids=list(CHANGES))
def test_the_forecast_is_what_is_counted(method: str, changes: dict[str, object]) -> None:
    compare(open_small(), change_settings(TINY.evaluate, {"method.name": method, **changes}))


def test_a_model_without_norms_costs_no_re_estimation() -> None:
    task = open_small("tests.evaluate.test_effort:make_plain")
    assert not list_norms(task.make_model())

    compare(task, TINY.evaluate)


def test_bit_widths_cost_the_way_to_their_levels() -> None:
    task = open_small()
    kept = make_base(task.make_model().eval(), task).count()
    bits = dict.fromkeys(halve(kept).columns, 4)

    compare(task, TINY.evaluate, replace(halve(kept), bits=bits))


def test_every_outcome_says_what_it_cost(tmp_path: Path) -> None:
    task = open_small()
    evaluator = Evaluator(task, TINY.evaluate, RunFolder(tmp_path))
    job = Job(stage="fast", candidate=halve(evaluator.describe("")[1]), round=0, base="", seed=0)
    sizes = len(task.data.train), len(task.data.validation)
    before = time.process_time()

    fast, full = evaluator.run(job), evaluator.run(replace(job, stage="full"))

    spent = time.process_time() - before
    assert fast.metrics["samples"] == count_fast_samples(TINY.evaluate, *sizes)
    assert full.metrics["samples"] > fast.metrics["samples"]
    assert 0 < fast.metrics["cpu_s"] < fast.metrics["cpu_s"] + full.metrics["cpu_s"] <= spent


def make_plain(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a net without batch norms."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, classes),
    )
