"""Where training samples come from, in an order that can be taken up again."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol

import numpy as np
from torch import Tensor


class Batches(Protocol):
    """Where samples come from; ``data.source.Source`` is one."""

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def batches(
        self, size: int, *, seed: int | None = None, augment: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Return one epoch of (inputs, targets), shuffled by ``seed`` when it is given."""
        ...


class Epochs(Iterator[tuple[Tensor, Tensor]]):
    """Shuffled and augmented batches for ever; epoch ``e`` depends on (seed, e) only.

    Attributes:
        epoch: Of the last batch, from 0.
        used: Batches taken of it.
    """

    def __init__(self, source: Batches, size: int, seed: int) -> None:
        self._source, self._size, self._seed = source, size, seed
        self._open(0)

    def __next__(self) -> tuple[Tensor, Tensor]:
        """Return the next batch, of the next epoch when this one is over."""
        while (batch := next(self._batches, None)) is None:
            self._open(self.epoch + 1)
        self.used += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the data."""
        return {"epoch": self.epoch, "used": self.used}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go to a place; what its epoch drew before is drawn again, and thrown away."""
        self._open(state["epoch"])
        for _ in islice(self._batches, state["used"]):
            self.used += 1

    def _open(self, epoch: int) -> None:
        drawn = np.random.SeedSequence(self._seed, spawn_key=(epoch,)).generate_state(1)
        self._batches = self._source.batches(self._size, seed=int(drawn[0]), augment=True)
        self.epoch, self.used = epoch, 0
