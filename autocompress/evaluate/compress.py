"""One model through a progressive pipeline, without a search; killed anywhere, it goes on."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from autocompress.errors import EvaluationError, SettingError
from autocompress.evaluate.base import Base, make_base
from autocompress.evaluate.full import read_test
from autocompress.evaluate.prune import make_retrain_loss
from autocompress.evaluate.settings import DistillSettings, EvaluateSettings
from autocompress.evaluate.stage import (
    Stage,
    begin_stage,
    clear_signs_,
    count_nonzero,
    load_stage,
    read_metrics,
    remove_dead,
    save_stage,
)
from autocompress.evaluate.task import Task, TaskSettings, open_task, save_model, train_dense
from autocompress.evaluate.weights import WeightFigures, describe_weights
from autocompress.jobs import hash_json
from autocompress.methods.progressive import run_phase_
from autocompress.methods.steps import (
    FreezePhase,
    Phase,
    QuantizeStep,
    RetrainStep,
    Step,
    check_order,
    expand_steps,
)
from autocompress.methods.work import Work
from autocompress.settings import settings_to_json
from autocompress.store.artifacts import METRICS_FILE
from autocompress.store.run_folder import RunFolder, open_folder
from autocompress.train.checkpoint import Keeper
from autocompress.train.loop import reestimate_norms_, score_model
from autocompress.train.objective import BatchLoss

VERSION = 2
ORIGIN_FILE = "pipeline.json"  # `clean` knows no such folder, and leaves it alone.
PLACES_OF_DATA = ("root", "download", "memory_limit_bytes")
NORM_BATCHES, NORM_BATCH = 50, 128


@dataclass(frozen=True, kw_only=True)
class ProgressiveSettings:
    """How one model is compressed.

    Attributes:
        steps: Run one after the other; ``[[method.steps]]`` tables, see ``methods.steps``.
        distill: The dense model's part in the loss of all steps.
        worst_metric: Validation metric that the model must hold after each step that retrains
            or brings weights to their levels, and after the last; the pipeline ends at the last
            model that does.
        keep_s: Seconds between two checkpoints of a running step.
    """

    steps: tuple[Step, ...] = ()
    distill: DistillSettings = field(default_factory=DistillSettings)
    worst_metric: float | None = None
    keep_s: float = 60.0

    def __post_init__(self) -> None:
        if not self.keep_s >= 0:
            raise SettingError(f"method.keep_s: want 0 or more, got {self.keep_s}")


@dataclass(frozen=True, kw_only=True)
class CompressSettings:
    """One model to be compressed.

    Attributes:
        name: Of the run.
        seed: Of every draw after the dense model.
        run_dir: Folder of models; ``runs/NAME`` when empty. Also the URL of a store.
        task: What is learned.
        method: What is done to the dense model.
    """

    name: str = "compress"
    seed: int = 0
    run_dir: str = ""
    task: TaskSettings = field(default_factory=TaskSettings)
    method: ProgressiveSettings = field(default_factory=ProgressiveSettings)

    def __post_init__(self) -> None:
        if not self.method.steps:
            raise SettingError("method.steps: want one step or more, got none")
        if self.seed < 0:
            raise SettingError(f"seed: want 0 or more, got {self.seed}")
        check_order(self.method.steps)


@dataclass(frozen=True, kw_only=True)
class PhaseReport:
    """What came of one phase, for people.

    Attributes:
        number: From 0, the dense model, which is no phase.
        phases: Phases of the pipeline.
        title: What was done.
        metrics: ``val_loss``, ``val_metric``, ``weights`` kept and figures of the method; empty
            when the phase begins.
    """

    number: int
    phases: int
    title: str
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """A finished model.

    Attributes:
        folder: Its artifact, for ``autocompress.load``.
        metrics: Flat figures, also in the artifact.
        weights: Figures by layer.
        reached: Whether all steps were done; else the last one fell below ``worst_metric``.
    """

    folder: Path
    metrics: dict[str, float]
    weights: WeightFigures
    reached: bool


Watch = Callable[[PhaseReport], None]


def ignore_report(report: PhaseReport) -> None:
    """Do nothing with ``report``."""


def compress(settings: CompressSettings, *, watch: Watch = ignore_report) -> Compressed:
    """Run the steps of ``settings`` on the dense model and finish what comes out.

    Every phase is stored when it is done, and a running one every ``keep_s`` seconds: the same
    settings go on where they were, and end, on a CPU, with the same bits. The test set is read
    once, at the end.

    Args:
        settings: Task, steps, seed.
        watch: Called when a phase begins, and after each one, also those that were done before.

    Raises:
        DataError: The data set is missing or malformed.
        EvaluationError: Training diverged, or a layer lost all its paths.
        SettingError: A step does not fit the model.
    """
    task = open_task(settings.task)
    run_dir = settings.run_dir or f"runs/{settings.name}"
    folder = open_folder(run_dir)
    model, dense_key, dense_metrics = train_dense(task, folder)
    base = make_base(model, task)
    pipeline = _Pipeline(settings, task, folder, base, folder.checkpoints)
    phases = expand_steps(settings.method.steps)
    watch(PhaseReport(number=0, phases=len(phases), title="dense", metrics=dense_metrics))
    before, feasible = dense_key, ""
    for number, phase in enumerate(phases, 1):
        key = pipeline.name_phase(phase, before, number)
        title = title_phase(phase)
        if folder.has(key):
            pipeline.make_keeper(key).clear()  # Of a run that was killed before it could.
        else:
            watch(PhaseReport(number=number, phases=len(phases), title=title, metrics={}))
            pipeline.run(phase, key, before=before if number > 1 else "", number=number)
        metrics = read_metrics(folder.path(key))
        watch(PhaseReport(number=number, phases=len(phases), title=title, metrics=metrics))
        before = key
        if _is_checked(phase) or number == len(phases):
            if not _holds(metrics["val_metric"], settings):
                break
            feasible = key
    else:
        return pipeline.finish(before, reached=True)
    if not feasible:
        raise EvaluationError(
            f"method.worst_metric: no step holds {settings.method.worst_metric}, the first that "
            f"was checked has {metrics['val_metric']:.4f}"
        )
    return pipeline.finish(feasible, reached=False)


def title_phase(phase: Phase) -> str:
    """Return what a phase does, in a few words."""
    if isinstance(phase, FreezePhase):
        return f"hold {phase.share:.0%} at their levels"
    if isinstance(phase, RetrainStep):
        swapping = f", swapping {phase.swap:.0%}" if phase.swap else ""
        return f"retrain {phase.train.epochs:g} epochs{swapping}"
    spent = "" if phase.by == "one_shot" else f", {phase.train.epochs:g} epochs"
    if isinstance(phase, QuantizeStep):
        levels = phase.levels
        bits = f"{levels.bits} bits " if levels.kind in ("equal_distance", "powers_of_two") else ""
        where = " ".join(phase.layers)
        return f"{phase.by}: {bits}{levels.kind}, {where} layers{spent}"
    budget = f"{phase.weights:,} weights" if phase.weights else f"density {phase.density:g}"
    return f"{phase.by}: {'counts by layer' if phase.layers else budget}{spent}"


def _is_checked(phase: Phase) -> bool:
    """Return whether what a phase leaves is meant to be used."""
    return isinstance(phase, RetrainStep) or (isinstance(phase, FreezePhase) and phase.share == 1)


def _holds(metric: float, settings: CompressSettings) -> bool:
    worst = settings.method.worst_metric
    if worst is None:
        return True
    return metric >= worst if settings.task.metric_direction == "maximize" else metric <= worst


@dataclass(frozen=True)
class _Pipeline:
    """Runs phases between models of the run folder."""

    settings: CompressSettings
    task: Task
    folder: RunFolder
    dense: Base
    checkpoints: Path

    def name_phase(self, phase: Phase, before: str, number: int) -> str:
        """Return the key of what ``phase``, the ``number``-th, makes of the model ``before``.

        Where the data lie does not belong to it; what they are is in the dense model's key.
        """
        task, method = settings_to_json(self.settings.task), self.settings.method
        for name in PLACES_OF_DATA:
            del task["data"][name]
        return hash_json(
            {
                "version": VERSION,
                "before": before,
                "phase": settings_to_json(phase),
                "distill": settings_to_json(method.distill),
                "task": {name: task[name] for name in ("loss", "metric", "data", "model")},
                "seed": self.settings.seed,
                "number": number,
            }
        )

    def make_keeper(self, key: str) -> Keeper:
        """Return what keeps the training of the phase called ``key``."""
        path = self.checkpoints / f"{key}.training"
        return Keeper(path, key=key, seconds=self.settings.method.keep_s)

    def run(self, phase: Phase, key: str, *, before: str, number: int) -> None:
        """Run ``phase`` on the stored model ``before``, the dense one when empty; store it."""
        begun, seed = time.monotonic(), make_seed(self.settings.seed, number)
        # Always from stored bits: a run that was cut off and one that was not are the same.
        stage = load_stage(self.folder.path(before), self.task) if before else self._begin()
        keeper = self.make_keeper(key)
        work = Work(
            model=stage.model,
            graph=stage.graph,
            held=stage.held,
            dense_weights=sum(layer.weights for layer in self.dense.graph.layers),
            source=self.task.data.train,
            loss=self._make_loss(),
            seed=seed,
            keeper=keeper,
        )
        held, figures = run_phase_(phase, work)
        stage = remove_dead(Stage(stage.model.eval(), stage.graph, held))
        clear_signs_(stage)
        # Running means are of the weights before they were projected, averaged or cut.
        reestimate_norms_(
            stage.model,
            self.task.data.train,
            batches=NORM_BATCHES,
            batch_size=NORM_BATCH,
            seed=seed,
        )
        figures |= {"seconds": time.monotonic() - begun, **self._score(stage)}
        self.folder.write(key, lambda path: save_stage(path, stage, self.task, figures))
        keeper.clear()

    def finish(self, key: str, *, reached: bool) -> Compressed:
        """Store the model called ``key`` as finished, tested once."""
        name = hash_json({"version": VERSION, "finished": key})
        stage = load_stage(self.folder.path(key), self.task)
        clear_signs_(stage)
        dense = {name: one.numel() for name, one in self.dense.model.named_parameters()}
        weights = describe_weights(stage.model, stage.graph, dense=dense)
        if not self.folder.has(name):
            metrics = {**self._score(stage), **read_test(stage.model, self.task)}
            metrics |= weights.to_metrics()
            self.folder.write(name, lambda path: self._save(path, stage, metrics))
        path = self.folder.path(name)
        stored = json.loads((path / METRICS_FILE).read_text(encoding="utf-8"))
        metrics = {key: math.nan if value is None else value for key, value in stored.items()}
        return Compressed(folder=path, metrics=metrics, weights=weights, reached=reached)

    def _save(self, path: Path, stage: Stage, metrics: dict[str, float]) -> None:
        """Write a finished model, and beside it what it came from."""
        save_model(path, stage.model, self.task, metrics)
        method = settings_to_json(self.settings.method)
        record = {"version": VERSION, "seed": self.settings.seed, "method": method}
        (path / ORIGIN_FILE).write_text(json.dumps(record, indent=1), encoding="utf-8")

    def _begin(self) -> Stage:
        return begin_stage(self.dense.copy().model, self.task)

    def _make_loss(self) -> BatchLoss:
        evaluate = EvaluateSettings(distill=self.settings.method.distill)
        return make_retrain_loss(self.task, self.dense, evaluate)

    def _score(self, stage: Stage) -> dict[str, float]:
        scores = score_model(
            stage.model, self.task.data.validation, loss=self.task.loss, metric=self.task.metric
        )
        return {
            "val_loss": scores.loss,
            "val_metric": scores.metric,
            "weights": float(count_nonzero(stage)),
            "held": float(sum(int(one.sum()) for one in stage.held.frozen.values())),
        }


def make_seed(seed: int, number: int) -> int:
    """Return the seed of a phase: phases of equal settings see other shuffles.

    Args:
        seed: Of the pipeline.
        number: Of the phase, from 1.
    """
    return int(np.random.SeedSequence(seed, spawn_key=(number,)).generate_state(1)[0])
