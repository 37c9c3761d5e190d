"""What a model may cost at most."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from autocompress.errors import SettingError
from autocompress.masks.cost import Cost


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that a finished model may cost; every one that is given holds.

    Attributes:
        macs: Multiply-accumulates of one sample. Here and below: up to 1 a share of the
            dense model, above 1 a count.
        params: Parameters with biases and norms.
        weights: Weights of convolutions and linear layers.
        bytes: float32 size with norm statistics and column indices.
    """

    macs: float | None = None
    params: float | None = None
    weights: float | None = None
    bytes: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise SettingError(f"budget.{name}: want a value above 0, got {value}")

    def limits(self, dense: Cost, progress: float = 1.0) -> dict[str, float]:
        """Return the budget in units of each resource.

        Args:
            dense: What the dense model costs.
            progress: How far to go from the dense model (0) to the budget (1), on a
                logarithmic scale.

        Raises:
            SettingError: No resource is limited.
        """
        costs = asdict(dense)
        final = {
            name: value * costs[name] if value <= 1 else value
            for name, value in asdict(self).items()
            if value is not None
        }
        if not final:
            raise SettingError("budget: want a limit on macs, params, weights or bytes, got none")
        if progress >= 1:
            return final
        return {
            name: costs[name] * min(1.0, limit / costs[name]) ** progress
            for name, limit in final.items()
        }

    def reduction(self, dense: Cost) -> float:
        """Return by what factor the most demanding limit is below the dense cost, 1 or more."""
        costs = asdict(dense)
        return max(1.0, *(costs[name] / limit for name, limit in self.limits(dense).items()))


def measure_excess(cost: Mapping[str, float], limits: Mapping[str, float]) -> dict[str, float]:
    """Return ``cost / limit - 1`` of each limited resource: at most 0 when the limit holds."""
    return {name: cost[name] / limit - 1.0 for name, limit in limits.items()}
