"""Pack and unpack what a command line names."""

import json
from pathlib import Path

from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from autocompress.data.source import InputSpec
from autocompress.errors import ArtifactError, SettingError
from autocompress.store.artifacts import METRICS_FILE, STRUCTURE_FILE, save_artifact
from autocompress.store.load import load
from autocompress.store.pack.header import open_header
from autocompress.store.pack.model import MODEL, SUFFIX, pack, read_file, unpack
from autocompress.zoo.make import ModelSettings, import_callable

_TENSORS = ".safetensors"


def pack_source(source: Path, file: Path, *, factory: str) -> tuple[int, int]:
    """Pack a folder of a finished model, or a safetensors file.

    Returns:
        Bytes of the file; bytes of its tensors in float32.

    Raises:
        ArtifactError: The source is missing or damaged.
        SettingError: The file is not called ``.acz``.
    """
    check_name(file, "FILE")
    if source.suffix == _TENSORS:
        try:
            state = load_file(source)
        except (OSError, SafetensorError) as error:
            raise ArtifactError(f"{source}: cannot be read: {error}") from error
        size = pack(state, file)
        return size, 4 * sum(tensor.numel() for tensor in state.values())
    make = import_callable(factory, "--factory") if factory else None
    model = load(source, factory=make)
    size = pack(model, file, metrics=_read_metrics(source))
    return size, 4 * sum(tensor.numel() for tensor in model.state_dict().values())


def check_name(file: Path, what: str) -> None:
    """Raise SettingError unless ``file`` is called ``.acz``; ``what`` names it in the message."""
    if file.suffix != SUFFIX:
        raise SettingError(f"{what}: want a name ending in {SUFFIX}, got {file.name!r}")


def unpack_file(file: Path, target: Path, *, factory: str) -> int:
    """Write a model's folder, or a safetensors file, from a compact file.

    Returns:
        Number of tensors.

    Raises:
        ArtifactError: The file is damaged, or holds no model where a folder is wanted.
        SettingError: The folder holds a model already.
    """
    if target.suffix == _TENSORS:
        state = unpack(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, target)
        return len(state)
    if (target / STRUCTURE_FILE).exists():
        raise SettingError(f"OUT: {target} holds a model already; name a new folder")
    meta = open_header(read_file(file))[0].meta
    if meta.get("kind") != MODEL:
        raise SettingError(f"OUT: {file} holds tensors and no model; want OUT.safetensors")
    make = import_callable(factory, "--factory") if factory else None
    model = load(file, factory=make)
    metrics = meta.get("metrics")
    save_artifact(
        target,
        model,
        model_settings=TypeAdapter(ModelSettings).validate_python(meta["model"]),
        input_shape=tuple(meta["input_shape"]),
        classes=meta["classes"],
        input_spec=TypeAdapter(InputSpec).validate_json(json.dumps(meta["input_spec"])),
        metrics=metrics if isinstance(metrics, dict) else {},  # They may come from anyone.
    )
    return len(model.state_dict())


def _read_metrics(folder: Path) -> dict[str, float]:
    """Return the accuracies of a finished model; other figures follow from its tensors."""
    try:
        metrics = json.loads((folder / METRICS_FILE).read_text())
    except (OSError, ValueError):
        return {}
    names = ("val_metric", "test_metric")
    return {key: round(metrics[key], 6) for key in names if isinstance(metrics.get(key), float)}
