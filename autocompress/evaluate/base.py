"""The model that a round starts from: filters already removed, columns masked."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from autocompress.errors import ArtifactError
from autocompress.evaluate.task import Task, save_model
from autocompress.graph.layers import LayerGraph
from autocompress.graph.trace import trace_graph
from autocompress.jobs import Candidate
from autocompress.masks.mask import Masks, apply_masks_, count_kept, full_masks, parameter_masks
from autocompress.shrink.filters import shrink_filters, slice_graph
from autocompress.store.artifacts import load

MASKS_FILE = "masks.safetensors"
WEIGHTS = "/weights"  # What follows the name of a layer there: no module's name has a slash.


@dataclass(frozen=True)
class Base:
    """A model with its graph and what it keeps.

    Attributes:
        model: Weights outside ``masks`` are zero; in evaluation mode.
        graph: Of ``model``.
        masks: All units of ``graph`` are kept in a stored base; columns may be gone, and single
            weights.
    """

    model: nn.Module
    graph: LayerGraph
    masks: Masks

    def count(self) -> Candidate:
        """Return the units, columns and single weights kept."""
        return count_kept(self.graph, self.masks)

    def copy(self) -> "Base":
        """Return a base whose model can be trained without touching this one."""
        return Base(copy.deepcopy(self.model), self.graph, self.masks)


def make_base(model: nn.Module, task: Task) -> Base:
    """Return ``model`` as the base of a first round."""
    graph = trace_graph(model, task.example())
    return Base(model, graph, full_masks(graph))


def mask_base(base: Base, masks: Masks) -> Base:
    """Return ``base`` with its model masked in place."""
    apply_masks_(base.model, parameter_masks(base.graph, masks, base.model))
    return Base(base.model, base.graph, masks)


def shrink_base(base: Base) -> Base:
    """Return a new base without the dead units of ``base``; outputs are equal."""
    graph, masks = slice_graph(base.graph, base.masks)
    return Base(shrink_filters(base.model, base.graph, base.masks), graph, masks)


def save_base(folder: Path, base: Base, task: Task, metrics: dict[str, float]) -> None:
    """Write ``base`` as an artifact with its masks of columns and weights beside it."""
    save_model(folder, base.model, task, metrics)
    masks = dict(base.masks.columns)
    masks |= {f"{name}{WEIGHTS}": mask for name, mask in base.masks.weights.items()}
    stored = {name: mask.to(torch.uint8).contiguous() for name, mask in masks.items()}
    # Not save_file, whose error for a full disk is no OSError.
    (folder / MASKS_FILE).write_bytes(save(stored))


def load_base(folder: Path, task: Task) -> Base:
    """Return the base stored in ``folder``.

    Raises:
        ArtifactError: It is missing or damaged.
    """
    model = load(folder, factory=task.find_factory()).to(task.device)
    try:
        stored = load_file(folder / MASKS_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtifactError(f"{folder}: cannot read {MASKS_FILE}: {error}") from error
    graph = trace_graph(model, task.example())
    found = {name: mask.bool() for name, mask in stored.items()}
    weights = {
        name.removesuffix(WEIGHTS): mask for name, mask in found.items() if name.endswith(WEIGHTS)
    }
    columns = {name: mask for name, mask in found.items() if not name.endswith(WEIGHTS)}
    return Base(model, graph, Masks(torch.ones(graph.units, dtype=torch.bool), columns, weights))
