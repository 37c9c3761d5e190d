"""Files that are on the disk whole or not at all, and refusals of the disk as one sentence."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autocompress.errors import ArtifactError

# Some mounted file systems cannot wait for the names in a folder; their servers keep the order.
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF})


@contextmanager
def name_failure(path: Path, done: str = "written") -> Iterator[None]:
    """Turn a refusal of the file system into one sentence about ``path``.

    Args:
        path: What the work is for.
        done: What cannot be done to it.

    Raises:
        ArtifactError: Something inside raised an OSError.
    """
    try:
        yield
    except OSError as error:
        cause = error.strerror or str(error)
        raise ArtifactError(
            f"{path}: cannot be {done}: {cause}; make room or allow it, then go on"
        ) from error


def replace_file(path: Path, data: bytes) -> None:
    """Write a file that is there as a whole or not at all; its folder is made if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def publish_folder(draft: Path, target: Path) -> None:
    """Rename ``draft`` to ``target`` once it is on the disk, unless another process was first."""
    for path in draft.rglob("*"):
        sync_path(path)
    sync_path(draft)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        draft.rename(target)
    except OSError:
        if not target.is_dir():
            raise
    sync_path(target.parent)


def sync_path(path: Path) -> None:
    """Wait until a file or the names in a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC or not path.is_dir():
            raise
    finally:
        os.close(handle)
