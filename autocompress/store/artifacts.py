"""A finished model as a folder that anyone can load without trusting it.

``model.safetensors`` holds the state, ``structure.json`` what to build and the hash of the state,
``metrics.json`` figures for people. Tensors of few non-zeros or few values are stored short, which
``structure.json`` then describes. Nothing in them is run: models come from the zoo, from
torchvision, or from a factory that the caller passes.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import Tensor, nn

from autocompress.data.source import InputSpec
from autocompress.errors import ArtifactError
from autocompress.jobs import hash_json
from autocompress.store.files import replace_file
from autocompress.store.record import (
    Factory,
    count_values,
    describe_model,
    make_dense,
    read_json,
    restore_model,
)
from autocompress.store.tensors import decode_tensors, encode_tensors, have_equal_bits
from autocompress.zoo.make import ModelSettings

FORMAT = "autocompress-model"
VERSION = 1
ENCODED_VERSION = 2  # Of an artifact with encoded tensors, which version 1 cannot read.
WEIGHTS_FILE = "model.safetensors"
STRUCTURE_FILE = "structure.json"
METRICS_FILE = "metrics.json"

_MAX_STRUCTURE_BYTES = 64 * 2**20


def save_artifact(  # noqa: PLR0913 - what a loader must know, all by keyword
    folder: Path,
    model: nn.Module,
    *,
    model_settings: ModelSettings,
    input_shape: tuple[int, ...],
    classes: int,
    input_spec: InputSpec,
    metrics: Mapping[str, Any],
) -> None:
    """Write ``model`` into ``folder``, which is made if needed; each file whole or not at all.

    Args:
        folder: Files of an older artifact in it are replaced.
        model: Made smaller from what ``model_settings`` make.
        model_settings: Make the dense model.
        input_shape: (channels, height, width), as given to the dense model.
        classes: Outputs, as given to the dense model.
        input_spec: How an image becomes an input; the loaded model carries it.
        metrics: Flat figures for people; NaN and infinity become null.

    Raises:
        ArtifactError: What would be written does not give the same weights again.
    """
    state = {
        name: tensor.detach().cpu().contiguous().clone()  # Own memory: no two share.
        for name, tensor in model.state_dict().items()
    }
    stored, encodings = encode_tensors(state)
    weights = write_tensors(stored)
    _check_written(folder, weights, encodings, state)
    record: dict[str, Any] = {
        "format": FORMAT,
        "version": ENCODED_VERSION if encodings else VERSION,
        **describe_model(
            model,
            model_settings=model_settings,
            input_shape=input_shape,
            classes=classes,
            input_spec=input_spec,
        ),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    if encodings:
        record["encodings"] = encodings
    record = json.loads(json.dumps(record, allow_nan=False))
    record["record_sha256"] = hash_json(record)
    shown = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in metrics.items()
    }
    replace_file(folder / METRICS_FILE, _to_json(shown))
    replace_file(folder / WEIGHTS_FILE, weights)
    replace_file(folder / STRUCTURE_FILE, _to_json(record))


def load(folder: str | Path, *, factory: Factory | None = None) -> nn.Module:
    """Return the model of an artifact on the CPU, in evaluation mode.

    Its attribute ``input_spec`` says how an image in [0, 1] becomes an input.

    Args:
        folder: Written by :func:`save_artifact`; may come from anyone.
        factory: Makes the dense model, called as ``factory(input_shape, classes, **options)``;
            needed when it is neither of the zoo nor of torchvision.

    Raises:
        ArtifactError: A file is missing, damaged or of another version, or a factory is needed.
    """
    folder = Path(folder)
    record = _read_record(folder / STRUCTURE_FILE)
    stored = _read_weights(folder / WEIGHTS_FILE, record)
    model = make_dense(folder, record, factory)
    try:
        # No encoding may ask for more memory than the dense model does.
        tensors = decode_tensors(stored, record.get("encodings", {}), count_values(model))
    except ArtifactError as error:
        raise ArtifactError(f"{folder}: {error}") from error
    return restore_model(folder, record, model, tensors)


def measure_dense(folder: str | Path, *, factory: Factory | None = None) -> dict[str, int]:
    """Return how many values each parameter of the dense model of an artifact has, by name.

    Raises:
        ArtifactError: As for :func:`load`.
    """
    model = make_dense(Path(folder), _read_record(Path(folder) / STRUCTURE_FILE), factory)
    return {name: parameter.numel() for name, parameter in model.named_parameters()}


def _read_record(path: Path) -> dict[str, Any]:
    data = _read_file(path, _MAX_STRUCTURE_BYTES)
    try:
        record = read_json(data)
    except ValueError as error:
        raise ArtifactError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ArtifactError(f"{path}: want format {FORMAT!r}; this is no model of ours")
    version = record.get("version")
    if version not in (VERSION, ENCODED_VERSION):
        wanted = f"{VERSION} or {ENCODED_VERSION}"
        raise ArtifactError(f"{path}: want version {wanted}, got {version!r}")
    if (version == ENCODED_VERSION) != ("encodings" in record):
        raise ArtifactError(f"{path}: want encodings in version {ENCODED_VERSION} only")
    claimed = record.pop("record_sha256", None)
    if claimed != hash_json(record):
        raise ArtifactError(f"{path}: damaged, its content does not match its hash")
    return record


def _read_weights(path: Path, record: Mapping[str, Any]) -> dict[str, Tensor]:
    data = _read_file(path)
    if hashlib.sha256(data).hexdigest() != record.get("weights_sha256"):
        raise ArtifactError(f"{path}: damaged, its content does not match {STRUCTURE_FILE}")
    try:
        return dict(read_tensors(data))
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ArtifactError(f"{path}: {error}") from error


def _check_written(
    folder: Path, weights: bytes, encodings: Mapping[str, Any], state: Mapping[str, Tensor]
) -> None:
    """Raise ArtifactError when ``weights`` would not be read as ``state``, bit for bit."""
    if not encodings:
        return
    most = sum(tensor.numel() for tensor in state.values())
    found = decode_tensors(read_tensors(weights), encodings, most)
    wrong = [name for name in state if not have_equal_bits(found[name], state[name])]
    if wrong:
        raise ArtifactError(f"{folder}: {wrong[0]} cannot be encoded; nothing was written")


def _read_file(path: Path, most: int | None = None) -> bytes:
    try:
        size = path.stat().st_size
        if most is not None and size > most:
            raise ArtifactError(f"{path}: want at most {most:,} bytes, got {size:,}")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path.parent}: no finished model lies here, {path.name} is missing; give the folder "
            "that a search printed"
        ) from error
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error


def _to_json(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, indent=1, sort_keys=True, allow_nan=False).encode()
