from itertools import combinations, product

import pytest
import torch
from torch import Tensor

from autocompress.errors import SettingError
from autocompress.masks.kernels import choose_patterns, project_patterns


def draw(filters: int, channels: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(filters, channels, 3, 3, generator=generator)


def is_allowed(kernel: Tensor, library: Tensor) -> bool:
    return any(bool((kernel[~pattern] == 0).all()) for pattern in library)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("keep", range(5))
def test_no_choice_of_kernels_and_patterns_is_nearer(keep: int, dtype: torch.dtype) -> None:
    weight = draw(2, 2, keep).to(dtype)
    library = choose_patterns([draw(4, 4, 9)], entries=3, patterns=3)
    squares = weight.double().square().reshape(4, 3, 3)
    most = 0.0
    for kernels in combinations(range(4), keep):
        for patterns in product(library, repeat=keep):
            chosen = zip(kernels, patterns, strict=True)
            most = max(most, sum(float(squares[k][pattern].sum()) for k, pattern in chosen))

    near = project_patterns(weight, library, keep)

    # 36 float64 terms of about 1.
    distance = float((weight.double() - near.double()).square().sum())
    assert distance == pytest.approx(float(squares.sum()) - most, abs=1e-9)
    assert near.dtype == dtype
    assert int(near.flatten(2).any(2).sum()) == keep
    assert all(is_allowed(kernel, library) for kernel in near.flatten(0, 1))
    assert torch.equal(project_patterns(near, library, keep), near)
    assert torch.equal(project_patterns(weight * 2, library, keep), near * 2)
    assert torch.equal(project_patterns(-weight, library, keep), -near)


@pytest.mark.parametrize("entries", [1, 2, 4, 9])
def test_the_library_is_what_most_kernels_prefer(entries: int) -> None:
    weights = [draw(5, 6, 0), draw(3, 5, 1)]
    votes: dict[tuple[int, ...], int] = {}
    for kernel in torch.cat([weight.flatten(0, 1) for weight in weights]).flatten(1):
        others = kernel.abs().clone()
        others[4] = torch.inf  # Every pattern has the centre.
        best = tuple(sorted(others.argsort(descending=True)[:entries].tolist()))
        votes[best] = votes.get(best, 0) + 1

    library = choose_patterns(weights, entries, 6)

    found = [tuple(pattern.flatten().nonzero().flatten().tolist()) for pattern in library]
    assert len(set(found)) == len(found)
    assert all(len(pattern) == entries and 4 in pattern for pattern in found)
    counts = sorted((votes.get(pattern, 0) for pattern in found), reverse=True)
    assert counts == (sorted(votes.values(), reverse=True) + [0] * 6)[: len(found)]


def test_ties_keep_the_first_pattern_and_the_lower_kernel() -> None:
    weight = torch.ones(2, 2, 3, 3)

    library = choose_patterns([weight], entries=2, patterns=2)
    near = project_patterns(weight, library, 3)

    assert library[0].flatten().nonzero().flatten().tolist() == [0, 4]
    assert near.flatten(2).any(2).tolist() == [[True, True], [True, False]]
    assert torch.equal(near[0, 0], library[0].float())


def test_what_is_no_kernel_or_count_is_refused() -> None:
    library = choose_patterns([draw(2, 2, 0)])

    with pytest.raises(SettingError, match="3 x 3"):
        project_patterns(torch.zeros(2, 2, 5, 5), library, 1)
    with pytest.raises(SettingError, match="entries"):
        choose_patterns([draw(2, 2, 0)], entries=10)
    with pytest.raises(SettingError, match="keep must be"):
        project_patterns(draw(2, 2, 0), library, 5)
    with pytest.raises(SettingError, match="none"):
        choose_patterns([])
