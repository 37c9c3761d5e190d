"""Count the samples that go through a network: a cost that is the same on every machine."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

FORWARD = 1
TRAINING = 3  # Forward and backward: the gradients of inputs and of weights take one pass each.


@dataclass
class Effort:
    """What was spent while :func:`count_effort` counted.

    Attributes:
        samples: A forward pass of a sample counts 1, a training pass 3, whatever the model's
            size.
        seconds: Wall time that earlier processes spent on what this one went on with.
        cpu_s: CPU seconds of all their threads.
    """

    samples: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0


_COUNTING: ContextVar[tuple[Effort, ...]] = ContextVar("efforts", default=())


@contextmanager
def count_effort() -> Iterator[Effort]:
    """Give what is spent inside the block, by this thread; blocks inside it count as well."""
    effort = Effort()
    token = _COUNTING.set((*_COUNTING.get(), effort))
    try:
        yield effort
    finally:
        _COUNTING.reset(token)


def spend(samples: int) -> None:
    """Count ``samples`` forward passes, or as much work, wherever someone counts."""
    for effort in _COUNTING.get():
        effort.samples += samples


def take_up(samples: int, seconds: float, cpu_s: float) -> None:
    """Count what another process, which was killed, had spent on what this one goes on with."""
    for effort in _COUNTING.get():
        effort.samples += samples
        effort.seconds += seconds
        effort.cpu_s += cpu_s


def read_times() -> tuple[float, float]:
    """Return wall and CPU seconds of this process; only differences count."""
    return time.monotonic(), time.process_time()
