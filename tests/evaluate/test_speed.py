import time

import torch
from torch import Tensor, nn

from autocompress.evaluate.speed import measure_speedup


class Sleeper(nn.Module):
    """Takes so many seconds for a batch, and more at its first call."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        time.sleep(self.seconds if self.calls > 1 else 0.05)
        return inputs


def test_the_ratio_of_times_is_measured_without_the_warm_up() -> None:
    slow, fast = Sleeper(0.02), Sleeper(0.005)

    speedup = measure_speedup(slow, fast, torch.zeros(2), turns=5)

    assert slow.calls == fast.calls == 6
    # A sleep may take longer on a busy machine, but the medians stay far from equal.
    assert 1.5 < speedup < 5
