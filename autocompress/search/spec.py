"""All settings of a study, as one TOML file."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna

from autocompress.errors import SettingError
from autocompress.evaluate.settings import EvaluateSettings, LatencySettings
from autocompress.evaluate.task import TaskSettings
from autocompress.execute.settings import ExecuteSettings
from autocompress.search.budget import Budget
from autocompress.search.rounds import RoundSettings
from autocompress.search.settings import SearchSettings
from autocompress.search.space import SpaceSettings, resolve_space
from autocompress.search.storage import find_file
from autocompress.search.study import read_spec
from autocompress.settings import parse_settings, settings_to_json
from autocompress.store.places import is_remote, settle_place

_OF_JOB = "_ray_pkg_"  # What Ray calls the folder where it unpacks a working directory.
PLACES = ("run_dir", "storage", "execute")  # Where things lie and run changes no result.


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One study.

    Attributes:
        name: Name of the study.
        seed: Of every draw of the search and its evaluations.
        run_dir: Folder of models and results; ``runs/NAME`` when empty. Also the URL of a store,
            such as ``s3://bucket/runs/first``.
        storage: Optuna URL of the database; ``study.db`` in ``run_dir`` when empty.
        task: What is learned.
        space: Which densities may be chosen.
        budget: What the finished model may cost.
        search: The annealing.
        rounds: The way to the budget.
        evaluate: How candidates are evaluated.
        execute: Where they are evaluated; may change whenever a search goes on.
    """

    name: str = "study"
    seed: int = 0
    run_dir: str = ""
    storage: str = field(default="", repr=False)  # It may hold a password.
    task: TaskSettings = field(default_factory=TaskSettings)
    space: SpaceSettings = field(default_factory=SpaceSettings)
    budget: Budget = field(default_factory=lambda: Budget(weights=0.25))
    search: SearchSettings = field(default_factory=SearchSettings)
    rounds: RoundSettings = field(default_factory=RoundSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    execute: ExecuteSettings = field(default_factory=ExecuteSettings)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise SettingError(f"name: want letters, digits, '.', '_' and '-', got {self.name!r}")
        if self.seed < 0:
            raise SettingError(f"seed: want 0 or more, got {self.seed}")


def resolve_settings(settings: Settings) -> Settings:
    """Return ``settings`` with its places filled in and its search-space file read.

    How latency is measured is said exactly where it is asked for.

    Raises:
        SettingError: The search-space file is missing or wrong, or a place is.
    """
    run_dir = settle_place(settings.run_dir or f"runs/{settings.name}")
    if is_remote(run_dir) and not settings.storage:
        raise SettingError(
            f"storage: SQLite needs a local file, and run_dir is {run_dir}; set storage to a file "
            f"such as runs/{settings.name}/study.db, or to a postgresql+psycopg:// URL"
        )
    storage = settings.storage or f"sqlite:///{run_dir}/study.db"
    space = resolve_space(settings.space)
    latency = (settings.evaluate.latency or LatencySettings()) if uses_latency(settings) else None
    evaluate = replace(settings.evaluate, latency=latency)
    return replace(settings, run_dir=run_dir, storage=storage, space=space, evaluate=evaluate)


def uses_latency(settings: Settings) -> bool:
    """Return whether a search asks for latency, and so for a table of it."""
    return settings.budget.uses_latency or "latency" in settings.search.resources


def check_lasting(settings: Settings) -> None:
    """Refuse places that vanish with the job of a Ray cluster, and with them the study.

    Raises:
        SettingError: The run folder or the database lies where Ray unpacks a job's files.
    """
    places = {"run_dir": None if is_remote(settings.run_dir) else Path(settings.run_dir)}
    for key, place in (places | {"storage": find_file(settings.storage)}).items():
        if place is not None and any(one.startswith(_OF_JOB) for one in place.absolute().parts):
            raise SettingError(
                f"{key}: {place} would lie in the folder of this Ray job, which is deleted with "
                "it; want an absolute path, or a URL"
            )


def check_device(settings: Settings) -> None:
    """Refuse CUDA on Ray where no worker would see a GPU.

    Raises:
        SettingError: It is asked for, and no GPU is.
    """
    device, execute = settings.task.device, settings.execute
    if execute.executor == "ray" and device.startswith("cuda") and not execute.gpus:
        raise SettingError(
            f"task.device: {device!r} wants a GPU, and execute.gpus is 0: Ray's workers see the "
            "GPUs that they ask for and no others; set execute.gpus to the GPUs, or the part of "
            "one, that each worker gets"
        )


def find_outputs(settings: Settings) -> Path:
    """Return the local folder of what people look at: the run folder, unless it is in a store.

    Args:
        settings: Resolved.
    """
    return Path(f"runs/{settings.name}" if is_remote(settings.run_dir) else settings.run_dir)


def make_spec(settings: Settings) -> dict[str, Any]:
    """Return what of resolved ``settings`` decides the result, as plain values."""
    record = settings_to_json(settings)
    return {key: value for key, value in record.items() if key not in PLACES}


def read_study_settings(study: optuna.Study, storage: str) -> Settings:
    """Return the settings that a stored study goes on with.

    Args:
        study: A study of this package.
        storage: The URL it was opened by.

    Raises:
        StudyError: The study was not made by this package.
        SettingError: It was made by a version with other settings.
    """
    run_dir = find_run_dir(study.user_attrs.get("run_dir", ""), storage)
    return parse_settings(Settings, {**read_spec(study), "run_dir": run_dir, "storage": storage})


def find_run_dir(stored: str, storage: str) -> str:
    """Return the run folder: the one around the database where that is the one of the study.

    A study remembers its folder as it was given, mostly relative to where the search began; the
    database says where that folder is for someone who stands elsewhere or moved it.
    """
    file = find_file(storage)
    if file is None or not stored or is_remote(stored):
        return stored
    around = file.parent
    is_same = around.resolve().name == Path(stored).resolve().name
    return str(around) if is_same and (around / "objects").is_dir() else stored
