from pathlib import Path

import pytest
import torch
from torch import nn

from autocompress.errors import SettingError
from autocompress.zoo.make import (
    ZOO,
    ModelSettings,
    hash_source,
    import_callable,
    is_known,
    make_model,
)


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_lenet5_is_that_of_caffe() -> None:
    model = make_model(ModelSettings(name="lenet5"), (1, 28, 28), 10)

    sizes = {name: p.numel() for name, p in model.named_parameters() if p.ndim > 1}
    assert list(sizes.values()) == [500, 25_000, 400_000, 5_000]
    assert count_parameters(model) == 430_500 + 580


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("digits_cnn", (1, 8, 8), 30_762),
        # Option B shortcuts add 2,560 weights and 192 of batch norm to He's 269,722.
        ("resnet20", (3, 32, 32), 272_474),
        ("resnet56", (3, 32, 32), 855_770),
        ("resnet18", (3, 32, 32), 11_173_962),
        ("vgg16", (3, 32, 32), 14_724_042),
    ],
)
def test_models_have_their_published_size(
    name: str, shape: tuple[int, ...], parameters: int
) -> None:
    model = make_model(ModelSettings(name=name), shape, 10)

    assert count_parameters(model) == parameters


@pytest.mark.parametrize("name", [name for name in ZOO if name != "lenet5"])
def test_models_map_images_to_classes(name: str) -> None:
    model = make_model(ModelSettings(name=name, options={"width": 4}), (2, 32, 32), 7)

    assert model(torch.zeros(2, 2, 32, 32)).shape == (2, 7)


def test_lenet5_refuses_images_too_small_for_it() -> None:
    with pytest.raises(SettingError, match="want images of at least 16 x 16, got 8 x 8"):
        make_model(ModelSettings(name="lenet5"), (1, 8, 8), 10)


def test_torchvision_classifiers_are_known_by_name() -> None:
    model = make_model(ModelSettings(name="mobilenet_v3_small"), (3, 64, 64), 5).eval()

    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    assert is_known("mobilenet_v3_small")


def test_a_prefix_asks_for_the_torchvision_model_of_a_name_in_the_zoo() -> None:
    model = make_model(ModelSettings(name="torchvision:resnet18"), (3, 64, 64), 10)

    assert isinstance(model.get_submodule("conv1"), nn.Conv2d)
    assert model.get_submodule("conv1").kernel_size == (7, 7)
    assert is_known("torchvision:resnet18")


def test_torchvision_models_need_colours() -> None:
    with pytest.raises(SettingError, match="takes 3 channels, but images have 1"):
        make_model(ModelSettings(name="mobilenet_v2"), (1, 32, 32), 10)


def test_a_factory_is_called_with_shape_classes_and_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_models.py").write_text(
        "from torch import nn\n"
        "def make(input_shape, classes, hidden):\n"
        "    return nn.Linear(input_shape[0] * hidden, classes)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = ModelSettings(name="my_models:make", options={"hidden": 3})

    model = make_model(settings, (2, 1, 1), 4)

    assert isinstance(model, nn.Linear)
    assert model.weight.shape == (4, 6)
    assert not is_known("my_models:make")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet21", "want one of digits_cnn, lenet5"),
        ("no_such_package:make", "No module named"),
        ("math:no_such_function", "has no attribute"),
        ("math:pi", "want something to call"),
        ("math:hypot", "must be real number"),
        ("builtins:dict", "dict expected at most 1 argument"),
    ],
)
def test_a_name_that_makes_no_model_is_refused(name: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make_model(ModelSettings(name=name), (3, 32, 32), 10)


def test_an_option_that_a_model_lacks_is_refused() -> None:
    with pytest.raises(SettingError, match="'widht'"):
        make_model(ModelSettings(name="vgg16", options={"widht": 8}), (3, 32, 32), 10)


def test_a_callable_is_imported_by_name() -> None:
    assert import_callable("torch.nn:Linear", "model.name") is nn.Linear


def test_an_option_out_of_range_is_refused() -> None:
    with pytest.raises(SettingError, match="negative dimension"):
        make_model(ModelSettings(name="digits_cnn", options={"width": -3}), (1, 8, 8), 10)


def test_a_source_counts_by_its_text_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {"one": b"x = 1\n", "two": b"x = 1\r\n", "three": b"x = 2\n"}.items():
        (tmp_path / f"source_{name}.py").write_bytes(text)
    monkeypatch.syspath_prepend(tmp_path)

    first, same, other = (hash_source(f"source_{name}:f", "x") for name in ("one", "two", "three"))

    assert first == same != other


def test_a_module_without_source_counts_by_its_name() -> None:
    assert hash_source("math:sqrt", "x") == hash_source("sys:exit", "x")


@pytest.mark.parametrize("name", ["no_such_module:f", "json.no_such:f", "json.decoder.deep:f"])
def test_a_source_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(SettingError, match=rf"task\.loss: want an importable .* got '{name}'"):
        hash_source(name, "task.loss")
