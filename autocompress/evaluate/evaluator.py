"""Run jobs: open the base, evaluate, store what came out."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

from torch import Tensor

from autocompress.data.carry import CarriedData, carry_data
from autocompress.errors import ArtifactError, EvaluationError
from autocompress.evaluate.base import Base, load_base, make_base, save_base
from autocompress.evaluate.fast import estimate_candidate, evaluate_fast
from autocompress.evaluate.full import Finished, evaluate_full, evaluate_round
from autocompress.evaluate.latency import (
    Bench,
    DeviceBench,
    list_shares,
    read_table,
    write_table,
)
from autocompress.evaluate.settings import EvaluateSettings, LatencySettings
from autocompress.evaluate.sources import collect_sources, install_sources
from autocompress.evaluate.task import (
    Task,
    TaskSettings,
    find_device,
    load_dense,
    save_model,
    train_dense,
)
from autocompress.graph.layers import LayerGraph
from autocompress.jobs import Candidate, Job, Outcome, hash_json
from autocompress.masks.cost import count_masks
from autocompress.masks.importance import Importance, measure_importance
from autocompress.masks.latency import LatencyTable, Machine
from autocompress.masks.purify import propagate
from autocompress.settings import settings_to_json
from autocompress.shrink.compact import compact_model
from autocompress.store.freight import Files, read_files, store_files
from autocompress.store.run_folder import RunFolder, name_remedy
from autocompress.train.checkpoint import Keepers
from autocompress.train.effort import count_effort, read_times
from autocompress.train.objective import resolve_loss, resolve_metric

MakeBench = Callable[[Base, Tensor, LatencySettings], Bench]


class Evaluator:
    """Evaluates jobs of one task in this process; models are stored in a run folder.

    Attributes:
        task: Model, data, loss and metric.
        settings: How to evaluate.
        folder: Where models lie by key.
    """

    def __init__(
        self,
        task: Task,
        settings: EvaluateSettings,
        folder: RunFolder,
        *,
        dense_key: str = "",
        make_bench: MakeBench = DeviceBench,
    ) -> None:
        """Open the dense model.

        Args:
            task: Model, data, loss and metric.
            settings: How to evaluate.
            folder: Where models lie by key.
            dense_key: Key of a dense model that lies there; when empty it follows from the
                task's files, and the model is trained unless it is there.
            make_bench: Makes what measures latency, once it is asked for.
        """
        self.task = task
        self.settings = settings
        self.folder = folder
        if dense_key:
            self.dense_key = dense_key
            model, self.dense_metrics = load_dense(task, folder, dense_key)
        else:
            model, self.dense_key, self.dense_metrics = train_dense(task, folder)
        self._dense = make_base(model, task)
        self._make_bench = make_bench
        self._open = lru_cache(maxsize=2)(self._load)

    def open_base(self, key: str) -> Base:
        """Return the stored base called ``key``; the dense model when it is empty.

        Raises:
            ArtifactError: It is not in the run folder.
        """
        return self._dense if not key else self._open(key)

    def has(self, key: str) -> bool:
        """Return whether the model called ``key`` is stored; the dense one, when empty, is."""
        return not key or self.folder.has(key)

    def describe(self, key: str) -> tuple[LayerGraph, Candidate]:
        """Return the graph of a base and what it keeps."""
        base = self.open_base(key)
        return base.graph, base.count()

    def rank(self, key: str) -> Importance:
        """Return what units and columns of a base matter.

        Raises:
            ArtifactError: The base is missing or damaged.
        """
        base = self.open_base(key)
        return measure_importance(base.graph, base.model, base.masks)

    def run(self, job: Job) -> Outcome:
        """Return what came of ``job``; its stored model, if any, is complete on disk.

        Whatever the stage, its metrics say what it cost: ``seconds``, ``cpu_s``, the CPU seconds
        of all threads of this process, and ``samples``, see
        :class:`autocompress.train.effort.Effort`. What killed processes left to go on with counts.

        Raises:
            EvaluationError: Training diverged.
            ArtifactError: The base is missing or damaged.
        """
        start, cpu_start = read_times()
        with count_effort() as effort:
            outcome = self._run(job)
        end, cpu_end = read_times()
        spent = {
            "samples": float(effort.samples),
            "cpu_s": effort.cpu_s + cpu_end - cpu_start,
            "seconds": effort.seconds + end - start,
        }
        return replace(outcome, metrics={**outcome.metrics, **spent})

    def _run(self, job: Job) -> Outcome:
        base = self.open_base(job.base)
        if job.stage == "latency":
            artifact, metrics = self._survey(job)
            energy = metrics["dense_us"]
        elif job.stage == "fast":
            pruned, metrics = estimate_candidate(
                base, job.candidate, self.task, self.settings, seed=job.seed
            )
            artifact, energy = "", self._rate(metrics)
            metrics |= self._time(job, pruned)
        else:
            artifact = self._artifact_key(job)
            metrics = self._run_stored(job, base, artifact)
            energy = self._energy(metrics["val_metric"])
        return Outcome(energy=energy, metrics=metrics, artifact=artifact)

    def glance(self, job: Job) -> Outcome:
        """Return the score of a fast job's candidate without any training: the lower rung.

        Raises:
            ArtifactError: The base is missing or damaged.
        """
        fast = replace(self.settings.fast, fidelity="one_shot")
        settings = replace(self.settings, fast=fast)
        base = self.open_base(job.base)
        metrics = evaluate_fast(base, job.candidate, self.task, settings, seed=job.seed)
        return Outcome(energy=self._rate(metrics), metrics=metrics)

    def pack(self) -> "Parcel":
        """Return what makes such an evaluator on another machine; reads the test set.

        Raises:
            SettingError: The modules of the user are too many.
        """
        return Parcel(
            task=self.task.settings,
            evaluate=self.settings,
            data=carry_data(self.task.data),
            dense_key=self.dense_key,
            dense=read_files(self.folder.path(self.dense_key)),
            sources=collect_sources(self.task.settings),
        )

    def _run_stored(self, job: Job, base: Base, key: str) -> dict[str, float]:
        # By the key of the trial: so a study knows which trainings it waits for.
        own = job.key(self.settings.hash_for(job.stage, self.dense_key))
        keepers = Keepers(self.folder.checkpoints, own)
        try:
            metrics = self._make(job, base, key, keepers)
        except EvaluationError:  # Another attempt is a real one, or there is none.
            keepers.clear()
            raise
        keepers.clear()
        return metrics

    def _make(self, job: Job, base: Base, key: str, keepers: Keepers) -> dict[str, float]:
        candidate, task, settings = job.candidate, self.task, self.settings
        teacher, seed = self._dense, job.seed
        if job.stage == "round":
            pruned, metrics = evaluate_round(
                base, candidate, task, settings, teacher=teacher, seed=seed, keepers=keepers
            )
            metrics |= self._time(job, pruned)
            self.folder.write(key, lambda path: save_base(path, pruned, task, metrics))
            return metrics
        finished = evaluate_full(
            base, candidate, task, settings, teacher=teacher, seed=seed, keepers=keepers
        )
        if self.settings.latency is not None:
            finished.metrics.update(list_shares(self._bench.compare(finished.model)))
        self.folder.write(key, lambda path: save_finished(path, finished, self.task))
        return finished.metrics

    def read_table(self, key: str) -> LatencyTable:
        """Return the latency table that a job stored.

        Raises:
            ArtifactError: It is missing or damaged.
        """
        return read_table(self.folder, key)

    def fits_here(self, machine: Machine) -> bool:
        """Return whether times measured there hold on the device of this process."""
        return self._bench.fits(machine)

    @cached_property
    def _bench(self) -> Bench:
        settings = self.settings.latency or LatencySettings()
        return self._make_bench(self._dense, self.task.example(), settings)

    def _survey(self, job: Job) -> tuple[str, dict[str, float]]:
        table = self._bench.survey(job.seed)
        figures = {"dense_us": table.dense_us, "table_error": table.error.median}
        return write_table(self.folder, table), figures

    def _time(self, job: Job, pruned: Base) -> dict[str, float]:
        """Return the measured latency of a masked model, if its stage is measured."""
        latency = self.settings.latency
        if latency is None or not latency.measures(job.stage):
            return {}
        masks = propagate(pruned.graph, pruned.masks)
        compact = compact_model(pruned.model, pruned.graph, masks).eval()
        return list_shares(self._bench.compare(compact))

    def _rate(self, metrics: Mapping[str, float]) -> float:
        """Return the energy of a candidate after little work, see ``FastSettings.capacity``."""
        capacity = self.settings.fast.capacity or 0.0
        if not capacity:
            return metrics["val_loss"]
        whole = count_masks(self._dense.graph, self._dense.masks).weights
        return metrics["val_loss"] - capacity * math.log(metrics["weights"] / whole)

    def _energy(self, metric: float) -> float:
        return -metric if self.task.settings.metric_direction == "maximize" else metric

    def _artifact_key(self, job: Job) -> str:
        how = settings_to_json(self.settings.for_stage(job.stage))
        spec = {"dense": self.dense_key, "evaluate": how}
        return hash_json({"job": job.identity(), **spec})

    def _load(self, key: str) -> Base:
        if not self.folder.has(key):
            raise ArtifactError(
                f"the model {key[:12]} is not in the run folder {self.folder.place}"
            )
        path = self.folder.path(key)
        with name_remedy(path):
            return load_base(path, self.task)


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """Makes an evaluator where nothing of this machine is: no data, no models, no modules.

    Survives pickle.

    Attributes:
        task: What is learned.
        evaluate: How candidates are evaluated.
        data: The samples.
        dense_key: Key of the dense model.
        dense: Its files.
        sources: Modules of the user.
    """

    task: TaskSettings
    evaluate: EvaluateSettings
    data: CarriedData
    dense_key: str
    dense: Files
    sources: Files

    def __call__(self, root: str) -> Evaluator:
        """Return a new evaluator whose models lie in the folder ``root``.

        Raises:
            SettingError: The task cannot be opened here.
        """
        install_sources(self.sources, Path(root) / "sources")
        folder, device = RunFolder(Path(root)), find_device(self.task.device)
        task = Task(
            self.task,
            self.data.open(device, self.task.data.memory_limit_bytes),
            resolve_loss(self.task.loss),
            resolve_metric(self.task.metric),
            device,
        )
        store_files(folder, self.dense_key, self.dense)
        return Evaluator(task, self.evaluate, folder, dense_key=self.dense_key)


def save_finished(folder: Path, finished: Finished, task: Task) -> None:
    """Write ``finished`` as an artifact that ``autocompress.load`` opens."""
    save_model(folder, finished.model, task, finished.metrics)
