"""TensorBoard, MLflow and Weights & Biases as sinks; each is an optional package.

The name of a run follows from the study alone, so a resumed search goes on in its run.
"""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autocompress.jobs import hash_json


def make_run_id(name: str, settings: Mapping[str, Any]) -> str:
    """Return the same name of a run for the same study: letters, digits, ``-`` and ``_``."""
    stem = re.sub(r"[^A-Za-z0-9_-]", "-", name)
    return f"{stem}-{hash_json({'name': name, **settings})[:12]}"


class TensorBoardSink:
    """Writes event files to ``FOLDER/RUN``."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._open = SummaryWriter
        self._folder = folder

    def start(self, name: str, settings: Mapping[str, Any]) -> None:
        """Open the run's folder; a resumed search adds a file to it."""
        self._writer = self._open(str(self._folder / make_run_id(name, settings)))
        lines = (f"    {key} = {value}" for key, value in settings.items())
        self._writer.add_text("settings", "\n".join(lines), 0)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Add one point to each figure."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def finish(self) -> None:
        """Close the file."""
        self._writer.close()


class MlflowSink:
    """Writes a run of the experiment ``autocompress``, found again by a tag when resumed."""

    def __init__(self, folder: Path) -> None:
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient, is_tracking_uri_set

        self._metric = Metric
        folder.mkdir(parents=True, exist_ok=True)
        own = f"sqlite:///{folder / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=None if is_tracking_uri_set() else own)

    def start(self, name: str, settings: Mapping[str, Any]) -> None:
        """Open the run with the study's tag, made when there is none."""
        tag = make_run_id(name, settings)
        found = self._client.get_experiment_by_name("autocompress")
        experiment = (
            self._client.create_experiment("autocompress")
            if found is None
            else found.experiment_id
        )
        runs = self._client.search_runs([experiment], f"tags.autocompress = '{tag}'")
        if runs:
            self._run = runs[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        self._run = self._client.create_run(
            experiment, tags={"autocompress": tag}, run_name=name
        ).info.run_id
        for key, value in settings.items():
            self._client.log_param(self._run, key, str(value)[:500])

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Add one point to each figure."""
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, step) for name, value in figures.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def finish(self) -> None:
        """Say that the run is over."""
        self._client.set_terminated(self._run)


class WandbSink:
    """Writes a run of the project ``autocompress``; without a login, ``WANDB_MODE=offline``."""

    def __init__(self, folder: Path) -> None:
        import wandb

        self._wandb = wandb
        self._folder = folder

    def start(self, name: str, settings: Mapping[str, Any]) -> None:
        """Open the run, or go on with it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._run = self._wandb.init(
            project="autocompress",
            id=make_run_id(name, settings),
            name=name,
            dir=str(self._folder),
            config=dict(settings),
            resume="allow",
        )
        self._run.define_metric("*", step_metric="decision")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Add one point to each figure."""
        self._run.log({"decision": step, **figures})

    def finish(self) -> None:
        """Send what is left."""
        self._run.finish()
