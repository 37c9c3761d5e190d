"""One-shot pruning: keep what is largest now, without training."""

from dataclasses import dataclass

from autocompress.masks.project import measure_energies, project_masks
from autocompress.methods.base import Found, Request


@dataclass(frozen=True, kw_only=True)
class Magnitude:
    """Keep the filters and columns of largest L2 norm; spends no epochs."""

    def find_masks(self, request: Request) -> Found:
        """Return the projection of the weights as they are."""
        energies = measure_energies(request.graph, request.model)
        masks = project_masks(request.graph, energies, request.candidate, within=request.within)
        return Found(masks=masks, figures={})

    def count_samples(self, steps: int, batch_size: int) -> int:
        """Return 0: nothing goes through the network."""
        return 0
