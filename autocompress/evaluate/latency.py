"""Measure latency on the device of this process: a table of the dense model, and single models.

A model is measured as ``deploy.optimize`` makes it run, in turns with the dense one made fast in
the same way: what comes out is a share of the dense model's time, in which drift cancels.
"""

import copy
import json
import logging
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from autocompress.deploy.choose import FormCache
from autocompress.deploy.measure import (
    Speedup,
    compare_times,
    measure_models,
    measure_together,
    pin_threads,
)
from autocompress.deploy.optimize import optimize
from autocompress.deploy.stopwatch import choose_clock, make_tools
from autocompress.deploy.survey import SurveySettings, describe_machine, survey_latency
from autocompress.errors import ArtifactError, GraphError, SettingError
from autocompress.evaluate.base import Base
from autocompress.evaluate.settings import LatencySettings
from autocompress.jobs import hash_json
from autocompress.masks.latency import LatencyTable, Machine
from autocompress.store.run_folder import RunFolder

logger = logging.getLogger(__name__)
TABLE_FILE = "latency.json"


class Bench(Protocol):
    """Measures one dense model and what becomes of it."""

    def survey(self, seed: int) -> LatencyTable:
        """Return the latency table of the dense model.

        Args:
            seed: Of random shapes that it is fitted to.
        """
        ...

    def compare(self, model: nn.Module) -> Speedup:
        """Return the time of ``model`` as a share of the dense model's, with quartiles."""
        ...

    def fits(self, machine: Machine) -> bool:
        """Return whether times measured on ``machine`` hold here."""
        ...


class DeviceBench:
    """Measures on the device of the dense model."""

    def __init__(self, dense: Base, example: Tensor, settings: LatencySettings) -> None:
        """Measure nothing yet.

        Args:
            dense: The dense model.
            example: One input on its device, shape (1, ...).
            settings: How to measure.
        """
        self._base = dense
        self._settings = settings
        shape = (settings.batch, *example.shape[1:])
        drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        self._inputs = drawn.to(example)
        self._cache = FormCache()

    def survey(self, seed: int) -> LatencyTable:
        """Return the latency table of the dense model."""
        own = self._settings
        settings = SurveySettings(
            batch=own.batch, threads=own.threads, align=own.align, turns=own.turns, seed=seed
        )
        # What is predicted and what is measured afterwards are made fast in the same way.
        tools = replace(make_tools(), make_fast=self._optimize)
        return survey_latency(self._base.model, self._base.graph, self._inputs, settings, tools)

    def compare(self, model: nn.Module) -> Speedup:
        """Return the time of ``model`` as a share of the dense model's, with quartiles."""
        with pin_threads(self._settings.threads):
            models = {"model": self._optimize(model, self._inputs), "dense": self._dense}
            clock = choose_clock(self._inputs.device)
            times = measure_models(models, self._inputs, turns=self._settings.turns, clock=clock)
        return compare_times(times["model"], times["dense"])

    def fits(self, machine: Machine) -> bool:
        """Return whether times measured on ``machine`` hold here."""
        with pin_threads(self._settings.threads):
            return describe_machine(self._inputs, machine.layout) == machine

    @cached_property
    def _dense(self) -> nn.Module:
        return self._optimize(self._base.model, self._inputs)

    def _optimize(self, model: nn.Module, example: Tensor) -> nn.Module:
        target = str(example.device)
        measure = partial(measure_together, clock=choose_clock(example.device))
        try:
            return optimize(model, example, target=target, cache=self._cache, measure=measure)
        except GraphError as error:  # It runs as it is; that is no reason to lose it.
            logger.warning("a model is measured as it is: %s", error)
            return copy.deepcopy(model).eval()


def list_shares(share: Speedup) -> dict[str, float]:
    """Return a share of the dense model's latency as metrics."""
    return {
        "latency_share": share.factor,
        "latency_share_low": share.low,
        "latency_share_high": share.high,
    }


def write_table(folder: RunFolder, table: LatencyTable) -> str:
    """Store ``table`` and return its key, which follows from what it says."""
    record = table.to_json()
    key, text = hash_json(record), json.dumps(record, sort_keys=True)

    def fill(path: Path) -> None:
        (path / TABLE_FILE).write_text(text, encoding="utf-8")

    folder.write(key, fill)
    return key


def read_table(folder: RunFolder, key: str) -> LatencyTable:
    """Return a stored table.

    Raises:
        ArtifactError: It is missing or damaged.
    """
    path = folder.path(key) / TABLE_FILE
    try:
        return LatencyTable.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, SettingError) as error:
        raise ArtifactError(f"{path}: no latency table can be read: {error}") from error
