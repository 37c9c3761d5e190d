import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from autocompress.data.settings import DataName, DataSettings
from autocompress.errors import ArtifactError, SettingError
from autocompress.evaluate.task import (
    TaskSettings,
    check_targets,
    find_device,
    key_dense,
    open_task,
    train_dense,
)
from autocompress.store.run_folder import RunFolder
from autocompress.train.loop import TrainSettings
from autocompress.zoo.make import ModelSettings

SETTINGS = TaskSettings(
    data=DataSettings(train_limit=128),
    model=ModelSettings(options={"width": 2}),
    train=TrainSettings(epochs=1, batch_size=64),
    device="cpu",
)


def test_the_untrained_model_follows_from_the_seed_alone() -> None:
    task = open_task(SETTINGS)
    state = torch.get_rng_state()

    first, again = task.make_model(), task.make_model()
    other = open_task(replace(SETTINGS, seed=1)).make_model()

    weights = [model.get_parameter("conv1.weight") for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), state)
    assert first(task.example()).shape == (1, 10)


def test_the_dense_model_is_trained_once(tmp_path: Path) -> None:
    task, folder = open_task(SETTINGS), RunFolder(tmp_path)

    model, key, metrics = train_dense(task, folder)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again, same_key, same_metrics = train_dense(task, folder)

    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == files
    assert (same_key, same_metrics) == (key, metrics)
    assert metrics.keys() == {"val_loss", "val_metric", "params"}
    assert not model.training
    assert not again.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(
        model.get_parameter("conv1.weight"), task.make_model().get_parameter("conv1.weight")
    )


def test_a_stored_model_with_lost_metrics_is_refused(tmp_path: Path) -> None:
    task, folder = open_task(SETTINGS), RunFolder(tmp_path)
    _, key, _ = train_dense(task, folder)
    (folder.path(key) / "dense.json").write_text("{")

    with pytest.raises(ArtifactError, match=r"dense\.json: cannot be read"):
        train_dense(task, folder)


def test_a_damaged_model_says_what_to_delete(tmp_path: Path) -> None:
    task, folder = open_task(SETTINGS), RunFolder(tmp_path)
    _, key, _ = train_dense(task, folder)
    (folder.path(key) / "model.safetensors").write_bytes(b"short")

    with pytest.raises(ArtifactError, match=f"damaged.*delete {folder.path(key)}"):
        train_dense(task, folder)


@pytest.mark.parametrize(
    "changed",
    [
        replace(SETTINGS, seed=1),
        replace(SETTINGS, loss="mse"),
        replace(SETTINGS, model=ModelSettings()),
        replace(SETTINGS, train=TrainSettings(epochs=2)),
        replace(SETTINGS, data=replace(SETTINGS.data, split_seed=1)),
        replace(SETTINGS, trainer="json:dumps"),
        replace(SETTINGS, metric="json:dumps"),
    ],
)
def test_what_changes_the_dense_model_changes_its_key(changed: TaskSettings) -> None:
    assert key_dense(changed) != key_dense(SETTINGS)


@pytest.mark.parametrize(
    "changed",
    [
        replace(SETTINGS, device="auto"),
        replace(SETTINGS, data=replace(SETTINGS.data, download=True)),
        replace(SETTINGS, data=replace(SETTINGS.data, memory_limit_bytes=1)),
    ],
)
def test_what_does_not_change_the_dense_model_keeps_its_key(changed: TaskSettings) -> None:
    assert key_dense(changed) == key_dense(SETTINGS)


def test_data_that_moved_keep_the_key_but_others_do_not(tmp_path: Path) -> None:
    def key(name: DataName, root: str) -> str:
        return key_dense(replace(SETTINGS, data=DataSettings(name=name, root=root)))

    np.savez(tmp_path / "a.npz", train_images=np.zeros(3))
    np.savez(tmp_path / "b.npz", train_images=np.ones(3))
    first = key("npz", str(tmp_path / "a.npz"))
    (tmp_path / "a.npz").rename(tmp_path / "c.npz")

    assert key("npz", str(tmp_path / "c.npz")) == first
    assert key("npz", str(tmp_path / "b.npz")) != first
    assert key("mnist", "here") == key("mnist", "there") != key("cifar10", "here")


