"""Test a finished model from its folder, or its compact file, alone."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from autocompress.data.load import load_data
from autocompress.data.settings import DataName, DataSettings
from autocompress.data.source import InputSpec
from autocompress.errors import ArtifactError, DataError, SettingError
from autocompress.evaluate.task import find_device
from autocompress.evaluate.weights import WeightFigures, describe_weights, trace_stored
from autocompress.graph.trace import measure_macs
from autocompress.settings import parse_settings
from autocompress.store.load import count_stored, load, measure_dense
from autocompress.train.loop import score_model
from autocompress.train.objective import accuracy, resolve_loss
from autocompress.zoo.make import import_callable

# What the root of each data set that torchvision reads contains.
LANDMARKS = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """What a stored model is and can.

    Attributes:
        artifact: Its folder or file.
        data: Name of the data set.
        samples: Test samples read.
        test_accuracy: Share of them whose class is found.
        standard_error: Of ``test_accuracy``.
        weights_kept: Weights of convolutions and linear layers that are not zero.
        weights_stored: All of them in the model, zeros included.
        params: All parameters of the model.
        macs: Multiply-accumulates executed for one sample.
        bytes: Size of the file of weights.
        figures: Of the weights, by layer and together.
    """

    artifact: str
    data: str
    samples: int
    test_accuracy: float
    standard_error: float
    weights_kept: int
    weights_stored: int
    params: int
    macs: int
    bytes: int
    figures: WeightFigures

    def to_json(self) -> dict[str, Any]:
        """Return the figures by name."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**own, "figures": self.figures.to_json()}


def check_artifact(folder: Path, *, root: str, name: str, factory: str, device: str) -> Check:
    """Return what the model in ``folder`` is and scores on a test set.

    Args:
        folder: A finished model, or its compact file.
        root: Where the data are; empty for the digits.
        name: Which data set; empty to tell from ``root``.
        factory: ``package.module:function`` that makes the dense model, for models outside our
            zoo and torchvision; else empty.
        device: Where to run.

    Raises:
        ArtifactError: The folder is no undamaged model.
        DataError: The data are missing.
        SettingError: The data set or the device is unknown.
    """
    make = import_callable(factory, "--factory") if factory else None
    model = load(folder, factory=make).to(find_device(device)).eval()
    spec = getattr(model, "input_spec", None)
    if not isinstance(spec, InputSpec):
        raise ArtifactError(f"{folder}: the model says nothing about its input")
    known = name or find_name(root)
    if known not in get_args(DataName):
        raise SettingError(f"--name: want one of {', '.join(get_args(DataName))}, got {known!r}")
    settings = parse_settings(DataSettings, {"name": known, "root": root})
    target = find_device(device)
    test = load_data(settings, target, input_spec=spec).open_test()
    if next(iter(test.batches(1)))[1].is_floating_point():
        raise DataError(
            f"--data {root}: want classes to find, got values to predict, which have no accuracy; "
            "open the model by autocompress.load and measure it in Python"
        )
    loss = resolve_loss("cross_entropy")
    scores = score_model(model, test, loss=loss, metric=accuracy)
    spread = scores.metric * (1 - scores.metric) / scores.samples
    example = torch.zeros(1, *spec.shape, device=target)
    figures = describe_weights(
        model, trace_stored(model, example), dense=measure_dense(folder, factory=make)
    )
    return Check(
        artifact=str(folder),
        data=known,
        samples=scores.samples,
        test_accuracy=scores.metric,
        standard_error=math.sqrt(max(0.0, spread)),
        weights_kept=figures.kept,
        weights_stored=figures.weights,
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=measure_macs(model, example),
        bytes=count_stored(folder),
        figures=figures,
    )


def list_weights(model: nn.Module) -> list[torch.Tensor]:
    """Return the weights of convolutions and linear layers, without biases and norms."""
    return [parameter for parameter in model.parameters() if parameter.ndim > 1]


def find_name(root: str) -> str:
    """Return which data set lies at ``root``.

    Raises:
        DataError: ``root`` tells nothing.
    """
    if not root:
        return "digits"
    path = Path(root)
    if path.suffix == ".npz":
        return "npz"
    found = [name for name, mark in LANDMARKS.items() if (path / mark).is_dir()]
    if (path / "train").is_dir() and (path / "test").is_dir():
        found.append("folder")
    if len(found) == 1:
        return found[0]
    what = " and ".join(found) or "no data set that it knows"
    raise DataError(f"--data {root}: holds {what}; name one with --name")
