import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autocompress.data.split import split_samples
from autocompress.errors import DataError


@given(samples=st.integers(20, 200), share=st.floats(0.1, 0.9), seed=st.integers(0, 2**32 - 1))
def test_every_sample_is_in_exactly_one_part(samples: int, share: float, seed: int) -> None:
    train, validation = split_samples(torch.arange(samples) % 3, share, seed)

    assert sorted(torch.cat([train, validation]).tolist()) == list(range(samples))
    assert abs(len(validation) - samples * share) < 1 + 1e-6


def test_each_class_gives_its_share() -> None:
    targets = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)

    _, validation = split_samples(targets, 0.1, seed=4)

    assert targets[validation].bincount().tolist() == [5, 3, 2]


def test_the_seed_decides() -> None:
    targets = torch.zeros(100, dtype=torch.int64)

    first, again, other = (split_samples(targets, 0.2, seed)[1] for seed in (0, 0, 1))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_regression_targets_are_split_too() -> None:
    train, validation = split_samples(torch.rand(10, 2), 0.3, seed=0)

    assert (len(train), len(validation)) == (7, 3)


def test_an_empty_part_is_refused() -> None:
    with pytest.raises(DataError, match=r"0\.1 of 5 training samples leaves a part empty"):
        split_samples(torch.zeros(5), 0.1, seed=0)
