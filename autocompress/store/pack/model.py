"""Models as compact files, and files as models."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from autocompress.errors import ArtifactError, FormatError
from autocompress.shrink.structure import read_structure
from autocompress.store.files import name_failure, replace_file
from autocompress.store.pack.header import MOST_BYTES, open_header
from autocompress.store.pack.state import pack_state, unpack_state
from autocompress.store.record import Factory, count_values, make_dense, restore_model

SUFFIX = ".acz"
MODEL = "model"
STATE = "state"

_WIDEST = 8  # Bytes of a value of the widest dtype.


def pack(
    source: nn.Module | Mapping[str, Tensor],
    path: str | Path,
    *,
    metrics: Mapping[str, Any] | None = None,
) -> int:
    """Write a model, or named tensors, as one compact file; whole or not at all.

    A model that ``autocompress.load`` returned comes back as a model. Of any other module, and of
    a dict, the file holds the state alone. What is written is read again and compared bit by bit
    before the file gets its name; the same tensors give the same bytes.

    Args:
        source: Whose state is packed.
        path: The file, ending in ``.acz``; replaced if it is there.
        metrics: Flat figures for people, kept beside the tensors; NaN and infinity become null.

    Returns:
        Bytes of the file.

    Raises:
        ArtifactError: A dtype cannot be packed, or the file cannot be written.
    """
    meta: dict[str, Any] = {"kind": STATE}
    if isinstance(source, nn.Module):
        record = getattr(source, "stored_record", None)
        if record is not None:
            meta = {"kind": MODEL, **record, "modules": read_structure(source)}
        state: Mapping[str, Tensor] = source.state_dict()
    else:
        state = source
    if metrics:
        meta["metrics"] = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in metrics.items()
        }
    data = pack_state(state, meta)
    with name_failure(Path(path)):
        replace_file(Path(path), data)
    return len(data)


def unpack(path: str | Path, *, most_bytes: int = MOST_BYTES) -> dict[str, Tensor]:
    """Return the tensors of a compact file by name, new, on the CPU, bit for bit.

    Args:
        path: Written by :func:`pack`; may come from anyone.
        most_bytes: That the tensors may take together.

    Raises:
        FormatError: The file is damaged, not one of ours, or asks for more.
        ArtifactError: It cannot be read.
    """
    path = Path(path)
    try:
        return unpack_state(read_file(path), most_bytes=most_bytes)[1]
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error


def load_packed(path: Path, *, factory: Factory | None = None) -> nn.Module:
    """Return the model of a compact file on the CPU, in evaluation mode.

    Args:
        path: Written by :func:`pack` from a model; may come from anyone.
        factory: As for :func:`autocompress.load`.

    Raises:
        FormatError: The file is damaged or not one of ours.
        ArtifactError: It holds no model, or a factory is needed.
    """
    data = read_file(path)
    model = make_packed_dense(path, factory=factory)
    try:
        # No file may ask for more memory than the dense model does.
        meta, state = unpack_state(data, most_bytes=_WIDEST * count_values(model))
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    return restore_model(path, meta, model, state)


def make_packed_dense(path: Path, *, factory: Factory | None = None) -> nn.Module:
    """Return the dense model that the model of a compact file was made from, untrained.

    Raises:
        ArtifactError: As for :func:`load_packed`.
    """
    try:
        meta = open_header(read_file(path))[0].meta
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    if meta.get("kind") != MODEL:
        raise ArtifactError(
            f"{path}: holds tensors and no model that could be built; "
            "autocompress.unpack(path) returns them"
        )
    return make_dense(path, meta, factory)


def read_file(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        ArtifactError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error
