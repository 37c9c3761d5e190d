"""What comparisons with peers rest on: their budgets, and their counts."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autocompress.evaluate.task import open_task
from autocompress.graph.trace import measure_macs
from autocompress.zoo.resnet import ResNet
from experiments.peers.effort import Effort
from experiments.peers.rows import find_row
from experiments.peers.run import hash_causes, main, read_options, read_study
from experiments.peers.torch_pruning_peer import (
    HALVINGS,
    STRIDES,
    WAYS,
    add_gradients_,
    find_largest,
    prune_to_share,
)
from tests.duels import write_duel

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


def name_run(folder: Path, *changes: str, arm: str = "tp-uniform") -> list[str]:
    """Return the command line of a run on digits in ``folder``; later ``changes`` count."""
    places = {"--data": folder, "--runs": folder / "dense", "--out": folder / "rows.jsonl"}
    given = [f"{key}={value}" for key, value in places.items()]
    threads = f"--threads={torch.get_num_threads()}"
    return [str(folder / "duel.toml"), f"--arm={arm}", *given, threads, *changes]


def hash_run(folder: Path, *changes: str, arm: str = "tp-uniform") -> str:
    options = read_options(name_run(folder, *changes, arm=arm))
    return hash_causes(options, read_study(options))


@pytest.mark.parametrize(
    "change",
    [
        "--set=evaluate.full.retrain.epochs=2",
        "--set=evaluate.distill.temperature=2",
        "--set=evaluate.distill.share=0",
        "--set=task.train.epochs=3",
        "--dense-seed=1",
        "--seed=1",
        "--share=0.4",
        "--taylor-batches=5",
        "--width-steps=5",
        "--search-samples=900",
        "--set=evaluate.fast.norm_batches=2",
        "--extra-samples=900",
    ],
)
def test_a_row_is_told_apart_by_what_it_follows_from(tmp_path: Path, change: str) -> None:
    write_duel(tmp_path)
    of_one_arm = {
        "--taylor-batches": "tp-taylor",
        "--width-steps": "fastnas",
        "--search-samples": "fastnas",
        "--set=evaluate.fast.norm_batches": "fastnas",
        "--extra-samples": "tp-uniform-longer",
    }
    own = of_one_arm.get(change.rpartition("=")[0])
    for arm in ("tp-uniform", "tp-taylor", "fastnas", "tp-uniform-longer"):
        differs = hash_run(tmp_path, change, arm=arm) != hash_run(tmp_path, arm=arm)
        assert differs == (own in (None, arm))


@pytest.mark.parametrize(
    "change",
    ["--threads=2", "--runs=x", "--data=x", "--set=search.chains=2", "--set=task.device=auto"],
)
def test_a_row_does_not_follow_from_where_it_is_made(tmp_path: Path, change: str) -> None:
    write_duel(tmp_path)
    assert hash_run(tmp_path, change) == hash_run(tmp_path)


ASKED = {"arm": "a", "seed": 0, "budget": "macs=0.5", "dense_seed": 0, "settings_hash": "1"}


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        (None, ""),
        ({"arm": "b"}, ""),
        ({"seed": 1}, ""),
        ({"budget": "macs=0.4"}, ""),
        ({}, "stands already$"),
        ({"settings_hash": "2"}, "refused"),
        ({"settings_hash": None}, "stands already, but its settings are unknown"),
        ({"settings_hash": None, "dense_seed": 1}, "refused"),
    ],
)
def test_a_row_stands_for_its_own_settings_only(
    tmp_path: Path, changes: dict[str, Any] | None, want: str
) -> None:
    out = tmp_path / "rows.jsonl"
    if changes is not None:
        row = {key: one for key, one in {**ASKED, **changes}.items() if one is not None}
        out.write_text(f"{json.dumps(row)}\n\n")
    if want == "refused":
        with pytest.raises(SystemExit, match=r"other settings; give another --out, or delete"):
            find_row(out, ASKED)
        return
    said = find_row(out, ASKED)
    assert re.search(want, said)
    assert bool(said) == bool(want)


def test_a_run_counts_its_scores_and_is_made_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_duel(tmp_path, ("[evaluate.full]", "[evaluate.distill]\nshare = 0\n\n[evaluate.full]"))
    main(name_run(tmp_path))
    out = tmp_path / "rows.jsonl"
    text = out.read_text()
    row = json.loads(text)

    data = open_task(read_study(read_options(name_run(tmp_path))).task).data
    scored = len(data.validation) + len(data.open_test())
    assert row["samples"] == 3 * 96 + scored  # One epoch, and both splits once.
    assert row["search_samples"] == 0
    assert row["settings_hash"] == hash_run(tmp_path)

    capsys.readouterr()
    main(name_run(tmp_path))
    assert "stands already" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="stands with other settings"):
        main(name_run(tmp_path, "--set=evaluate.full.retrain.epochs=2"))
    assert out.read_text() == text
