import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from autocompress.cli import main
from autocompress.cli.check import find_name
from autocompress.cli.results import list_options
from autocompress.data.source import InputSpec
from autocompress.errors import DataError
from autocompress.evaluate.task import TaskSettings
from autocompress.store.artifacts import save_artifact
from autocompress.zoo.make import ModelSettings, import_callable, make_model


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    settings = ModelSettings(name="digits_cnn")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make_model(settings, (1, 8, 8), 10)
    with torch.no_grad():
        next(model.parameters())[0].zero_()
    save_artifact(
        folder,
        model,
        model_settings=settings,
        input_shape=(1, 8, 8),
        classes=10,
        input_spec=InputSpec(shape=(1, 8, 8), mean=(0.3,), std=(0.4,)),
        metrics={},
    )
    return folder


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return int(caught.value.code or 0)


def test_an_artifact_is_tested_from_its_folder(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", str(artifact), "--json") == 0

    figures = json.loads(capsys.readouterr().out)
    assert figures["data"] == "digits"
    assert figures["samples"] > 300
    p = figures["test_accuracy"]
    assert 0 <= p <= 1
    assert figures["standard_error"] == pytest.approx((p * (1 - p) / figures["samples"]) ** 0.5)
    assert 0 < figures["weights_kept"] < figures["weights_stored"] < figures["params"]
    layers = figures["figures"]["layers"]
    assert sum(layer["kept"] for layer in layers) == figures["weights_kept"]
    assert figures["figures"]["dense_weights"] == figures["weights_stored"]
    assert figures["figures"]["dead_weights"] > 0  # The filter without weights is read.
    assert figures["bytes"] == (artifact / "model.safetensors").stat().st_size


def test_figures_are_shown_to_a_person(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", str(artifact)) == 0

    shown = capsys.readouterr().out
    assert "test accuracy" in shown
    assert "MACs per sample" in shown
    assert "  on dead paths" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_a_missing_artifact_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", str(tmp_path / "nothing")) == 1

    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_an_unknown_data_set_is_one_sentence(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", str(artifact), "--name", "mnits", "--data", "x") == 1

    assert "want one of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("folders", "name"),
    [
        (["MNIST/raw"], "mnist"),
        (["cifar-10-batches-py"], "cifar10"),
        (["train", "test"], "folder"),
    ],
)
def test_the_data_set_is_told_by_its_folder(folders: list[str], name: str, tmp_path: Path) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)

    assert find_name(str(tmp_path)) == name


def test_two_data_sets_in_one_folder_must_be_named(tmp_path: Path) -> None:
    for folder in ("MNIST", "FashionMNIST"):
        (tmp_path / folder).mkdir()

    with pytest.raises(DataError, match="mnist and fashion_mnist; name one with --name"):
        find_name(str(tmp_path))


def test_no_root_means_the_digits() -> None:
    assert find_name("") == "digits"
    assert find_name("data.npz") == "npz"


def test_a_factory_may_lie_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one and one != str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "factory_lying_here.py").write_text("make = dict\n")

    run("--version")

    assert import_callable("factory_lying_here:make", "model.name") is dict


def test_a_foreign_model_asks_for_its_factory_by_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_artifact(
        tmp_path,
        torch.nn.Linear(2, 2),
        model_settings=ModelSettings(name="mine:make"),
        input_shape=(2, 1, 1),
        classes=2,
        input_spec=InputSpec(shape=(2, 1, 1), mean=(0.0, 0.0), std=(1.0, 1.0)),
        metrics={},
    )

    assert run("evaluate", str(tmp_path)) == 1

    assert "--factory PACKAGE.MODULE:FACTORY" in capsys.readouterr().err
    assert list_options(TaskSettings(model=ModelSettings(name="mine:make"))) == (
        " --factory mine:make"
    )


def test_values_to_predict_have_no_accuracy(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, values = np.zeros((20, 8, 8), dtype=np.uint8), np.zeros(20, dtype=np.float32)
    path = tmp_path / "values.npz"
    np.savez(
        path, train_images=images, train_labels=values, test_images=images, test_labels=values
    )

    assert run("evaluate", str(artifact), "--data", str(path)) == 1

    assert "which have no accuracy" in capsys.readouterr().err
