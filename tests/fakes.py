"""Stand-ins that need no training: graphs made of numbers and an evaluator with a formula."""

import json
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from autocompress.errors import EvaluationError
from autocompress.graph.layers import OUTSIDE, Group, Layer, LayerGraph
from autocompress.jobs import Candidate, Job, Outcome
from autocompress.masks.importance import Importance
from autocompress.masks.latency import LatencyTable, Machine
from autocompress.search.budget import Budget
from autocompress.search.controller import Wiring, hold_controller
from autocompress.search.settings import SearchSettings
from autocompress.search.spec import Settings, resolve_settings
from tests.formula import is_bad, score_job
from tests.timed import make_table, time_job

Spec = tuple[
    str, str, str, int, int
]  # layer, group read ("" = image), group made, area, positions


def make_graph(specs: Sequence[Spec], sizes: dict[str, int], fixed: Sequence[str]) -> LayerGraph:
    """Return a graph of dense layers; ``fixed`` groups are not prunable."""
    starts: dict[str, int] = {}
    for name, size in sizes.items():
        starts[name] = sum(sizes[one] for one in starts)
        assert size > 0
    layers = []
    for name, source, target, area, positions in specs:
        inputs: tuple[int, ...] = (OUTSIDE,) * 3
        if source:
            inputs = tuple(range(starts[source], starts[source] + sizes[source]))
        layers.append(
            Layer(
                name=name,
                kind="conv" if area > 1 else "linear",
                filters=sizes[target],
                channels=len(inputs),
                kernel=(math.isqrt(area), math.isqrt(area)),
                groups=1,
                has_bias=False,
                positions=positions,
                out_units=tuple(range(starts[target], starts[target] + sizes[target])),
                in_units=inputs,
            )
        )
    groups = tuple(
        Group(
            name=name,
            start=starts[name],
            size=size,
            prunable=name not in fixed,
            producers=tuple(one[0] for one in specs if one[2] == name),
            consumers=tuple(one[0] for one in specs if one[1] == name),
        )
        for name, size in sizes.items()
    )
    return LayerGraph(layers=tuple(layers), norms=(), groups=groups)


def make_resnet_graph(blocks: int = 9) -> LayerGraph:
    """Return the layers of a CIFAR ResNet with ``6 * blocks + 2`` layers."""
    specs: list[Spec] = [("stem", "", "stage0", 9, 1024)]
    sizes = {"stage0": 16}
    before = "stage0"
    for stage, (width, positions) in enumerate([(16, 1024), (32, 256), (64, 64)]):
        sizes[f"stage{stage}"] = width
        for block in range(blocks):
            name = f"s{stage}.{block}"
            sizes[f"{name}.a"] = width
            specs.append((f"{name}.a", before, f"{name}.a", 9, positions))
            specs.append((f"{name}.b", f"{name}.a", f"stage{stage}", 9, positions))
            before = f"stage{stage}"
    specs.append(("fc", before, "out", 1, 1))
    sizes["out"] = 10
    return make_graph(specs, sizes, ["out"])


def make_small_graph(widths: tuple[int, int] = (12, 24)) -> LayerGraph:
    """Return two convolutions and a classifier."""
    specs: list[Spec] = [
        ("a", "", "a", 9, 64),
        ("b", "a", "b", 9, 16),
        ("fc", "b", "out", 1, 1),
    ]
    return make_graph(specs, {"a": widths[0], "b": widths[1], "out": 10}, ["out"])


def make_importance(graph: LayerGraph) -> Importance:
    """Return what falls from unit to unit and column to column, faster in later groups."""
    units = {
        one.name: (1.0 + place) ** 2 * np.exp(-np.arange(one.size) * (1 + place) / one.size)
        for place, one in enumerate(graph.groups)
    }
    columns = {
        one.name: np.exp(-np.arange(one.columns) / one.columns) for one in graph.column_layers
    }
    return Importance(units, columns)


@dataclass
class FakeEvaluator:
    """Scores the small graph by a smooth formula; a stored model is the JSON of its counts.

    Attributes:
        fail: Called with every job; may raise.
        scale: Factor on the energy of fast jobs.
        drop: Factor on what pruning costs in the metric.
        jobs: Every job that was run.
        is_timed: Whether models come with measured shares of the dense model's latency.
    """

    fail: Callable[[Job], None] = lambda job: None
    scale: float = 1.0
    drop: float = 0.0
    jobs: list[Job] = field(default_factory=list)
    is_timed: bool = False
    dense_key: str = "dense"
    dense_metrics: dict[str, float] = field(default_factory=lambda: {"val_metric": 0.98})

    def has(self, key: str) -> bool:
        """Return True: a key is the model itself."""
        return True

    def describe(self, base: str) -> tuple[LayerGraph, Candidate]:
        """Return the graph and counts of a stored model; empty for the dense one."""
        if not base:
            return make_small_graph(), Candidate(filters={}, columns={})
        kept = Candidate.from_json(json.loads(base))
        return make_small_graph((kept.filters["a"], kept.filters["b"])), kept

    def rank(self, base: str) -> Importance:
        """Return an importance that falls from unit to unit, faster in later groups."""
        graph, _ = self.describe(base)
        return make_importance(graph)

    def run(self, job: Job) -> Outcome:
        """Return the score of the job's candidate."""
        self.jobs.append(job)
        self.fail(job)
        outcome = score_job(job, scale=self.scale, drop=self.drop)
        return time_job(make_small_graph(), job, outcome) if self.is_timed else outcome

    def read_table(self, key: str) -> LatencyTable:
        """Return the table of the small graph, whatever its key."""
        return make_table(make_small_graph())

    def fits_here(self, machine: Machine) -> bool:
        """Return whether the machine is the one of :func:`make_table`."""
        return machine.name == "none"


def fail_some(job: Job) -> None:
    """Fail every attempt at one candidate in eight."""
    if is_bad(job):
        raise EvaluationError("this candidate cannot be evaluated")


def make_search(folder: str, **changes: Any) -> Settings:
    """Return settings for a short search of the small graph."""
    settings = Settings(
        name="fake",
        run_dir=folder,
        budget=Budget(weights=0.3),
        search=SearchSettings(evaluations=6),
    )
    return resolve_settings(replace(settings, **changes))


def run_fake(folder: str, stop: int, wait_s: float = 0.0) -> None:
    """Search the small graph; the process kills itself at checkpoint ``stop``, counted from 0."""
    passed = 0

    def checkpoint(_: str) -> None:
        nonlocal passed
        if passed == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        passed += 1
        time.sleep(wait_s)

    evaluator = FakeEvaluator(fail=fail_some)
    wiring = Wiring(make_evaluator=lambda: evaluator, checkpoint=checkpoint)
    with hold_controller(make_search(folder), wiring) as controller:
        controller.run()
