"""A pipeline for one model: stored after every phase, the same however often it is cut off."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autocompress.data.settings import DataSettings
from autocompress.errors import EvaluationError
from autocompress.evaluate.base import make_base
from autocompress.evaluate.compress import (
    Compressed,
    CompressSettings,
    PhaseReport,
    ProgressiveSettings,
    compress,
    make_seed,
)
from autocompress.evaluate.settings import DistillSettings
from autocompress.evaluate.task import TaskSettings, open_task
from autocompress.methods.steps import PruneStep, QuantizeStep, RetrainStep
from autocompress.quantize.levels import Levels
from autocompress.settings import parse_settings
from autocompress.store.artifacts import load
from autocompress.store.cleaning import list_items
from autocompress.train.admm import AdmmSettings
from autocompress.train.loop import TrainSettings
from tests import limited_loss

SHORT = TrainSettings(epochs=1, batch_size=64)
ADMM = AdmmSettings(updates=2, form="proximal")
STEPS = (
    PruneStep(density=0.1, by="gradual", every=1, train=SHORT),
    PruneStep(density=0.05, by="admm", train=replace(SHORT, average=0.5), admm=ADMM),
    RetrainStep(swap=0.2, every=2, train=replace(SHORT, optimizer="sgd", momentum=0.9)),
    QuantizeStep(
        levels=Levels(bits=3), layers=("inner",), freeze=(0.5,), train=SHORT, retrain=SHORT
    ),
    QuantizeStep(levels=Levels(kind="ternary"), by="straight_through", train=SHORT),
)
CALLS = 7 * 4  # Batches of 64 out of 256 samples, in the dense model and in each training.


def make_settings(folder: Path, steps: tuple[object, ...] = STEPS) -> CompressSettings:
    task = TaskSettings(
        data=DataSettings(train_limit=256),
        train=SHORT,
        loss="tests.limited_loss:limited_loss",
        device="cpu",
    )
    method = ProgressiveSettings(steps=steps, keep_s=0.0, distill=DistillSettings(share=0.0))  # type: ignore[arg-type]
    return CompressSettings(name="tiny", run_dir=str(folder), task=task, method=method)


def cut_off(settings: CompressSettings, calls: int) -> Compressed | None:
    """Run until ``calls`` losses were taken; None when that cut it off."""
    limited_loss.left = calls
    try:
        return compress(settings)
    except limited_loss.Cut:
        return None
    finally:
        limited_loss.left = None


def read_bytes(done: Compressed) -> dict[str, bytes]:
    """Return the files of a finished model; its figures without the time they took."""
    return {path.name: path.read_bytes() for path in sorted(done.folder.iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Compressed:
    return compress(make_settings(tmp_path_factory.mktemp("whole")))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("calls", [7, 11])  # The curvature takes 4 that are not kept.
def test_a_pipeline_cut_off_again_and_again_ends_with_the_same_bytes(
    tmp_path: Path, whole: Compressed, calls: int
) -> None:
    settings = make_settings(tmp_path)
    tries = 1
    while (done := cut_off(settings, calls)) is None:
        tries += 1
        assert tries <= CALLS

    assert tries > CALLS // (calls + 1)
    assert read_bytes(done) == read_bytes(whole)


def test_a_finished_pipeline_trains_nothing_and_says_what_it_did(whole: Compressed) -> None:
    settings = make_settings(whole.folder.parents[2])
    reports: list[PhaseReport] = []
    limited_loss.left = 0
    try:
        again = compress(settings, watch=reports.append)
    finally:
        limited_loss.left = None

    assert again == whole
    assert [report.number for report in reports] == list(range(9))
    assert not list((whole.folder.parents[2] / "checkpoints").glob("*"))


def test_the_finished_model_is_ordinary_and_holds_its_figures(whole: Compressed) -> None:
    model = load(whole.folder)
    weights = [one for one in model.parameters() if one.ndim > 1]

    kept = sum(int((one != 0).sum()) for one in weights)
    assert kept == int(whole.metrics["kept_weights"])
    assert all(len(one[one != 0].unique()) <= 6 for one in weights)
    assert 0 <= whole.metrics["test_metric"] <= 1
    assert json.loads((whole.folder / "metrics.json").read_text()) == whole.metrics
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    # A masked weight is left as -0.0 by half, and every bit that is not 0 is stored.
    assert not any(bool(one[one == 0].signbit().any()) for one in weights)


def test_another_seed_gives_another_model(tmp_path: Path, whole: Compressed) -> None:
    other = compress(replace(make_settings(tmp_path), seed=1))

    assert read_bytes(other) != read_bytes(whole)


def test_a_pipeline_ends_at_the_last_model_that_holds_the_metric(tmp_path: Path) -> None:
    steps = (
        RetrainStep(train=SHORT),
        PruneStep(weights=60, by="one_shot"),
        RetrainStep(train=SHORT),
    )
    settings = make_settings(tmp_path, steps)
    settings = replace(settings, method=replace(settings.method, worst_metric=0.3))
    reports: list[PhaseReport] = []

    done = compress(settings, watch=reports.append)

    done_ones = [one for one in reports if one.metrics and "retrain" in one.title]
    held = [one.metrics["val_metric"] >= 0.3 for one in done_ones]
    begun = [one.number for one in reports if not one.metrics]
    assert begun == [1, 2, 3]
    assert held == [True, False]
    assert not done.reached
    assert done.metrics["kept_weights"] > 60
    hopeless = replace(settings, method=replace(settings.method, worst_metric=1.1))
    with pytest.raises(EvaluationError, match=r"no step holds 1\.1"):
        compress(hopeless)


def test_the_model_of_the_last_step_has_to_hold_the_metric_too(tmp_path: Path) -> None:
    steps = (RetrainStep(train=SHORT), PruneStep(weights=60, by="one_shot"))
    settings = make_settings(tmp_path, steps)
    settings = replace(settings, method=replace(settings.method, worst_metric=0.3))

    done = compress(settings)

    assert not done.reached
    assert done.metrics["val_metric"] >= 0.3


def test_a_checkpoint_left_by_a_kill_after_its_phase_was_stored_goes(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, (RetrainStep(train=SHORT),))
    assert cut_off(settings, 6) is None  # In the second training: the first is the dense model's.
    (kept,) = (tmp_path / "checkpoints").glob("*")
    content = kept.read_bytes()
    compress(settings)
    assert not kept.exists()
    kept.write_bytes(content)

    compress(settings)

    assert not kept.exists()


@pytest.mark.gpu
def test_a_pipeline_goes_on_where_it_was_cut_off_on_a_gpu(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    settings = replace(settings, task=replace(settings.task, device="cuda"))
    tries = 1
    while (done := cut_off(settings, 7)) is None:
        tries += 1
        assert tries <= CALLS

    assert done.reached
    assert done.metrics["dead_weights"] == 0


def test_a_layer_without_any_path_is_named(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    graph = make_base(open_task(settings.task).make_model(), open_task(settings.task)).graph
    step = PruneStep(layers={layer.name: 1 for layer in graph.layers}, by="one_shot")

    with pytest.raises(EvaluationError, match=r"no path through conv\w+ is left with 4 weights"):
        compress(make_settings(tmp_path, (step,)))


def test_seeds_of_phases_hang_on_no_place(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    task = replace(settings.task, data=replace(settings.task.data, root="elsewhere"))
    seeds = [make_seed(seed, number) for seed in range(3) for number in range(1, 9)]

    assert len(set(seeds)) == len(seeds)
    reports: list[PhaseReport] = []
    first = compress(replace(settings, run_dir=str(tmp_path / "here")))
    second = compress(
        replace(settings, task=task, run_dir=str(tmp_path / "there")), watch=reports.append
    )
    assert sum(not one.metrics for one in reports) == 8  # All trained anew.
    assert read_bytes(first) == read_bytes(second)


def test_clean_finds_nothing_to_free_but_the_dense_model(whole: Compressed) -> None:
    items = list_items(whole.folder.parents[2])

    assert [item.kind for item in items] == ["dense"]
    record = json.loads((whole.folder / "pipeline.json").read_text())
    method = parse_settings(ProgressiveSettings, record["method"])
    assert method.steps == STEPS
