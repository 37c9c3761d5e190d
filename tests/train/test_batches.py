from collections.abc import Iterator
from itertools import islice

import pytest
import torch
from torch import Tensor

from autocompress.train.batches import Epochs


class Draws:
    """Three batches of random numbers an epoch; remembers what it was asked for."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def __len__(self) -> int:
        return 6

    def batches(
        self, size: int, *, seed: int | None = None, augment: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        assert seed is not None
        assert augment
        self.seeds.append(seed)
        draw = torch.Generator().manual_seed(seed)
        for _ in range(len(self) // size):
            yield torch.rand(size, generator=draw), torch.zeros(size)


def take(epochs: Epochs, count: int) -> list[list[float]]:
    return [inputs.tolist() for inputs, _ in islice(epochs, count)]


def test_every_epoch_and_every_seed_draws_its_own() -> None:
    source, other = Draws(), Draws()

    batches = take(Epochs(source, 2, 5), 12) + take(Epochs(other, 2, 6), 12)

    assert len(set(source.seeds[:4] + other.seeds[:4])) == 8
    assert len({tuple(batch) for batch in batches}) == 24


@pytest.mark.parametrize("count", range(8))
def test_a_place_is_gone_on_from(count: int) -> None:
    whole = take(Epochs(Draws(), 2, 5), 12)
    first, again = Epochs(Draws(), 2, 5), Epochs(Draws(), 2, 5)
    take(first, count)

    again.load_state_dict(first.state_dict())

    assert take(again, 12 - count) == whole[count:]
