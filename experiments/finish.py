"""Finish candidates of a search again, with other settings; scripts of experiments use it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from autocompress.evaluate.base import Base, load_base, make_base
from autocompress.evaluate.full import Finished, evaluate_full
from autocompress.evaluate.task import Task, open_task, train_dense
from autocompress.jobs import Job
from autocompress.search.controller import SearchResult
from autocompress.search.ledger import read_records
from autocompress.search.records import Record
from autocompress.search.spec import Settings, read_study_settings
from autocompress.search.study import open_study
from autocompress.settings import change_settings
from autocompress.store.run_folder import RunFolder
from autocompress.train.checkpoint import Keepers
from autocompress.train.effort import count_effort, read_times


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search that is done.

    Attributes:
        settings: Its own; the data where it lies here.
        task: What is learned.
        folder: Its run folder.
        records: All its decisions.
        dense: The dense model.
        dense_key: Its key.
        known: Figures of the dense model.
    """

    settings: Settings
    task: Task
    folder: RunFolder
    records: tuple[Record, ...]
    dense: nn.Module
    dense_key: str
    known: Mapping[str, float]

    @property
    def best(self) -> Record:
        """Return its best finished model."""
        return SearchResult(
            settings=self.settings, evaluated=0, records=self.records, done=True
        ).finished[0]

    def open_base(self, key: str) -> Base:
        """Return where a candidate starts; an empty key names the dense model."""
        if key:
            return load_base(self.folder.path(key), self.task)
        return make_base(self.dense, self.task)


def open_search(run_dir: str, name: str, root: str) -> Search:
    """Return the search ``name`` of a run folder.

    Args:
        run_dir: The folder, with the database.
        name: Of its study.
        root: Where the data lie; empty takes what the settings say.
    """
    storage = f"sqlite:///{run_dir}/study.db"
    study = open_study(name, storage)
    settings = read_study_settings(study, storage)
    data = replace(settings.task.data, root=root or settings.task.data.root)
    task = open_task(replace(settings.task, data=data, device="auto"))
    folder = RunFolder(Path(run_dir))
    dense, dense_key, known = train_dense(task, folder)
    return Search(
        settings=replace(settings, task=task.settings),
        task=task,
        folder=folder,
        records=tuple(read_records(study)),
        dense=dense,
        dense_key=dense_key,
        known=known,
    )


def finish_again(search: Search, record: Record, changes: Mapping[str, Any]) -> Finished:
    """Return the model of a candidate, finished with changed ``evaluate`` settings.

    Killed and called again it goes on. Its metrics say what that cost: ``samples``, ``seconds``
    and ``cpu_s``, as in the study.

    Args:
        search: Of the candidate.
        record: Its fast evaluation, or its model.
        changes: By key below ``evaluate``, such as ``full.final.epochs``.
    """
    settings = change_settings(search.settings.evaluate, dict(changes))
    job = Job(
        stage="full",
        candidate=record.candidate,
        round=record.round,
        base=record.base,
        seed=search.settings.seed,
    )
    keepers = Keepers(
        search.folder.checkpoints, job.key(settings.hash_for("full", search.dense_key))
    )
    start, cpu_start = read_times()
    with count_effort() as effort:
        finished = evaluate_full(
            search.open_base(record.base),
            record.candidate,
            search.task,
            settings,
            teacher=make_base(search.dense, search.task),
            seed=job.seed,
            keepers=keepers,
        )
    end, cpu_end = read_times()
    keepers.clear()
    spent = {
        "samples": float(effort.samples),
        "seconds": effort.seconds + end - start,
        "cpu_s": effort.cpu_s + cpu_end - cpu_start,
    }
    return replace(finished, metrics={**finished.metrics, **spent})
