"""What a stored model is made from, as plain values: the part that all our files share."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from autocompress.data.source import InputSpec
from autocompress.errors import ArtifactError, AutoCompressError, GraphError
from autocompress.shrink.structure import Structure, read_structure, restore_structure_
from autocompress.zoo.make import ModelSettings, is_known, make_model

Factory = Callable[..., nn.Module]

_MAKING_FAILS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_MAX_DENSE_VALUES = 2**30  # Twice torchvision's largest; a file must not fill the memory.


def describe_model(
    model: nn.Module,
    *,
    model_settings: ModelSettings,
    input_shape: tuple[int, ...],
    classes: int,
    input_spec: InputSpec,
) -> dict[str, Any]:
    """Return what :func:`make_dense` and :func:`restore_model` need beside the tensors.

    Args:
        model: Made smaller from what ``model_settings`` make.
        model_settings: Make the dense model.
        input_shape: (channels, height, width), as given to the dense model.
        classes: Outputs, as given to the dense model.
        input_spec: How an image becomes an input.
    """
    return {
        "model": asdict(model_settings),
        "input_shape": list(input_shape),
        "classes": classes,
        "input_spec": asdict(input_spec),
        "modules": read_structure(model),
    }


def make_dense(where: Path, record: Mapping[str, Any], factory: Factory | None) -> nn.Module:
    """Return the dense model of a record, once it is known not to fill the memory.

    Args:
        where: Named in errors.
        record: Made by :func:`describe_model`; may come from anyone.
        factory: Makes the model when it is neither of the zoo nor of torchvision.

    Raises:
        ArtifactError: The record is malformed, or the model cannot be made.
    """
    try:
        # Only JSON mode is strict and still reads a table as a dataclass.
        model_text = json.dumps(record["model"])
        settings = TypeAdapter(ModelSettings).validate_json(model_text, strict=True)
        shape = TypeAdapter(tuple[int, ...]).validate_python(record["input_shape"])
        classes = TypeAdapter(int).validate_python(record["classes"], strict=True)
    except (KeyError, ValidationError) as error:
        raise ArtifactError(f"{where}: {error}") from error
    if factory is None and not is_known(settings.name):
        raise ArtifactError(
            f"{where}: the model {settings.name!r} is not of the zoo or torchvision; "
            "pass its factory: load(folder, factory=...), or --factory PACKAGE.MODULE:FACTORY "
            "on the command line"
        )

    def make() -> nn.Module:
        if factory is None:
            return make_model(settings, shape, classes)
        return factory(shape, classes, **settings.options)

    try:
        with torch.random.fork_rng(devices=[]):
            if factory is None:
                _check_size(where, make)
            return make()
    except (AutoCompressError, *_MAKING_FAILS) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{where}: the dense model cannot be made: {error}") from error


def _check_size(where: Path, make: Callable[[], nn.Module]) -> None:
    """Raise ArtifactError when the model would hold too many values, without making them."""
    try:
        with torch.device("meta"):
            model = make()
    except NotImplementedError:
        return  # It reads values while it is made, which no model with options does.
    values = sum(tensor.numel() for tensor in [*model.parameters(), *model.buffers()])
    if values > _MAX_DENSE_VALUES:
        raise ArtifactError(
            f"{where}: want a dense model of at most {_MAX_DENSE_VALUES:,} values, got {values:,}"
        )


def count_values(model: nn.Module) -> int:
    """Return how many values the state of ``model`` holds."""
    return sum(tensor.numel() for tensor in model.state_dict().values())


def restore_model(
    where: Path, record: Mapping[str, Any], model: nn.Module, tensors: Mapping[str, Tensor]
) -> nn.Module:
    """Return the stored model, in evaluation mode; its ``input_spec`` says what it expects.

    Its ``stored_record`` says what it was made from, for those who store it again.

    Args:
        where: Named in errors.
        record: Made by :func:`describe_model`; may come from anyone.
        model: The dense model, changed in place.
        tensors: State of the smaller model.

    Raises:
        ArtifactError: They do not fit together.
    """
    try:
        spec = TypeAdapter(InputSpec).validate_python(_to_tuples(record["input_spec"]))
        modules: Structure = TypeAdapter(Structure).validate_python(record["modules"])
    except (KeyError, ValidationError) as error:
        raise ArtifactError(f"{where}: {error}") from error
    try:
        restore_structure_(model, modules, tensors)
    except GraphError as error:
        raise ArtifactError(f"{where}: {error}") from error
    model.input_spec = spec  # type: ignore[assignment]
    kept = {key: record[key] for key in ("model", "input_shape", "classes", "input_spec")}
    model.stored_record = kept  # type: ignore[assignment]
    return model.eval()


def read_json(data: bytes) -> Any:
    """Return what JSON says, once it is sure to say it once.

    Raises:
        ValueError: It is no JSON, too deep, names a key twice, or has NaN or infinity.
    """
    try:
        return json.loads(
            data.decode(), object_pairs_hook=_refuse_twins, parse_constant=_refuse_constant
        )
    except RecursionError as error:
        raise ValueError("too deep") from error


def _refuse_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key appears twice")
    return record


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"want finite numbers, got {text}")


def _to_tuples(record: Any) -> Any:
    if not isinstance(record, dict):
        return record
    return {key: tuple(v) if isinstance(v, list) else v for key, v in record.items()}
