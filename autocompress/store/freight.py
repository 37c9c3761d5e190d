"""The files of a folder as arrays, to be sent where that folder is not."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autocompress.store.run_folder import RunFolder

Files = dict[str, NDArray[np.uint8]]  # By name relative to the folder.


def read_files(folder: Path) -> Files:
    """Return what lies in ``folder``.

    Raises:
        OSError: A file cannot be read.
    """
    return {
        path.relative_to(folder).as_posix(): np.fromfile(path, dtype=np.uint8)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def store_files(folder: RunFolder, key: str, files: Files) -> None:
    """Make ``files`` the object of ``key``, unless there is one.

    Raises:
        ArtifactError: The disk is full, or may not be written to.
        ValueError: A name leads out of the folder.
    """
    folder.write(key, lambda path: write_files(path, files))


def write_files(folder: Path, files: Files) -> None:
    """Write ``files`` below ``folder``, which is made if needed.

    Raises:
        ValueError: A name leads out of the folder.
    """
    for name, data in files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"a name must stay within the folder, got {name!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.tobytes())
