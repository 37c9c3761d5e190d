"""Make a model by its name."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torchvision
from torch import nn

from autocompress.errors import SettingError
from autocompress.zoo.digits import DigitsCnn
from autocompress.zoo.lenet import LeNet5
from autocompress.zoo.resnet import ResNet
from autocompress.zoo.vgg import Vgg16

Option = int | float | str | bool
_TORCHVISION = "torchvision:"


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Name a model; also its TOML table.

    Attributes:
        name: One of :data:`ZOO`, a classifier of torchvision (``torchvision:NAME`` where both
            know the name), or ``package.module:factory``, which is called as
            ``factory(input_shape, classes, **options)``.
        options: Further arguments of the model, such as ``width`` in the zoo.
    """

    name: str = "digits_cnn"
    options: dict[str, Option] = field(default_factory=dict)


def make_model(settings: ModelSettings, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a new model in training mode, initialised from PyTorch's global generator.

    Args:
        settings: What to make.
        input_shape: (channels, height, width).
        classes: Outputs of the model.

    Raises:
        SettingError: The name is not known, or the model refuses its options or the shape.
    """
    name = settings.name
    try:
        if name in ZOO:
            return ZOO[name](input_shape, classes, settings.options)
        if is_known(name):
            return _make_torchvision(settings, input_shape, classes)
        if ":" in name:
            model = import_callable(name, "model.name")(input_shape, classes, **settings.options)
            if not isinstance(model, nn.Module):
                raise TypeError(f"want a torch.nn.Module, got {type(model).__name__}")
            return model
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, SettingError):
            raise
        raise SettingError(f"model {name!r} with {settings.options}: {error}") from error
    raise SettingError(
        f"model.name: want one of {', '.join(ZOO)}, a torchvision classifier or "
        f"'package.module:factory', got {name!r}"
    )


def is_known(name: str) -> bool:
    """Return whether a file may ask for this model: only the zoo's and torchvision's."""
    return name in ZOO or name.removeprefix(_TORCHVISION) in torchvision.models.list_models(
        module=torchvision.models
    )


def import_callable(name: str, setting: str) -> Callable[..., Any]:
    """Return the object that ``package.module:function`` names.

    Args:
        name: What to import.
        setting: Key of the setting, for messages.

    Raises:
        SettingError: There is no such module or function.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingError(
            f"{setting}: want an importable 'package.module:function', got {name!r}: {error}"
        ) from error
    if not callable(found):
        raise SettingError(f"{setting}: want something to call, but {name!r} is {found!r}")
    return found


def hash_source(name: str, setting: str) -> str:
    """Return the SHA-256 of the file that ``package.module:function`` lies in.

    The module is not imported, only the packages around it; what it imports does not count. Line
    ends of another system give the same hash; a module without Python source gives that of an
    empty file.

    Args:
        name: What would be imported.
        setting: Key of the setting, for messages.

    Raises:
        SettingError: There is no such module.
    """
    module = name.partition(":")[0]
    try:
        spec = find_spec(module)
        if spec is None:
            raise ImportError(f"no module named {module!r}")
        text = b""
        if spec.has_location and spec.origin and spec.origin.endswith(".py"):
            text = Path(spec.origin).read_bytes()
    except (ImportError, AttributeError, ValueError, OSError) as error:
        raise SettingError(
            f"{setting}: want an importable 'package.module:function', got {name!r}: {error}"
        ) from error
    return hashlib.sha256(text.replace(b"\r\n", b"\n")).hexdigest()


def _make_lenet5(shape: tuple[int, ...], classes: int, options: Mapping[str, Any]) -> nn.Module:
    channels, height, width = shape
    return LeNet5(channels, height, width, classes, **options)


def _make_digits_cnn(
    shape: tuple[int, ...], classes: int, options: Mapping[str, Any]
) -> nn.Module:
    return DigitsCnn(shape[0], classes, **options)


def _make_resnet20(shape: tuple[int, ...], classes: int, options: Mapping[str, Any]) -> nn.Module:
    return ResNet(shape[0], classes, **{"blocks": (3, 3, 3), "width": 16, **options})


def _make_resnet56(shape: tuple[int, ...], classes: int, options: Mapping[str, Any]) -> nn.Module:
    return ResNet(shape[0], classes, **{"blocks": (9, 9, 9), "width": 16, **options})


def _make_resnet18(shape: tuple[int, ...], classes: int, options: Mapping[str, Any]) -> nn.Module:
    return ResNet(shape[0], classes, **{"blocks": (2, 2, 2, 2), "width": 64, **options})


def _make_vgg16(shape: tuple[int, ...], classes: int, options: Mapping[str, Any]) -> nn.Module:
    return Vgg16(shape[0], classes, **options)


def _make_torchvision(settings: ModelSettings, shape: tuple[int, ...], classes: int) -> nn.Module:
    if shape[0] != 3:
        raise SettingError(
            f"model.name: {settings.name} of torchvision takes 3 channels, but images have "
            f"{shape[0]}; take a model of the zoo or your own factory"
        )
    name = settings.name.removeprefix(_TORCHVISION)
    made = torchvision.models.get_model(
        name, weights=None, num_classes=classes, **settings.options
    )
    assert isinstance(made, nn.Module)
    return made


ZOO: dict[str, Callable[[tuple[int, ...], int, Mapping[str, Any]], nn.Module]] = {
    "digits_cnn": _make_digits_cnn,
    "lenet5": _make_lenet5,
    "resnet20": _make_resnet20,
    "resnet56": _make_resnet56,
    "resnet18": _make_resnet18,
    "vgg16": _make_vgg16,
}
