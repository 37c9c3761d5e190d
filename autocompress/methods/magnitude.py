"""One-shot pruning: keep what is largest now, without training."""

from dataclasses import dataclass, field
from typing import Literal

from autocompress.masks.project import measure_energies, project_masks
from autocompress.methods.base import Found, Request


@dataclass(frozen=True, kw_only=True)
class MagnitudeSettings:
    """What large means.

    Attributes:
        norm: 1 ranks by sums of abs(w) (arXiv:1608.08710), 2 by sums of w^2; over a unit's
            filters in all layers and the columns that read it, or over a column.
    """

    norm: Literal[1, 2] = 2


@dataclass(frozen=True, kw_only=True)
class Magnitude:
    """Keep the filters and columns of largest L1 or L2 norm; spends no epochs.

    Attributes:
        settings: Which norm.
    """

    settings: MagnitudeSettings = field(default_factory=MagnitudeSettings)

    def find_masks(self, request: Request) -> Found:
        """Return the projection of the weights as they are."""
        request.model.eval()
        energies = measure_energies(request.graph, request.model, norm=self.settings.norm)
        masks = project_masks(request.graph, energies, request.candidate, within=request.within)
        return Found(masks=masks, figures={})

    def count_samples(self, steps: int, batch_size: int) -> int:
        """Return 0: nothing goes through the network."""
        return 0
