"""What comparisons with peers rest on: their budgets, and their counts."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autocompress.graph.trace import measure_macs
from autocompress.zoo.resnet import ResNet
from experiments.peers.effort import Effort
from experiments.peers.torch_pruning_peer import (
    HALVINGS,
    STRIDES,
    WAYS,
    add_gradients_,
    find_largest,
    prune_to_share,
)

EXAMPLE = torch.zeros(1, 3, 8, 8)


def make_net(seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    return ResNet(3, 4, (1, 1), 8).eval()


def add_random_gradients_(net: nn.Module) -> None:
    batches = [(torch.randn(8, 3, 8, 8), torch.randint(0, 4, (8,))) for _ in range(3)]
    assert add_gradients_(net, batches, nn.functional.cross_entropy, 2) == 16


@given(st.floats(0.05, 0.99), st.integers(1, 60), st.floats(0.5, 1.0))
def test_the_largest_within_a_limit_is_found(share: float, levels: int, back: float) -> None:
    # Falls in steps, and is whole again at the largest ratios, as a layer that is left alone.
    def make(ratio: float) -> tuple[float, float]:
        left = 1.0 if ratio > 1 - 1 / STRIDES * back else 1 - int(ratio * levels) / levels
        return ratio, left

    ratios = [step / (STRIDES * 2**HALVINGS) for step in range(STRIDES * 2**HALVINGS)]
    fitting = [left for _, left in map(make, ratios) if left <= share]
    if not any(make(stride / STRIDES)[1] <= share for stride in range(1, STRIDES)):
        with pytest.raises(ValueError, match="no ratio"):
            find_largest(make, share)
        return

    found = find_largest(make, share)

    assert found.left == max(fitting)
    assert make(found.ratio) == (found.made, found.left)
    assert make(found.above)[1] > share
    assert found.above < found.ratio


@pytest.mark.parametrize("name", WAYS)
def test_a_model_computes_within_its_budget(name: str) -> None:
    net, share = make_net(), 0.4
    add_random_gradients_(net)
    before = [weight.clone() for weight in net.parameters()]

    made, left = prune_to_share(net, EXAMPLE, share, way=WAYS[name])

    assert share / 2 < left <= share
    assert left == measure_macs(made, EXAMPLE) / measure_macs(net, EXAMPLE)
    assert made(torch.randn(2, 3, 8, 8)).shape == (2, 4)
    assert all(map(torch.equal, before, net.parameters()))
    assert all(weight.grad is None for weight in made.parameters())


@pytest.mark.parametrize("share", [0.4, 0.25])
def test_filling_uses_up_a_budget_that_one_ratio_leaves(share: float) -> None:
    net = make_net()

    _, plain = prune_to_share(net, EXAMPLE, share)
    made, filled = prune_to_share(net, EXAMPLE, share, fill=True)

    assert plain < filled <= share
    assert filled == measure_macs(made, EXAMPLE) / measure_macs(net, EXAMPLE)
    assert share - filled < 0.05


def test_taylor_scores_see_the_gradients() -> None:
    net, other = make_net(), make_net()
    add_random_gradients_(net)
    add_random_gradients_(other)

    pairs = [prune_to_share(one, EXAMPLE, 0.5, way=WAYS["taylor"])[0] for one in (net, other)]
    firsts = [next(pair.parameters()) for pair in pairs]

    assert not torch.equal(*firsts)


def test_what_a_killed_run_took_is_counted_on(tmp_path: Path) -> None:
    first = Effort(tmp_path / "kept" / "effort.json")
    first.search_samples, first.evaluations, first.prune_s = 640, 2, 1.5
    first.seconds = 100.0
    first.write()

    second = Effort(first.path)

    assert (second.search_samples, second.evaluations, second.prune_s) == (640, 2, 1.5)
    assert second.measure() >= first.seconds >= 100
    second.write()
    assert json.loads(second.path.read_text("utf-8"))["seconds"] == second.seconds
