"""Tell data sets apart by what they hold and not by where they lie, without reading all of it."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from autocompress.data.folder import SUFFIXES
from autocompress.data.settings import DataSettings
from autocompress.errors import DataError
from autocompress.jobs import hash_json

SAMPLES = 256  # Files of a folder that are looked into, evenly spaced.
EDGE_BYTES = 65_536  # Read at the beginning and at the end of each.


def fingerprint_data(settings: DataSettings) -> str:
    """Return a SHA-256 of the files of a data set; empty where its name says which they are.

    The same on every machine and wherever the files lie. An ``.npz`` file counts by name, size
    and CRC-32 of each array, which its own directory holds. A folder counts by the names and
    sizes of all its images, and by beginning and end of ``SAMPLES`` of them: an image that is
    overwritten by one of exactly its size may go unnoticed, any other change does not.

    Raises:
        DataError: The files are missing or cannot be read.
    """
    root = Path(settings.root)
    try:
        if settings.name == "folder":
            return _hash_folder(root)
        if settings.name == "npz" or root.suffix == ".npz":
            return _hash_npz(root)
    except (OSError, BadZipFile) as error:
        cause = error.strerror if isinstance(error, OSError) else None
        raise DataError(f"data.root: cannot read {root}: {cause or error}") from error
    return ""


def _hash_npz(path: Path) -> str:
    with ZipFile(path) as archive:
        arrays = [(one.filename, one.file_size, one.CRC) for one in archive.infolist()]
    return hash_json(sorted(arrays))


def _hash_folder(root: Path) -> str:
    files = [
        (f"{part}/{place}", size)
        for part in ("train", "test")
        for place, size in _list_sizes(root / part)
    ]
    files.sort()
    digest = hashlib.sha256()
    for name, size in files:
        digest.update(f"{name}\0{size}\n".encode(errors="surrogateescape"))
    for name, size in files[:: max(1, -(-len(files) // SAMPLES))]:
        digest.update(_read_edges(root / name, size))
    return digest.hexdigest()


def _list_sizes(part: Path) -> Iterator[tuple[str, int]]:
    """Yield path below ``part`` and size of each image in the folders of its classes."""
    with os.scandir(part) as classes:
        waiting = [(entry.path, f"{entry.name}/") for entry in classes if entry.is_dir()]
    while waiting:
        folder, prefix = waiting.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, f"{prefix}{entry.name}/"))
                elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:  # noqa: PTH122 - fast
                    yield f"{prefix}{entry.name}", entry.stat().st_size


def _read_edges(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        first = file.read(EDGE_BYTES)
        file.seek(max(len(first), size - EDGE_BYTES))
        return first + file.read(EDGE_BYTES)
