"""The folder of a run: finished objects and results by key, written whole or not at all."""

import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.errors import ArtifactError

logger = logging.getLogger(__name__)

DAMAGED = ".damaged"  # Added to the name of a record that could not be read.
_KEY = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]{2,199}")


@dataclass(frozen=True)
class RunFolder:
    """Folders under ``objects/``, records under ``results/``; several processes may write.

    A key is a content hash: who writes a key that exists writes the same, and is dropped.

    Attributes:
        root: Made when something is first written.
    """

    root: Path

    def path(self, key: str) -> Path:
        """Return where the object of ``key`` is or would be.

        Raises:
            ValueError: ``key`` could leave the folder.
        """
        return self.root / "objects" / _check_key(key)[:2] / key

    def has(self, key: str) -> bool:
        """Return whether the object of ``key`` is finished."""
        return self.path(key).is_dir()

    def write(self, key: str, fill: Callable[[Path], None]) -> Path:
        """Let ``fill`` write into an empty folder, then make it the object of ``key``.

        Files are on the disk before the object appears. When the object exists already, or
        another process finishes it first, that one stays and ``fill``'s is dropped.

        Args:
            key: Hash of everything the object follows from.
            fill: Writes the files; when it raises, nothing is left behind.

        Returns:
            The folder of the object.

        Raises:
            ArtifactError: The disk is full, or may not be written to.
        """
        target = self.path(key)
        if target.is_dir():
            return target
        draft = self.root / "tmp" / uuid.uuid4().hex
        with name_failure(target):
            draft.mkdir(parents=True)
            try:
                fill(draft)
                _publish(draft, target)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        return target

    def write_json(self, key: str, record: Mapping[str, Any]) -> None:
        """Replace the record of ``key``; a reader sees the old one or the new one, whole.

        Raises:
            ArtifactError: The disk is full, or may not be written to.
        """
        target = self._record_path(key)
        draft = target.with_name(f".{uuid.uuid4().hex}.tmp")
        with name_failure(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with draft.open("w", encoding="utf-8") as file:
                    json.dump(record, file, sort_keys=True, indent=1)
                    file.flush()
                    os.fsync(file.fileno())
                draft.replace(target)
                _sync(target.parent)
            finally:
                draft.unlink(missing_ok=True)

    def read_json(self, key: str) -> dict[str, Any] | None:
        """Return the record of ``key``; None when there is none, or none that can be read.

        A damaged record is moved aside, so that it is worked out again and still can be seen.

        Raises:
            ArtifactError: The file may not be read or moved.
        """
        path = self._record_path(key)
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            _set_aside(path, str(error))
            return None
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from error
        if not isinstance(record, dict):
            _set_aside(path, f"want a JSON object, got {type(record).__name__}")
            return None
        return record

    def _record_path(self, key: str) -> Path:
        return self.root / "results" / f"{_check_key(key)}.json"


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


@contextmanager
def name_remedy(path: Path) -> Iterator[None]:
    """Add to the error of a damaged object at ``path`` how to get it again.

    Raises:
        ArtifactError: Something inside raised one.
    """
    try:
        yield
    except ArtifactError as error:
        text = f"{error}; if its files are damaged, delete {path} and it is made again"
        raise ArtifactError(text) from error


def _publish(draft: Path, target: Path) -> None:
    """Make ``draft`` the object at ``target``, unless another process was first."""
    for path in draft.rglob("*"):
        _sync(path)
    _sync(draft)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        draft.rename(target)
    except OSError:
        if not target.is_dir():
            raise
    _sync(target.parent)


def _set_aside(path: Path, cause: str) -> None:
    """Rename a damaged record; another process may have done so already."""
    logger.warning("%s: damaged, set aside and worked out again: %s", path, cause)
    with name_failure(path), suppress(FileNotFoundError):
        path.replace(path.with_name(path.name + DAMAGED))


def _check_key(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise ValueError(f"key must be 3..200 letters, digits, '_', '-' or '.', got {key!r}")
    return key


def _sync(path: Path) -> None:
    """Wait until a file or the names in a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
