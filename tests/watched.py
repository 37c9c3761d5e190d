"""An evaluator in a worker whose memory and models are watched."""

import copy
import gc
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakSet

import torch
from torch import nn

from autocompress.evaluate.evaluator import Evaluator
from autocompress.evaluate.factory import EvaluatorFactory
from autocompress.execute.settings import ExecuteSettings
from autocompress.execute.subprocess_pool import SubprocessPool
from autocompress.jobs import Candidate, Job, Outcome
from autocompress.masks.cost import CostModel
from autocompress.store.run_folder import RunFolder


class WatchedEvaluator:
    """Adds to the metrics how many models, copied or built for jobs, there were and still are."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._made = 0
        self._models: WeakSet[nn.Module] = WeakSet()
        self._watch()

    def run(self, job: Job) -> Outcome:
        """Return the outcome of ``job``; in its metrics all modules made so far and those left.

        ``uncollected`` counts those that only the garbage collector can free.
        """
        outcome = self._evaluator.run(job)
        uncollected = len(self._models)
        gc.collect()
        figures = {
            "made": float(self._made),
            "uncollected": float(uncollected),
            "alive": float(len(self._models)),
            "threads": float(torch.get_num_threads()),
        }
        return replace(outcome, metrics={**outcome.metrics, **figures})

    def _watch(self) -> None:
        """Note every module from now on; a copy is made by ``__setstate__`` alone."""
        for name in ("__init__", "__setstate__"):
            setattr(nn.Module, name, self._note_after(getattr(nn.Module, name)))

    def _note_after(self, make: Callable[..., None]) -> Callable[..., None]:
        def make_noted(module: nn.Module, *args: object, **kwargs: object) -> None:
            make(module, *args, **kwargs)
            self._made += 1
            self._models.add(module)

        return make_noted


@dataclass(frozen=True)
class WatchedFactory:
    """Makes a watched evaluator in a worker."""

    factory: EvaluatorFactory

    def __call__(self) -> WatchedEvaluator:
        """Return a new evaluator whose own models are not counted."""
        evaluator = self.factory()
        copy.deepcopy(evaluator.open_base("").model)  # What the first copy makes for ever.
        return WatchedEvaluator(evaluator)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is seen after an evaluation.

    Attributes:
        resident: Megabytes (10^6 bytes) of the worker in memory.
        peak: The most so far.
        made: Modules made for evaluations so far.
        uncollected: Of them, those that were alive before garbage was collected.
        alive: Those alive afterwards.
        threads: PyTorch's threads in the worker.
        seconds: The evaluation took.
    """

    resident: float
    peak: float
    made: int
    uncollected: int
    alive: int
    threads: int
    seconds: float


def watch_evaluations(factory: EvaluatorFactory, evaluations: int) -> Iterator[Look]:
    """Yield what is seen after each fast evaluation of a random candidate in one worker.

    Raises:
        RuntimeError: An evaluation failed.
    """
    folder = RunFolder(Path(factory.run_dir))
    evaluator = factory()
    settings = ExecuteSettings(executor="subprocess", threads=1)
    pool = SubprocessPool(WatchedFactory(factory), folder, settings)
    try:
        for number in range(evaluations):
            kept = draw_candidate(evaluator, seed=number)
            job = Job(stage="fast", candidate=kept, round=0, base="", seed=number)
            pool.submit(f"look{number}", job)
            _, outcome = pool.wait()
            if outcome.failed:
                raise RuntimeError(outcome.error)
            (pid,) = pool.pids
            resident, peak = read_memory(pid)
            seen = {name: int(outcome.metrics[name]) for name in SEEN}
            seconds = outcome.metrics["seconds"]
            yield Look(resident=resident, peak=peak, seconds=seconds, **seen)
    finally:
        pool.close()


SEEN = ("made", "uncollected", "alive", "threads")


def draw_candidate(evaluator: Evaluator, seed: int) -> Candidate:
    """Return random counts of the dense model."""
    graph, kept = evaluator.describe("")
    stream = random.Random(seed)
    filters = {
        name: stream.randint(max(1, keep // 4), keep) for name, keep in kept.filters.items()
    }
    keeps = torch.tensor([filters.get(group.name, group.size) for group in graph.groups])
    left = CostModel(graph).count_open(keeps.numpy()).tolist()
    names = [layer.name for layer in graph.layers]
    by_name = dict(zip(names, left, strict=True))
    columns = {
        name: stream.randint(max(1, by_name[name] // 4), by_name[name]) for name in kept.columns
    }
    return Candidate(filters=filters, columns=columns)


def read_memory(pid: int) -> tuple[float, float]:
    """Return the resident memory of a process and its peak, in megabytes (10^6 bytes)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = {
        name: rest.split()[0]
        for name, _, rest in (line.partition(":") for line in lines)
        if rest.split()
    }
    return int(fields["VmRSS"]) * 1024 / 1e6, int(fields["VmHWM"]) * 1024 / 1e6
