"""One pruning ratio in every layer by Torch-Pruning, for ``experiments/latency/equal.py``."""

from torch import Tensor, nn
from torch_pruning_peer import prune_to_share  # Lies beside this file.


def prune_uniform(
    model: nn.Module, example: Tensor, share: float, *, multiple: int | None = None
) -> tuple[nn.Module, float]:
    """Return ``model`` with the weakest L2 groups of every layer gone, and its share of the MACs.

    Arguments as for :func:`torch_pruning_peer.prune_to_share`.
    """
    return prune_to_share(model, example, share, multiple=multiple)