@pytest.mark.parametrize("setting", ["model", "loss", "metric", "trainer"])
def test_an_edited_function_of_the_user_changes_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    source = tmp_path / f"edited_{setting}.py"
    source.write_text("def make(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    name = f"{source.stem}:make"
    value = ModelSettings(name=name) if setting == "model" else name
    settings = replace(SETTINGS, **{setting: value})  # type: ignore[arg-type]
    first = key_dense(settings)

    source.write_text("def make(): return 1\n")

    assert key_dense(settings) != first
    assert source.stem not in sys.modules  # A key runs nobody's code.


def write_safetensors(state: dict[str, torch.Tensor], folder: Path) -> Path:
    save_file(state, folder / "state.safetensors")
    return folder / "state.safetensors"


def write_pt(state: dict[str, torch.Tensor], folder: Path) -> Path:
    torch.save(state, folder / "state.pt")
    return folder / "state.pt"


def write_nested(state: dict[str, torch.Tensor], folder: Path) -> Path:
    torch.save({"epoch": 3, "state_dict": state}, folder / "state.pth")
    return folder / "state.pth"


@pytest.mark.parametrize("write", [write_safetensors, write_pt, write_nested])
def test_a_checkpoint_is_used_as_it_is(
    tmp_path: Path, write: Callable[[dict[str, torch.Tensor], Path], Path]
) -> None:
    state = open_task(replace(SETTINGS, seed=7)).make_model().state_dict()
    task = open_task(replace(SETTINGS, checkpoint=str(write(state, tmp_path))))

    model, _, _ = train_dense(task, RunFolder(tmp_path / "run"))

    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_changed_checkpoint_has_another_key(tmp_path: Path) -> None:
    settings = replace(SETTINGS, checkpoint=str(tmp_path / "state.pt"))
    torch.save({"a": torch.zeros(1)}, tmp_path / "state.pt")
    first = key_dense(settings)

    torch.save({"a": torch.ones(1)}, tmp_path / "state.pt")

    assert key_dense(settings) != first


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = write_pt({"a": torch.zeros(1)}, tmp_path)

    with pytest.raises(SettingError, match=r"state\.pt does not fit"):
        train_dense(open_task(replace(SETTINGS, checkpoint=str(path))), RunFolder(tmp_path))


def test_a_checkpoint_that_is_missing_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "none.pt")

    with pytest.raises(SettingError, match=r"cannot read .*none\.pt: No such file"):
        train_dense(open_task(replace(SETTINGS, checkpoint=path)), RunFolder(tmp_path))


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1), tmp_path / "state.pt")
    settings = replace(SETTINGS, checkpoint=str(tmp_path / "state.pt"))

    with pytest.raises(SettingError, match="holds more than tensors"):
        train_dense(open_task(settings), RunFolder(tmp_path / "run"))


def test_a_trainer_of_the_user_trains_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_training.py").write_text(
        "import torch\n"
        "def train(model, source, seed):\n"
        "    inputs, targets = next(iter(source.batches(8, seed=seed, augment=True)))\n"
        "    assert inputs.shape == (8, 1, 8, 8)\n"
        "    torch.nn.init.constant_(model.fc.bias, float(seed))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    task = open_task(replace(SETTINGS, trainer="my_training:train", seed=5))

    model, _, _ = train_dense(task, RunFolder(tmp_path / "run"))

    assert model.get_parameter("fc.bias").eq(5).all()


def test_a_model_of_the_user_is_trained_and_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_models.py").write_text(
        "from torch import nn\n"
        "def make(input_shape, classes, filters):\n"
        "    return nn.Sequential(\n"
        "        nn.Conv2d(input_shape[0], filters, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),\n"
        "        nn.Flatten(), nn.Linear(filters, classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = ModelSettings(name="my_own_models:make", options={"filters": 3})
    task = open_task(replace(SETTINGS, model=settings))

    model, _, metrics = train_dense(task, RunFolder(tmp_path / "run"))

    assert model(task.example()).shape == (1, 10)
    assert metrics["params"] == 3 * 9 + 3 + 3 * 10 + 10


def test_a_trainer_beside_a_checkpoint_is_refused() -> None:
    with pytest.raises(SettingError, match="want no trainer beside a checkpoint"):
        replace(SETTINGS, trainer="my_training:train", checkpoint="state.pt")


def test_an_error_to_raise_is_refused() -> None:
    with pytest.raises(SettingError, match=r"task\.metric_direction: want 'minimize'"):
        replace(SETTINGS, metric="mse")


def test_a_device_that_is_none_is_refused() -> None:
    with pytest.raises(SettingError, match=r"task\.device: want auto, cpu or cuda, got 'warp'"):
        find_device("warp")


def test_a_loss_or_metric_that_does_not_fit_the_labels_is_refused() -> None:
    values = TaskSettings(loss="mse", metric="mse", metric_direction="minimize")

    check_targets(values, torch.zeros(1, 1))
    check_targets(TaskSettings(), torch.zeros(1, dtype=torch.int64))

    with pytest.raises(SettingError, match="mse wants labels that are floats"):
        check_targets(values, torch.zeros(1, dtype=torch.int64))
    with pytest.raises(SettingError, match="accuracy wants labels that are whole numbers"):
        check_targets(replace(values, metric="accuracy"), torch.zeros(1, 1))
