"""Torch-Pruning as a user would call it, with its density bisected to a share of the MACs."""

import copy

import torch_pruning as tp
from torch import Tensor, nn

from autocompress.graph.trace import measure_macs

HALVINGS = 12


def prune_uniform(
    model: nn.Module, example: Tensor, share: float, *, multiple: int | None = None
) -> tuple[nn.Module, float]:
    """Return ``model`` with one pruning ratio in every layer, the weakest L2 groups gone.

    Args:
        model: Its last linear layer keeps its outputs; not changed.
        example: One batch.
        share: Most of the dense model's MACs that may stay.
        multiple: Widths are rounded to multiples of this, as Torch-Pruning's ``round_to`` does.

    Returns:
        The smaller model, and the share of the MACs that it has.
    """
    dense_macs = measure_macs(copy.deepcopy(model).eval(), example)
    best, best_share = None, 0.0
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        ratio = (low + high) / 2
        made = _prune(model, example, ratio, multiple)
        reached = measure_macs(made, example) / dense_macs
        if reached <= share:
            high = ratio
            if reached > best_share:
                best, best_share = made, reached
        else:
            low = ratio
    if best is None:
        raise ValueError(f"no ratio leaves at most {share} of the MACs")
    return best, best_share


def _prune(model: nn.Module, example: Tensor, ratio: float, multiple: int | None) -> nn.Module:
    made = copy.deepcopy(model).eval()
    last = [one for one in made.modules() if isinstance(one, nn.Linear)][-1:]
    pruner = tp.pruner.BasePruner(
        made,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        global_pruning=False,
        ignored_layers=last,
        round_to=multiple,
    )
    pruner.step()
    return made
