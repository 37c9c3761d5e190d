"""A task: the data, the model, the loss and the metric that one study is about."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from autocompress.data.fingerprint import fingerprint_data
from autocompress.data.load import load_data
from autocompress.data.settings import DataSettings
from autocompress.data.source import DataSet
from autocompress.errors import ArtifactError, EvaluationError, SettingError
from autocompress.jobs import hash_json
from autocompress.settings import settings_to_json
from autocompress.store.artifacts import load, save_artifact
from autocompress.store.run_folder import RunFolder, name_remedy
from autocompress.train.checkpoint import Keeper, Keepers
from autocompress.train.loop import TrainSettings, fork_seed, score_model, train_model_
from autocompress.train.objective import (
    Loss,
    Metric,
    make_task_loss,
    resolve_loss,
    resolve_metric,
)
from autocompress.zoo.make import (
    ModelSettings,
    hash_source,
    import_callable,
    is_known,
    make_model,
)

DENSE_VERSION = 1
DENSE_FILE = "dense.json"


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """What is learned and how the dense model comes about.

    Attributes:
        data: The data set.
        model: The dense model.
        train: How the dense model is trained.
        loss: ``cross_entropy``, ``mse`` or ``package.module:function`` of (outputs, targets).
        metric: ``accuracy``, ``mse`` or ``package.module:function`` of (outputs, targets).
        metric_direction: Whether more or less of the metric is better.
        checkpoint: File with the dense model's state, ``.safetensors`` or ``.pt``, used
            instead of training.
        trainer: ``package.module:function``, called as ``trainer(model, train_source, seed)``
            instead of our training; it trains in place or returns the model.
        device: ``auto`` takes CUDA when there is any; otherwise a name such as ``cpu``. Every
            process that evaluates finds its own: on Ray, where workers see the GPUs of
            ``execute.gpus`` and no others, ``auto`` lets a machine without any lead those with.
        seed: Of initial weights, shuffling and augmentation.
    """

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    loss: str = "cross_entropy"
    metric: str = "accuracy"
    metric_direction: Literal["maximize", "minimize"] = "maximize"
    checkpoint: str = ""
    trainer: str = ""
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.checkpoint and self.trainer:
            raise SettingError(
                "task.trainer: want no trainer beside a checkpoint, which is not trained; got "
                f"checkpoint {self.checkpoint!r} and trainer {self.trainer!r}"
            )
        if self.metric == "mse" and self.metric_direction == "maximize":
            raise SettingError(
                "task.metric_direction: want 'minimize' with the metric 'mse', got 'maximize'"
            )


@dataclass(frozen=True)
class Task:
    """An open task.

    Attributes:
        settings: What was asked for.
        data: Its sources give batches on ``device``.
        loss: Mean over a batch, of (outputs, targets).
        metric: Mean over a batch, of (outputs, targets).
        device: Where models and batches are.
    """

    settings: TaskSettings
    data: DataSet
    loss: Loss
    metric: Metric
    device: torch.device

    def example(self) -> Tensor:
        """Return one black input, shape (1, channels, height, width)."""
        return torch.zeros(1, *self.data.input_spec.shape, device=self.device)

    def make_model(self) -> nn.Module:
        """Return the untrained dense model; the same weights at every call."""
        with fork_seed(self.settings.seed):
            model = make_model(self.settings.model, self.data.input_spec.shape, self.data.classes)
        return model.to(self.device)

    def find_factory(self) -> Callable[..., nn.Module] | None:
        """Return what makes the model from a stored artifact; None where none is needed."""
        name = self.settings.model.name
        return None if is_known(name) else import_callable(name, "model.name")


def open_task(settings: TaskSettings) -> Task:
    """Return the task, its training and validation data read.

    Raises:
        DataError: The data set is missing or malformed.
        SettingError: The loss, the metric or the device is not known.
    """
    loss, metric = resolve_loss(settings.loss), resolve_metric(settings.metric)
    device = find_device(settings.device)
    data = load_data(settings.data, device)
    _, targets = next(iter(data.validation.batches(1)))
    check_targets(settings, targets)
    return Task(settings, data, loss, metric, device)


def check_targets(settings: TaskSettings, targets: Tensor) -> None:
    """Refuse labels that the loss or the metric would take without complaint, and wrongly.

    Raises:
        SettingError: Classes for a squared error, or values for an accuracy.
    """
    if targets.is_floating_point():
        if settings.metric == "accuracy":
            raise SettingError(
                "task.metric: accuracy wants labels that are whole numbers, got floats; take "
                "metric = 'mse' with metric_direction = 'minimize', or your own function"
            )
    elif "mse" in (settings.loss, settings.metric):
        raise SettingError(
            "task.loss and task.metric: mse wants labels that are floats, got whole numbers; "
            "store them as floats, or take cross_entropy and accuracy"
        )


def find_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is CUDA when there is any.

    Raises:
        SettingError: There is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingError(f"task.device: want auto, cpu or cuda, got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingError(
            f"task.device: want a device of this machine, got {name!r}; use 'auto' or 'cpu'"
        )
    return device


def key_dense(settings: TaskSettings) -> str:
    """Return the SHA-256 that names the trained dense model.

    Everything it follows from counts, but not where it is: not the device and no place of files.
    Data of the user count by what :func:`fingerprint_data` sees of them, a checkpoint by its
    bytes, functions of the user by the text of the file that holds them.

    Raises:
        DataError: The data are missing.
        SettingError: The checkpoint or a function of the user is missing.
    """
    record = settings_to_json(settings)
    del record["device"]
    data: dict[str, Any] = record["data"]
    del data["download"], data["memory_limit_bytes"]
    data["root"] = fingerprint_data(settings.data)
    if settings.checkpoint:
        record["checkpoint"] = _hash_file(settings.checkpoint)
        del record["train"]
    sources = {key: hash_source(name, key) for key, name in name_functions(settings).items()}
    if sources:
        record["sources"] = sources
    return hash_json({"dense": DENSE_VERSION, **record})


def name_functions(settings: TaskSettings) -> dict[str, str]:
    """Return the functions of the user that a task names, by their settings."""
    names = {
        "model.name": "" if is_known(settings.model.name) else settings.model.name,
        "task.loss": settings.loss,
        "task.metric": settings.metric,
        "task.trainer": settings.trainer,
    }
    return {key: name for key, name in names.items() if ":" in name}


def train_dense(task: Task, folder: RunFolder) -> tuple[nn.Module, str, dict[str, float]]:
    """Return the dense model of ``task``: the stored one, or trained now and stored.

    Args:
        task: Its settings decide whether to train, to call the user's trainer or to take the
            user's checkpoint.
        folder: Where it is stored.

    Returns:
        The model on the task's device in evaluation mode, its key in ``folder``, and its
        ``val_loss``, ``val_metric`` and ``params``.

    Raises:
        ArtifactError: The stored model is damaged.
        EvaluationError: Training diverged.
        SettingError: Checkpoint or trainer are missing or do not fit the model.
    """
    key = key_dense(task.settings)
    if not folder.has(key):
        keepers = Keepers(folder.checkpoints, key)
        model = _obtain_dense(task, keepers.open("dense"))
        metrics = _score_dense(model, task)
        folder.write(key, partial(_save_dense, model=model, task=task, metrics=metrics))
        keepers.clear()
    # Also after training: a first and a second run go on from the same bits.
    stored, figures = load_dense(task, folder, key)
    return stored, key, figures


def load_dense(task: Task, folder: RunFolder, key: str) -> tuple[nn.Module, dict[str, float]]:
    """Return a stored dense model and its figures, see :func:`train_dense`.

    Raises:
        ArtifactError: It is missing or damaged.
    """
    path = folder.path(key)
    with name_remedy(path):
        stored = load(path, factory=task.find_factory()).to(task.device)
    return stored.eval(), _read_metrics(path)


def save_model(folder: Path, model: nn.Module, task: Task, metrics: dict[str, float]) -> None:
    """Write a model of ``task``, dense or smaller, as an artifact."""
    save_artifact(
        folder,
        model,
        model_settings=task.settings.model,
        input_shape=task.data.input_spec.shape,
        classes=task.data.classes,
        input_spec=task.data.input_spec,
        metrics=metrics,
    )


def _save_dense(folder: Path, model: nn.Module, task: Task, metrics: dict[str, float]) -> None:
    save_model(folder, model, task, metrics)
    record = {
        "version": DENSE_VERSION,
        "metrics": metrics,
        "task": settings_to_json(task.settings),
    }
    (folder / DENSE_FILE).write_text(json.dumps(record, indent=1), encoding="utf-8")


def _read_metrics(folder: Path) -> dict[str, float]:
    try:
        record = json.loads((folder / DENSE_FILE).read_text(encoding="utf-8"))
        return {name: float(value) for name, value in record["metrics"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{folder / DENSE_FILE}: cannot be read: {error}; delete {folder} to train again"
        ) from error


def _obtain_dense(task: Task, keeper: Keeper | None) -> nn.Module:
    """Return the dense model from where the settings say."""
    settings, model = task.settings, task.make_model()
    if settings.checkpoint:
        return load_checkpoint_(model, Path(settings.checkpoint))
    if settings.trainer:
        trainer = import_callable(settings.trainer, "task.trainer")
        returned = trainer(model, task.data.train, settings.seed)
        return returned if isinstance(returned, nn.Module) else model
    loss = make_task_loss(task.loss)
    source, seed = task.data.train, settings.seed
    train_model_(model, source, settings.train, loss=loss, seed=seed, keeper=keeper)
    return model


def load_checkpoint_(model: nn.Module, path: Path) -> nn.Module:
    """Give ``model`` the state in ``path`` and return it.

    Args:
        model: Changed in place.
        path: ``.safetensors``, or a file of ``torch.save`` with tensors only: a state dict, or
            a dict that holds one as ``state_dict``.

    Raises:
        SettingError: The file is missing or unreadable, or does not fit the model.
    """
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        model.load_state_dict(state)
    except FileNotFoundError as error:
        raise SettingError(f"task.checkpoint: no such file {path}") from error
    except UnpicklingError as error:
        raise SettingError(
            f"task.checkpoint: {path} holds more than tensors, which could run code; "
            "save model.state_dict() and give that"
        ) from error
    except (OSError, ValueError, RuntimeError, AttributeError, SafetensorError) as error:
        cause = " ".join(str(error).split())  # PyTorch writes a line per key.
        raise SettingError(f"task.checkpoint: {path} does not fit: {cause}") from error
    return model


def _score_dense(model: nn.Module, task: Task) -> dict[str, float]:
    scores = score_model(model.eval(), task.data.validation, loss=task.loss, metric=task.metric)
    if not math.isfinite(scores.loss):
        raise EvaluationError(f"the dense model has a validation loss of {scores.loss}")
    params = sum(parameter.numel() for parameter in model.parameters())
    return {"val_loss": scores.loss, "val_metric": scores.metric, "params": float(params)}


def _hash_file(name: str) -> str:
    try:
        with Path(name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SettingError(f"task.checkpoint: cannot read {name}: {error.strerror}") from error
