"""Group lasso: training that shrinks what is to go, harder and harder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.errors import ArtifactError, SettingError
from autocompress.graph.layers import LayerGraph
from autocompress.masks.cost import is_depthwise
from autocompress.masks.mask import Masks, apply_masks_, kept_rows, parameter_masks, weight_mask
from autocompress.masks.project import column_units, measure_energies, project_masks
from autocompress.methods.base import Found, Request
from autocompress.train.effort import TRAINING
from autocompress.train.loop import Hooks, count_steps, train_model_


@dataclass(frozen=True, kw_only=True)
class GroupLassoSettings:
    """The penalty and how often the ranking is renewed.

    Attributes:
        strength: Sum over the training of how far a step pulls a group towards zero, above 0;
            in units of the norm that the group would have with weights as large as those of
            its layers at the start. With 1 a typical group that has no gradient ends at zero;
            with more it is there earlier, and the rest of the training is without it.
        updates: Rankings over the whole training, 1 or more; at most one per step.
    """

    strength: float = 16.0
    updates: int = 20

    def __post_init__(self) -> None:
        if not self.strength > 0:
            raise SettingError(
                f"method.group_lasso.strength: want a value above 0, got {self.strength}"
            )
        if self.updates < 1:
            raise SettingError(f"method.group_lasso.updates: want 1 or more, got {self.updates}")


@dataclass(frozen=True, kw_only=True)
class GroupLasso:
    """Train with a group lasso on what the ranking would remove now, then project.

    Groups are as in DepGraph (arXiv:2301.12900): a unit's filters in all layers and the columns
    that read it; then each column, and each single weight, that is removed besides. Only groups
    that the projection of the weights as they are would remove are pulled, and the strength
    grows with the steps from nothing (arXiv:2012.09243). A weight that several of them share
    counts for one: for its filter's unit first, then for the unit that it reads. So no two
    overlap, and the proximal step of the penalty, a sum over groups of strength times L2 norm, is
    exact in closed form: each group is shortened by its strength, and at least to zero.

    Attributes:
        settings: Penalty and rankings.
    """

    settings: GroupLassoSettings = field(default_factory=GroupLassoSettings)

    def find_masks(self, request: Request) -> Found:
        """Return the projection of the weights after training with the growing penalty."""
        graph, model = request.graph, request.model
        steps = count_steps(request.source, request.train)
        held = parameter_masks(graph, request.within, model)
        pull = _Pull(request, self.settings, max(1, steps))

        def on_step(step: int) -> None:
            pull.on_step(step)
            apply_masks_(model, held)

        train_model_(
            model,
            request.source,
            request.train,
            loss=request.loss,
            seed=request.seed,
            hooks=Hooks(
                on_step=on_step,
                state_dict=pull.state_dict,
                load_state_dict=pull.load_state_dict,
            ),
            keeper=request.keeper,
        )
        masks = choose_masks(request)
        return Found(masks=masks, figures={"group_lasso_left": _measure_left(request, masks)})

    def count_samples(self, steps: int, batch_size: int) -> int:
        """Return three passes for each sample of each step."""
        return TRAINING * steps * batch_size


def choose_masks(request: Request) -> Masks:
    """Return the projection of the weights as they are."""
    energies = measure_energies(request.graph, request.model)
    return project_masks(request.graph, energies, request.candidate, within=request.within)


def number_groups(graph: LayerGraph, masks: Masks, within: Masks) -> tuple[dict[str, Tensor], int]:
    """Return the group of every weight, and how many groups there are; no two overlap.

    Args:
        graph: The layers and their coupling groups.
        masks: Closed masks; what they remove of ``within`` is in groups.
        within: What could be kept.

    Returns:
        For each layer, shape (filters, columns), int64, on the CPU: 0 for weights of no group,
        else a number below the second value.
    """
    numbers, next_free = {}, graph.units + 1  # The group of unit u is u + 1.
    for layer in graph.layers:
        removed = weight_mask(within, layer) & ~weight_mask(masks, layer)
        found = torch.zeros(removed.shape, dtype=torch.int64)
        singles = int(removed.sum()) if layer.name in masks.weights else 0
        if singles:
            found[removed] = torch.arange(next_free, next_free + singles)
            next_free += singles
        if layer.groups == 1:
            closed = ~masks.columns[layer.name]
            columns = torch.arange(next_free, next_free + layer.columns)
            found[:, closed] = columns[closed].expand(layer.filters, -1)
            next_free += layer.columns
        reads = column_units(layer)
        dead = (reads >= 0) & ~masks.units[reads.clamp(min=0)]
        if not is_depthwise(layer):
            found[:, dead] = reads[dead].expand(layer.filters, -1) + 1
        gone = ~kept_rows(masks, layer)
        found[gone] = torch.tensor(layer.out_units)[gone][:, None].expand(-1, layer.columns) + 1
        numbers[layer.name] = found.where(removed, 0)
    return numbers, next_free


@torch.no_grad()
def shrink_(
    weights: Mapping[str, Tensor], numbers: Mapping[str, Tensor], thresholds: Tensor
) -> None:
    """Take the proximal step of the sum over groups of threshold times L2 norm, in place.

    Its exact minimiser of ``sum_g t_g ||V_g|| + ||V - W||^2 / 2`` is, for groups that do not
    overlap, ``V_g = max(0, 1 - t_g / ||W_g||) W_g`` (arXiv:1108.0775).

    Args:
        weights: By layer, in their own shapes.
        numbers: Group of every weight, shape (filters, columns), on the device of the weights.
        thresholds: t_g by group number, 0 or more, float32 on that device.
    """
    squares = torch.zeros_like(thresholds)
    for name, weight in weights.items():
        values = weight.detach().flatten(1).float().square()
        squares.index_add_(0, numbers[name].flatten(), values.flatten())
    factors = 1 - thresholds / squares.sqrt().clamp(min=1e-30)
    factors = factors.clamp(min=0).where(thresholds > 0, 1.0)
    for name, weight in weights.items():
        weight.mul_(factors[numbers[name]].reshape(weight.shape).to(weight.dtype))


class _Pull:
    """The penalty of one training: its groups, renewed now and then, and their strength."""

    def __init__(self, request: Request, settings: GroupLassoSettings, steps: int) -> None:
        self._request, self._settings, self._steps = request, settings, steps
        self._weights = {
            layer.name: request.model.get_parameter(f"{layer.name}.weight")
            for layer in request.graph.layers
        }
        updates = min(settings.updates, steps)
        self._due = {round(k * steps / updates) for k in range(updates)}
        self._sizes = _measure_sizes(self._weights, request)
        self._masks = request.within
        self._numbers: dict[str, Tensor] = {}
        self._reaches = torch.zeros(0)

    def on_step(self, step: int) -> None:
        """Shrink the groups, which are chosen anew when that is due."""
        if step in self._due:
            self._set(choose_masks(self._request))
        # Grows in proportion to the steps so far, and sums to ``strength`` over all of them.
        share = 2 * (step + 1) / (self._steps * (self._steps + 1))
        shrink_(self._weights, self._numbers, self._settings.strength * share * self._reaches)

    def state_dict(self) -> dict[str, Any]:
        """Return the masks of the last ranking."""
        masks = self._masks
        return {
            "units": masks.units,
            "columns": dict(masks.columns),
            "weights": dict(masks.weights),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the groups of a stored ranking.

        Raises:
            ArtifactError: The state is of another model.
        """
        if state["units"].shape != self._masks.units.shape:
            raise ArtifactError("checkpoint: want the groups of this model, got others")
        self._set(Masks(state["units"], state["columns"], state["weights"]))

    def _set(self, masks: Masks) -> None:
        """Pull what ``masks`` remove."""
        graph, self._masks = self._request.graph, masks
        numbers, count = number_groups(graph, masks, self._request.within)
        squares = torch.zeros(count)
        for name, size in self._sizes.items():
            squares += size**2 * torch.bincount(numbers[name].flatten(), minlength=count)
        squares[0] = 0.0  # The weights of no group.
        device = next(iter(self._weights.values())).device
        self._reaches = squares.sqrt().to(device)
        self._numbers = {name: one.to(device) for name, one in numbers.items()}


def _measure_sizes(weights: Mapping[str, nn.Parameter], request: Request) -> dict[str, float]:
    """Return the root mean square of the weights of each layer, of those still allowed."""
    sizes = {}
    for layer in request.graph.layers:
        count = max(1, int(weight_mask(request.within, layer).sum()))
        sizes[layer.name] = float(weights[layer.name].detach().float().norm()) / count**0.5
    return sizes


def _measure_left(request: Request, masks: Masks) -> float:
    """Return ||what ``masks`` remove|| / ||W||."""
    energies = measure_energies(request.graph, request.model)
    total = sum(float(one.double().sum()) for one in energies.values())
    removed = sum(
        float(energies[layer.name].double()[~weight_mask(masks, layer)].sum())
        for layer in request.graph.layers
    )
    return (removed / max(total, 1e-30)) ** 0.5
