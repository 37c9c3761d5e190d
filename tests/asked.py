"""What pruning methods are asked in tests: hand-made models, random samples, counts."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from autocompress.jobs import Candidate
from autocompress.masks.mask import full_masks
from autocompress.methods.base import Request
from autocompress.train.checkpoint import Keeper
from autocompress.train.loop import TrainSettings
from tests.hand_made import IMAGE, HandMade

CANDIDATES = {
    "sequential": Candidate(filters={"0": 3, "3": 2}, columns={"0": 7, "3": 20, "6": 50}),
    "residual": Candidate(filters={"left": 2}, columns={"left": 5, "right": 6, "last": 11}),
    "concat": Candidate(
        filters={"left": 2, "right": 1}, columns={"left": 5, "right": 6, "last": 20}
    ),
    "depthwise": Candidate(filters={"0": 3}, columns={"0": 1, "3": 4}),
    "grouped": Candidate(filters={"0": 2, "1": 1}, columns={"0": 6, "2": 15}),
    "fine": Candidate(
        filters={"0": 3, "3": 2}, columns={"0": 7, "3": 20, "6": 50}, weights={"3": 17, "6": 60}
    ),
}
TRAIN = TrainSettings(epochs=2, batch_size=8)


class KilledError(Exception):
    """Stands for the end of the process."""


class Noise:
    """Random images whose target is the mean of the output."""

    def __len__(self) -> int:
        return 96

    def batches(
        self, size: int, *, seed: int | None = None, augment: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed or 0)
        for _ in range(len(self) // size):
            images = torch.randn(size, *IMAGE, generator=generator)
            yield images, images.mean((1, 2, 3))


@dataclass
class Loss:
    """Counts the samples that it sees; may be killed in its course.

    Attributes:
        kill_at: Call, from 0, that does not come back.
        calls: So far.
        samples: So far.
    """

    kill_at: int | None = None
    calls: int = 0
    samples: int = 0

    def __call__(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        if self.calls == self.kill_at:
            raise KilledError
        self.calls += 1
        self.samples += len(inputs)
        outputs: Tensor = model(inputs)
        return (outputs.flatten(1).mean(1) - targets).square().mean()


def keep_once(path: Path, step: float) -> Keeper:
    """Return a keeper that first writes after so many steps: its clock ticks once a step."""
    return Keeper(path, seconds=step, clock=map(float, itertools.count()).__next__)


def ask(made: HandMade, candidate: Candidate, *, seed: int = 0) -> Request:
    """Return what asks a method for ``candidate`` within everything."""
    return Request(
        model=made.model,
        graph=made.graph,
        within=full_masks(made.graph),
        candidate=candidate,
        source=Noise(),
        train=TRAIN,
        loss=Loss(),
        seed=seed,
    )
