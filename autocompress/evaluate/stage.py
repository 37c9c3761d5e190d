"""A model between two phases of a progressive pipeline, as it lies in the run folder."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from autocompress.errors import ArtifactError, EvaluationError
from autocompress.evaluate.task import Task, save_model
from autocompress.graph.layers import LayerGraph
from autocompress.graph.trace import trace_graph
from autocompress.masks.mask import Masks, close_masks, full_masks
from autocompress.masks.paths import find_live_units, keep_live
from autocompress.masks.weights import WeightMasks
from autocompress.methods.held import Held, hold_all, read_weights
from autocompress.shrink.filters import shrink_filters, slice_graph
from autocompress.store.artifacts import load

HELD_FILE = "held.safetensors"
RECORD_FILE = "phase.json"
VERSION = 1


@dataclass(frozen=True)
class Stage:
    """A model in the middle of a pipeline.

    Attributes:
        model: Without dead units; removed weights are zero.
        graph: Of ``model``.
        held: Which weights are removed and which are at their levels.
    """

    model: nn.Module
    graph: LayerGraph
    held: Held


def begin_stage(model: nn.Module, task: Task) -> Stage:
    """Return a dense model as the start of a pipeline."""
    graph = trace_graph(model, task.example())
    return Stage(model, graph, hold_all(model, graph))


def remove_dead(stage: Stage) -> Stage:
    """Return ``stage`` without weights on dead paths and, physically, without dead units.

    A unit that nothing reaches emits a constant, which is lost: retrain afterwards.

    Raises:
        EvaluationError: No path through a layer is left.
    """
    masks = keep_live(stage.graph, stage.held.masks)
    units = find_live_units(stage.graph, masks).cpu()  # Where graphs are sliced.
    for group in stage.graph.groups:
        span = slice(group.start, group.start + group.size)
        if not group.prunable:
            units[span] = True
        elif not bool(units[span].any()):
            raise EvaluationError(
                f"no path through {group.name} is left with {stage.held.count():,} weights kept; "
                "keep more of them, or set a minimum for each layer"
            )
    if bool(units.all()):
        return Stage(stage.model, stage.graph, _limit(stage.held, masks))
    whole = full_masks(stage.graph)
    dead = close_masks(stage.graph, Masks(units, whole.columns))
    graph, _ = slice_graph(stage.graph, dead)
    model = shrink_filters(stage.model, stage.graph, dead)
    held = Held(
        _slice(stage, dead, masks), _slice(stage, dead, stage.held.frozen), stage.held.scales
    )
    return Stage(model, graph, _limit(held, held.masks))


@torch.no_grad()
def clear_signs_(stage: Stage) -> None:
    """Turn the weights of ``stage`` that are -0.0, as masks leave half of them, into 0.

    They compute the same, but an artifact stores every bit that is not 0: four times its size.
    """
    for weight in read_weights(stage.model, stage.graph).values():
        weight.add_(0.0)


def count_nonzero(stage: Stage) -> int:
    """Return the weights that are not zero: of the model itself, whatever the masks say."""
    weights = read_weights(stage.model, stage.graph)
    return sum(int((one != 0).sum()) for one in weights.values())


def save_stage(folder: Path, stage: Stage, task: Task, metrics: Mapping[str, float]) -> None:
    """Write ``stage`` as an artifact with what is held beside it."""
    save_model(folder, stage.model, task, dict(metrics))
    held = stage.held
    tensors = {f"masks/{name}": one.to(torch.uint8).cpu() for name, one in held.masks.items()}
    tensors |= {f"frozen/{name}": one.to(torch.uint8).cpu() for name, one in held.frozen.items()}
    # Not save_file, whose error for a full disk is no OSError.
    (folder / HELD_FILE).write_bytes(
        save({name: one.contiguous() for name, one in tensors.items()})
    )
    record = {"version": VERSION, "metrics": dict(metrics), "scales": dict(held.scales)}
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=1), encoding="utf-8")


def load_stage(folder: Path, task: Task) -> Stage:
    """Return the stage stored in ``folder``.

    Raises:
        ArtifactError: It is missing or damaged.
    """
    model = load(folder, factory=task.find_factory()).to(task.device)
    try:
        tensors = load_file(folder / HELD_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtifactError(f"{folder}: cannot read {HELD_FILE}: {error}") from error
    parts: dict[str, WeightMasks] = {"masks": {}, "frozen": {}}
    for name, one in tensors.items():
        part, _, layer = name.partition("/")
        parts[part][layer] = one.bool().to(task.device)
    held = Held(parts["masks"], parts["frozen"], _read_record(folder)["scales"])
    return Stage(model, trace_graph(model, task.example()), held)


def read_metrics(folder: Path) -> dict[str, float]:
    """Return the figures stored with a stage.

    Raises:
        ArtifactError: They are missing or damaged.
    """
    return {name: float(value) for name, value in _read_record(folder)["metrics"].items()}


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        if record["version"] != VERSION:
            raise ValueError(f"want version {VERSION}, got {record['version']}")
        return {"metrics": dict(record["metrics"]), "scales": dict(record["scales"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder / RECORD_FILE}: cannot be read: {error}") from error


def _limit(held: Held, masks: WeightMasks) -> Held:
    frozen = {name: one & masks[name] for name, one in held.frozen.items()}
    return Held(masks, frozen, held.scales)


def _slice(stage: Stage, dead: Masks, masks: WeightMasks) -> dict[str, Tensor]:
    """Return ``masks`` without the rows and columns of dead units.

    The masks take the places of the weights in a copy of the model that is made smaller, so
    that they are cut in the same way by the same code.
    """
    carrier = copy.deepcopy(stage.model)
    for name, one in masks.items():
        carrier.get_parameter(f"{name}.weight").data = one.float()
    smaller = shrink_filters(carrier, stage.graph, dead)
    return {name: smaller.get_parameter(f"{name}.weight").detach() > 0 for name in masks}
