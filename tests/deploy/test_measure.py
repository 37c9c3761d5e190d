"""Times side by side, with a clock of our own."""

import pytest
import torch
from torch import Tensor, nn

from autocompress.deploy.measure import (
    Timing,
    compare_times,
    measure_models,
    measure_together,
    name_processor,
    pin_threads,
)


class Clock:
    """Time that passes only when a call says so; it runs slower and slower, as a busy machine."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.drift = 1.0

    def __call__(self) -> float:
        return self.now_s

    def spend(self, seconds: float) -> None:
        self.now_s += seconds * self.drift
        self.drift *= 1.02


def test_drift_does_not_change_a_ratio() -> None:
    clock = Clock()
    calls = {"slow": lambda: clock.spend(3.0), "fast": lambda: clock.spend(1.0)}

    timings = measure_together(calls, turns=41, clock=clock)

    speedup = compare_times(timings["slow"], timings["fast"])
    assert speedup.factor == pytest.approx(3.0, rel=0.03)
    assert speedup.low <= speedup.factor <= speedup.high
    low, high = timings["slow"].spread_s
    assert high > 1.5 * low  # the drift was there


def test_order_turns_with_every_turn() -> None:
    asked: list[str] = []
    calls = {name: (lambda name=name: asked.append(name)) for name in "abc"}

    measure_together(calls, turns=3, warm_up=1)

    assert "".join(asked) == "abc" + "abc" + "bca" + "cab"


def test_warm_up_is_not_measured() -> None:
    clock = Clock()
    costs = iter([100.0, 100.0, 1.0])

    timing = measure_together({"one": lambda: clock.spend(next(costs))}, turns=1, clock=clock)

    assert timing["one"].median_s < 2.0


@pytest.mark.parametrize("turns", [0, -1])
def test_no_turns_are_refused(turns: int) -> None:
    with pytest.raises(ValueError, match="1 or more turns"):
        measure_together({"one": lambda: None}, turns=turns)


def test_nothing_to_time_is_refused() -> None:
    with pytest.raises(ValueError, match="got 15 and 0"):
        measure_together({})


def test_median_and_quartiles() -> None:
    timing = Timing(seconds=(5.0, 1.0, 2.0, 4.0, 3.0))

    assert timing.median_s == 3.0
    assert timing.spread_s == (2.0, 4.0)
    assert Timing(seconds=(2.0,)).spread_s == (2.0, 2.0)


def test_models_run_without_gradients_and_keep_their_mode() -> None:
    seen: list[bool] = []

    class Look(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            seen.append(torch.is_grad_enabled())
            return maps

    model = Look().train()

    timings = measure_models({"look": model}, torch.zeros(1), turns=2, warm_up=1)

    assert seen == [False] * 3
    assert model.training
    assert len(timings["look"].seconds) == 2


def test_threads_are_given_back_also_after_an_error() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []

    def fail() -> None:
        with pin_threads(before + 1):
            seen.append(torch.get_num_threads())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()

    assert seen == [before + 1]
    assert torch.get_num_threads() == before
    with pin_threads(0):
        assert torch.get_num_threads() == before


def test_a_processor_has_one_name() -> None:
    assert name_processor()
    assert name_processor() == name_processor().strip()
