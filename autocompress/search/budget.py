"""What a model may cost at most, or how good it must stay while it shrinks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from autocompress.errors import SettingError
from autocompress.masks.cost import Cost
from autocompress.settings import WHEN_SET

Resource = Literal["", "macs", "params", "weights", "bytes", "coded_bytes", "latency"]
RESOURCES = ("macs", "params", "weights", "bytes", "coded_bytes", "latency")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that a finished model may cost; every one that is given holds.

    With ``worst_metric`` and ``minimize``, one resource is made as small as the metric allows;
    limits may be given as well.

    Attributes:
        macs: Multiply-accumulates of one sample. Here and below: up to 1 a share of the
            dense model, above 1 a count.
        params: Parameters with biases and norms; of weights, those that are kept.
        weights: Kept weights of convolutions and linear layers.
        bytes: float32 size with norm statistics and column indices; zeros between kept weights
            count as well.
        coded_bytes: What an entropy coder needs for kept weights at their bit widths, their
            positions, and the rest in float32.
        latency: Time of one pass of one batch of ``evaluate.latency``: up to 1 a share of the
            dense model's, above 1 microseconds.
        worst_metric: Worst validation metric of the finished model: at least this when
            ``task.metric_direction`` is ``maximize``, at most this when it is ``minimize``.
        minimize: The resource to make small while ``worst_metric`` holds.
    """

    macs: float | None = None
    params: float | None = None
    weights: float | None = None
    bytes: float | None = None
    coded_bytes: float | None = None
    latency: float | None = field(default=None, metadata=WHEN_SET)
    worst_metric: float | None = None
    minimize: Resource = ""

    def __post_init__(self) -> None:
        for name in RESOURCES:
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise SettingError(f"budget.{name}: want a value above 0, got {value}")
        if (self.worst_metric is None) == bool(self.minimize):
            raise SettingError(
                "budget: want worst_metric and minimize together, got only "
                f"{'minimize' if self.minimize else 'worst_metric'}"
            )
        if self.worst_metric is not None and not math.isfinite(self.worst_metric):
            raise SettingError(f"budget.worst_metric: want a number, got {self.worst_metric}")

    @property
    def uses_latency(self) -> bool:
        """Return whether it speaks of latency, which nobody knows before it is measured."""
        return self.latency is not None or self.minimize == "latency"

    @property
    def is_empty(self) -> bool:
        """Return whether nothing is limited or minimised."""
        return not self.minimize and all(getattr(self, name) is None for name in RESOURCES)

    def drop_latency(self) -> "Budget":
        """Return what is left of it while latency is unknown; that may be nothing."""
        if self.minimize == "latency":
            return replace(self, latency=None, minimize="", worst_metric=None)
        return replace(self, latency=None)

    def limits(
        self, dense: Cost, progress: float = 1.0, smallest: Cost | None = None
    ) -> dict[str, float]:
        """Return the budget in units of each resource.

        Args:
            dense: What the dense model costs.
            progress: How far to go from the dense model (0) to the budget (1), on a
                logarithmic scale.
            smallest: What the smallest model of the space costs: there the resource to minimise
                ends. Then all resources fall by the same factor, each until its own end.

        Raises:
            SettingError: No resource is limited, and none is to be minimised.
            KeyError: Latency is limited, and ``dense`` does not know its own.
        """
        costs = dense.list_known()
        final = self._list_limits(dense)
        if not final and not self.minimize:
            raise SettingError(
                "budget: want a limit on macs, params, weights, bytes, coded_bytes or latency, "
                "got none"
            )
        if self.minimize and smallest is not None:
            final[self.minimize] = float(smallest.list_known()[self.minimize])
            factor = _find_factor(costs, final) ** progress
            return {name: max(limit, costs[name] / factor) for name, limit in final.items()}
        if progress >= 1:
            return final
        return {
            name: costs[name] * min(1.0, limit / costs[name]) ** progress
            for name, limit in final.items()
        }

    def reduction(self, dense: Cost, smallest: Cost | None = None) -> float:
        """Return by what factor the most demanding limit is below the dense cost, 1 or more."""
        return _find_factor(dense.list_known(), self.limits(dense, 1.0, smallest))

    def measure_enough(self, dense: Cost, smallest: Cost) -> float:
        """Return the least progress, 0..1, at which every limit holds while one is minimised."""
        whole = math.log(self.reduction(dense, smallest))
        least = math.log(_find_factor(dense.list_known(), self._list_limits(dense)))
        return min(1.0, least / whole) if whole > 0 else 0.0

    def _list_limits(self, dense: Cost) -> dict[str, float]:
        values = {name: getattr(self, name) for name in RESOURCES}
        costs = dense.list_known()
        return {
            name: value * costs[name] if value <= 1 else value
            for name, value in values.items()
            if value is not None
        }


def measure_excess(cost: Mapping[str, float], limits: Mapping[str, float]) -> dict[str, float]:
    """Return ``cost / limit - 1`` of each limited resource: at most 0 when the limit holds."""
    return {name: cost[name] / limit - 1.0 for name, limit in limits.items()}


def _find_factor(costs: Mapping[str, float], limits: Mapping[str, float]) -> float:
    return max((1.0, *(costs[name] / limit for name, limit in limits.items())))
