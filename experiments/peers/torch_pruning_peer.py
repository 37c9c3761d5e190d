"""Torch-Pruning as a user would call it, with its pruning ratio bisected to a share of the MACs.

Sources: DepGraph, arXiv:2301.12900; isomorphic pruning, arXiv:2407.04616; Taylor scores,
Molchanov et al., CVPR 2019.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import torch_pruning as tp
from torch import Tensor, nn

from autocompress.graph.trace import measure_macs
from autocompress.train.objective import Loss

T = TypeVar("T")

STRIDES = 32  # Ratios tried in rising order until one is small enough: MACs need not fall on.
LAYERS = (nn.Conv2d, nn.Linear)
HALVINGS = 9  # Between the last two of them: steps of 1/16384, a channel of thousands.


@dataclass(frozen=True, kw_only=True)
class Way:
    """How Torch-Pruning ranks channels.

    Attributes:
        scope: Ranked among those of the same layer (``layer``), of all layers (``global``), or of
            layers with the same surroundings (``isomorphic``).
        is_taylor: By first-order Taylor scores, which need gradients, rather than by L2 norms.
    """

    scope: str = "layer"
    is_taylor: bool = False


WAYS = {
    "uniform": Way(),
    "global": Way(scope="global"),
    "isomorphic": Way(scope="isomorphic"),
    "taylor": Way(is_taylor=True),
    "taylor-global": Way(scope="global", is_taylor=True),
    "taylor-isomorphic": Way(scope="isomorphic", is_taylor=True),
}
SCOPES: dict[str, dict[str, Any]] = {
    "layer": {"global_pruning": False},
    "global": {"global_pruning": True},
    "isomorphic": {"global_pruning": True, "isomorphic": True},
}


@dataclass(frozen=True)
class Found(Generic[T]):
    """The largest that a tool makes within a limit.

    Attributes:
        made: What it makes.
        left: The share that is left, at most the limit.
        ratio: The pruning ratio that makes it.
        above: The nearest pruning ratio tried that leaves more than the limit; 0 does.
    """

    made: T
    left: float
    ratio: float
    above: float


def prune_to_share(
    model: nn.Module,
    example: Tensor,
    share: float,
    *,
    way: Way | None = None,
    multiple: int | None = None,
    fill: bool = False,
) -> tuple[nn.Module, float]:
    """Return ``model`` with the weakest channels gone, as large as ``share`` allows.

    Args:
        model: On the CPU, with gradients for Taylor scores; its last linear layer keeps its
            outputs; not changed.
        example: One batch.
        share: Most of the dense model's MACs that may stay.
        way: The ranking; L2 norms in each layer when None.
        multiple: Widths are rounded to multiples of this, as Torch-Pruning's ``round_to`` does.
        fill: Give layers one after the other the next smaller ratio while ``share`` allows, by
            ``pruning_ratio_dict``: one ratio for widths of 16, 32 and 64 jumps by up to 5 points.

    Returns:
        The smaller model in evaluation mode, and the share of the MACs that it has.

    Raises:
        ValueError: No pruning ratio leaves so few MACs.
    """
    way = way or Way()
    dense = measure_macs(model, example)

    def make(ratio: float, spared: Mapping[str, float]) -> tuple[nn.Module, float]:
        made = _prune(model, example, ratio, way=way, multiple=multiple, spared=spared)
        return made, measure_macs(made, example) / dense

    found = find_largest(lambda ratio: make(ratio, {}), share)
    best, best_left = found.made, found.left
    spared: dict[str, float] = {}
    layers = [name for name, one in model.named_modules() if isinstance(one, LAYERS)]
    for name in layers if fill else ():
        made, left = make(found.ratio, {**spared, name: found.above})
        if best_left < left <= share:
            spared[name] = found.above
            best, best_left = made, left
    return best, best_left


def find_largest(make: Callable[[float], tuple[T, float]], share: float) -> Found[T]:
    """Return what a tool makes with at most ``share`` left, as much as it can.

    The first ratio that leaves so little is found in rising order, because a tool may leave
    a layer whole whose channels should all go, so that more is left at the largest ratios.

    Args:
        make: Of a ratio in (0, 1), what is made and the share that is left.
        share: The most that may be left, above 0.

    Raises:
        ValueError: No ratio leaves so little.
    """
    low = high = 0.0
    best: tuple[T, float, float] | None = None
    for stride in range(1, STRIDES):
        low, high = high, stride / STRIDES
        made, left = make(high)
        if left <= share:
            best = made, left, high
            break
    if best is None:
        raise ValueError(f"no ratio leaves at most {share} of the MACs")
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        made, left = make(middle)
        if left > share:
            low = middle
            continue
        high = middle
        if left > best[1]:
            best = made, left, high
    return Found(*best, low)


def add_gradients_(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], loss: Loss, count: int
) -> int:
    """Sum the gradients of ``count`` batches into ``model``, as for Taylor scores.

    Returns:
        The samples seen.
    """
    model.eval()
    model.zero_grad()
    samples = 0
    for inputs, targets in islice(batches, count):
        loss(model(inputs), targets).backward()
        samples += len(inputs)
    return samples


def _prune(
    model: nn.Module,
    example: Tensor,
    ratio: float,
    *,
    way: Way,
    multiple: int | None,
    spared: Mapping[str, float],
) -> nn.Module:
    made = copy.deepcopy(model).eval()
    for old, new in zip(model.parameters(), made.parameters(), strict=True):
        new.grad = None if old.grad is None else old.grad.clone()  # No copy takes them along.
    last = [one for one in made.modules() if isinstance(one, nn.Linear)][-1:]
    importance = tp.importance.GroupTaylorImportance if way.is_taylor else _make_l2
    pruner = tp.pruner.BasePruner(
        made,
        example,
        importance=importance(),
        pruning_ratio=ratio,
        pruning_ratio_dict={made.get_submodule(name): one for name, one in spared.items()},
        ignored_layers=last,
        round_to=multiple,
        **SCOPES[way.scope],
    )
    pruner.step()
    made.zero_grad()
    return made


def _make_l2() -> tp.importance.Importance:
    return tp.importance.GroupMagnitudeImportance(p=2)
