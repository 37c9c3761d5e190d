"""The folder of a run: finished objects and results by key, written whole or not at all."""

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.errors import ArtifactError

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
        """
        target = self.path(key)
        if target.is_dir():
            return target
        draft = self.root / "tmp" / uuid.uuid4().hex
        draft.mkdir(parents=True)
        try:
            fill(draft)
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
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return target

    def write_json(self, key: str, record: Mapping[str, Any]) -> None:
        """Replace the record of ``key``; a reader sees the old one or the new one, whole."""
        target = self._record_path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{uuid.uuid4().hex}.tmp")
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
        """Return the record of ``key``; None when there is none.

        Raises:
            ArtifactError: The record is damaged.
        """
        path = self._record_path(key)
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{path}: cannot be read as JSON: {error}; delete it") from error
        if not isinstance(record, dict):
            raise ArtifactError(f"{path}: want a JSON object, got {type(record).__name__}")
        return record

    def _record_path(self, key: str) -> Path:
        return self.root / "results" / f"{_check_key(key)}.json"


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
