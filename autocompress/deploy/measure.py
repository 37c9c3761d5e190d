"""How long calls really take, side by side, on a machine that others use as well."""

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import torch
from torch import Tensor, nn

Call = Callable[[], object]
Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Times of one call, in the order they were measured.

    Attributes:
        seconds: One or more, each of one call; those of several timings that were measured
            together belong together turn by turn.
    """

    seconds: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """Return the median time."""
        return median(self.seconds)

    @property
    def spread_s(self) -> tuple[float, float]:
        """Return the first and the third quartile of the times."""
        return _find_quartiles(self.seconds)


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """How many times faster one call is than another.

    Attributes:
        factor: Median over the turns of one time over the other.
        low: First quartile of that factor.
        high: Third quartile.
    """

    factor: float
    low: float
    high: float


def measure_together(
    calls: Mapping[str, Call],
    *,
    turns: int = 15,
    warm_up: int = 2,
    device: torch.device | None = None,
    clock: Clock = time.perf_counter,
) -> dict[str, Timing]:
    """Return the times of several calls that take turns, so that drift meets all alike.

    The order of the calls is turned by one place with every turn: none is always the one that
    finds the caches as a certain other one left them.

    Args:
        calls: What to time, by name.
        turns: Measured calls of each, 1 or more.
        warm_up: Calls of each before those.
        device: Where the work is done; on CUDA the time between two events of the stream is
            taken, and ``clock`` is not used.
        clock: Returns seconds.

    Raises:
        ValueError: ``turns`` is below 1, or there is nothing to time.
    """
    if turns < 1 or not calls:
        raise ValueError(f"want 1 or more turns and calls, got {turns} and {len(calls)}")
    is_cuda = device is not None and device.type == "cuda"
    names = list(calls)
    for name in names * warm_up:
        calls[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            taken = _time_cuda(calls[name]) if is_cuda else _time_call(calls[name], clock)
            seconds[name].append(taken)
    return {name: Timing(seconds=tuple(some)) for name, some in seconds.items()}


def compare_times(slower: Timing, faster: Timing) -> Speedup:
    """Return how many times faster one call is, by the turns that they were measured in.

    Args:
        slower: What is compared with, such as the dense model.
        faster: Measured together with it.

    Raises:
        ValueError: They have different numbers of turns.
    """
    factors = [
        one / max(other, 1e-12) for one, other in zip(slower.seconds, faster.seconds, strict=True)
    ]
    low, high = _find_quartiles(factors)
    return Speedup(factor=median(factors), low=low, high=high)


def measure_models(
    models: Mapping[str, nn.Module],
    inputs: Tensor,
    *,
    turns: int = 15,
    warm_up: int = 2,
    clock: Clock = time.perf_counter,
) -> dict[str, Timing]:
    """Return the times of one forward pass of each model, see :func:`measure_together`.

    Args:
        models: On the device of ``inputs``, as they are: their mode is not changed.
        inputs: One batch, shape (samples, ...).
        turns: Measured passes of each, 1 or more.
        warm_up: Passes of each before those.
        clock: Returns seconds.
    """

    def make_call(model: nn.Module) -> Call:
        return lambda: model(inputs)

    calls = {name: make_call(model) for name, model in models.items()}
    with torch.inference_mode():
        return measure_together(
            calls, turns=turns, warm_up=warm_up, device=inputs.device, clock=clock
        )


@contextmanager
def pin_threads(count: int) -> Iterator[None]:
    """Let PyTorch use ``count`` threads inside an operation, and as many as before afterwards.

    Args:
        count: 1 or more; 0 leaves it as it is.
    """
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count:
            torch.set_num_threads(before)


def name_processor() -> str:
    """Return the processor as Linux calls it, or its family elsewhere.

    Several processors of one capability differ in speed.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _time_call(call: Call, clock: Clock) -> float:
    start = clock()
    call()
    return clock() - start


def _time_cuda(call: Call) -> float:
    first = torch.cuda.Event(enable_timing=True)
    last = torch.cuda.Event(enable_timing=True)
    first.record()
    call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1000


def _find_quartiles(values: tuple[float, ...] | list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high
