"""Time passes through layers and models, so that a busy machine changes little.

Every call is timed in turns with one reference call, and counts as a multiple of it: a machine
that others use too drifts, but it drifts for both.
"""

import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.deploy.choose import FormCache, choose_forms
from autocompress.deploy.fold import fold_norms
from autocompress.deploy.forms import LAYER_TYPES, list_forms
from autocompress.deploy.measure import Clock, Timing, measure_models, measure_together
from autocompress.deploy.probe import Pass
from autocompress.shrink.columns import ColumnConv2d, ColumnLinear
from autocompress.shrink.expand import expand_columns

Measure = Callable[[Mapping[str, Pass], int], Mapping[str, Timing]]
Forms = Callable[[nn.Module, Tensor], Mapping[str, nn.Module]]
MakeFast = Callable[[nn.Module, Tensor], nn.Module]

TOGETHER = 12  # Calls between two of the reference: drift within so few is small.
FORM_TURNS = 7  # Calls of each form when a whole model is made fast.
_REFERENCE = "reference"


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What a survey works with; tests bring their own.

    Attributes:
        measure: Times calls side by side, so many turns.
        forms: Modules that compute what a layer does on such inputs; the fastest counts.
        make_fast: Brings a whole model to the form in which it is executed.
    """

    measure: Measure
    forms: Forms
    make_fast: MakeFast


def time_passes(calls: Mapping[str, Pass], turns: int) -> Mapping[str, Timing]:
    """Return the times of ``calls``, see :func:`measure_together`."""
    device = next(iter(calls.values())).inputs.device
    with torch.inference_mode():
        return measure_together(calls, turns=turns, device=device, clock=choose_clock(device))


def make_tools() -> Tools:
    """Return real ones: each layer in its fastest form, or all dense where that is faster."""
    cache = FormCache()

    def measure(
        models: Mapping[str, nn.Module], inputs: Tensor, *, turns: int
    ) -> dict[str, Timing]:
        clock = choose_clock(inputs.device)
        return measure_models(models, inputs, turns=min(turns, FORM_TURNS), clock=clock)

    def make_fast(model: nn.Module, example: Tensor) -> nn.Module:
        folded = fold_norms(model, example).to(memory_format=_find_format(example))
        made = choose_forms(folded, example, cache=cache, measure=measure)[0]
        ways = {"forms": made}
        if any(isinstance(one, ColumnConv2d | ColumnLinear) for one in folded.modules()):
            ways["dense"] = expand_columns(folded).to(memory_format=_find_format(example))
        timings = measure(ways, example, turns=FORM_TURNS)
        return ways[min(ways, key=lambda name: timings[name].median_s)]

    return Tools(measure=time_passes, forms=_list_forms, make_fast=make_fast)


def _list_forms(layer: nn.Module, inputs: Tensor) -> Mapping[str, nn.Module]:
    return list_forms(layer, inputs) if isinstance(layer, LAYER_TYPES) else {"plain": layer}


def choose_clock(device: torch.device) -> Clock:
    """Return the clock for ``device``: what one thread ran itself, as others may take its core."""
    is_alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if is_alone else time.perf_counter


class Bench:
    """Times passes as multiples of one reference pass, which is timed among them every turn."""

    def __init__(self, reference: Pass, turns: int, measure: Measure) -> None:
        self._reference, self._turns, self._measure = reference, turns, measure
        self._seconds: list[float] = []

    @property
    def unit_us(self) -> float:
        """Return the microseconds of the reference, the median of all its passes."""
        return 1e6 * median(self._seconds)

    def time(self, passes: Iterable[tuple[Hashable, Pass]]) -> dict[Any, float]:
        """Return the least time of each name, in passes of the reference.

        Args:
            passes: By name, made one after the other; a name may come more than once.
        """
        best: dict[Any, float] = {}
        rest = iter(passes)
        while some := list(islice(rest, TOGETHER)):
            calls = {str(number): one for number, (_, one) in enumerate(some)}
            timings = self._measure({_REFERENCE: self._reference, **calls}, self._turns)
            seconds = timings[_REFERENCE].seconds
            self._seconds += seconds
            for number, (name, _) in enumerate(some):
                pairs = zip(timings[str(number)].seconds, seconds, strict=True)
                share = median(one / max(other, 1e-12) for one, other in pairs)
                best[name] = min(share, best.get(name, share))
        return best


def _find_format(maps: Tensor) -> torch.memory_format:
    is_last = maps.dim() == 4 and maps.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last and not maps.is_contiguous() else torch.contiguous_format
