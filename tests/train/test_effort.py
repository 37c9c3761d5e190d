from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from autocompress.data.settings import DataSettings
from autocompress.data.source import Source
from autocompress.evaluate.task import TaskSettings, open_task
from autocompress.train.checkpoint import Keeper
from autocompress.train.effort import count_effort, spend
from autocompress.train.loop import (
    Hooks,
    TrainSettings,
    count_steps,
    reestimate_norms_,
    score_model,
    train_model_,
)
from autocompress.train.objective import (
    LOSSES,
    METRICS,
    make_distilled_loss,
    make_soft_distance,
    make_task_loss,
)

TRAIN = TrainSettings(epochs=1.5, batch_size=48)


@pytest.fixture(scope="module")
def source() -> Source:
    return open_task(TaskSettings(data=DataSettings(train_limit=200), device="cpu")).data.train


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))


def watch_passes(model: nn.Module) -> Callable[[], int]:
    """Return what tells the samples that went through ``model`` since now."""
    seen = 0

    def note(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal seen
        seen += len(inputs[0])

    model.register_forward_pre_hook(note)
    return lambda: seen


def test_blocks_count_what_is_spent_in_them_and_in_those_inside() -> None:
    spend(100)
    with count_effort() as outer:
        spend(1)
        with suppress(ValueError), count_effort() as inner:
            spend(10)
            raise ValueError
        spend(2)
    spend(1000)

    assert (outer.samples, inner.samples) == (13, 10)


def test_a_training_counts_three_for_each_sample_that_a_hook_sees(source: Source) -> None:
    model = make_net()
    look = watch_passes(model)
    loss = make_task_loss(LOSSES["cross_entropy"])

    with count_effort() as effort:
        train_model_(model, source, TRAIN, loss=loss, seed=0)

    assert look() == count_steps(source, TRAIN) * 48
    assert effort.samples == 3 * look()


def test_a_teacher_counts_one_more(source: Source) -> None:
    model, teacher = make_net(), make_net().eval()
    looks = watch_passes(model), watch_passes(teacher)
    loss = make_distilled_loss(
        functional.cross_entropy, teacher, share=0.5, distance=make_soft_distance(2.0)
    )

    with count_effort() as effort:
        train_model_(model, source, TRAIN, loss=loss, seed=0)

    assert looks[0]() == looks[1]()
    assert effort.samples == 3 * looks[0]() + looks[1]()


def test_scores_and_norms_count_one(source: Source) -> None:
    model = make_net()
    look = watch_passes(model)

    with count_effort() as effort:
        score_model(model, source, loss=LOSSES["cross_entropy"], metric=METRICS["accuracy"])
        assert effort.samples == look() == len(source)
        reestimate_norms_(model, source, batches=3, batch_size=48, seed=0)

    assert effort.samples == look() == len(source) + 3 * 48


def test_a_training_that_goes_on_has_cost_what_a_whole_one_costs(
    source: Source, tmp_path: Path
) -> None:
    teacher = make_net().eval()
    loss = make_distilled_loss(
        functional.cross_entropy, teacher, share=0.5, distance=make_soft_distance(2.0)
    )

    def train(stop: int, keeper: Keeper | None) -> int:
        def on_step(step: int) -> None:
            if step == stop:
                raise KeyboardInterrupt

        with count_effort() as effort:
            hooks = Hooks(on_step=on_step)
            train_model_(make_net(), source, TRAIN, loss=loss, seed=0, hooks=hooks, keeper=keeper)
        return effort.samples

    def keep() -> Keeper:
        return Keeper(tmp_path / "kept", seconds=0.0)

    for stop in (2, 2, 4):  # The second one gets no further.
        with pytest.raises(KeyboardInterrupt):
            train(stop, keep())

    assert train(-1, keep()) == train(-1, None) == 4 * 48 * count_steps(source, TRAIN)


def test_a_training_that_goes_on_has_taken_the_time_of_all_its_parts(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that ticks once a step; what was never kept is not in it."""
    now = 100.0
    monkeypatch.setattr("autocompress.train.loop.read_times", lambda: (now, 2 * now))

    def train(stop: int) -> tuple[float, float]:
        def on_step(step: int) -> None:
            nonlocal now
            now += 1
            if step == stop:
                raise KeyboardInterrupt

        with count_effort() as effort, suppress(KeyboardInterrupt):
            loss, keeper = (
                make_task_loss(LOSSES["cross_entropy"]),
                Keeper(tmp_path / "x", seconds=0),
            )
            hooks = Hooks(on_step=on_step)
            train_model_(make_net(), source, TRAIN, loss=loss, seed=0, hooks=hooks, keeper=keeper)
        return effort.seconds, effort.cpu_s

    assert [train(stop) for stop in (2, 2, 4, -1)] == [(0, 0), (2, 4), (2, 4), (4, 8)]
    assert train(-1) == (count_steps(source, TRAIN), 2 * count_steps(source, TRAIN))
