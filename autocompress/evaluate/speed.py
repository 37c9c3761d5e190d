"""How much faster a smaller model really is, measured side by side."""

import time
from statistics import median

import torch
from torch import Tensor, nn


@torch.no_grad()
def measure_speedup(
    dense: nn.Module, smaller: nn.Module, inputs: Tensor, *, turns: int = 9
) -> float:
    """Return the median time of ``dense`` over that of ``smaller`` for one batch.

    The two run in turns, after one warm-up each, so that a busy machine slows both alike. Both
    are called as they are: in evaluation mode, not compiled, in the layout they come in.

    Args:
        dense: On the device of ``inputs``.
        smaller: On the device of ``inputs``.
        inputs: One batch, shape (samples, ...).
        turns: Measured calls of each, 1 or more.
    """
    seconds: list[list[float]] = [[], []]
    for turn in range(turns + 1):
        for place, model in enumerate((dense, smaller)):
            start = time.perf_counter()
            model(inputs)
            if inputs.is_cuda:
                torch.cuda.synchronize(inputs.device)
            if turn:
                seconds[place].append(time.perf_counter() - start)
    return median(seconds[0]) / median(seconds[1])
