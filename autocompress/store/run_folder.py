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
from autocompress.store.bucket import Bucket
from autocompress.store.depot import Depot, name_object, name_record
from autocompress.store.files import name_failure, publish_folder, sync_path
from autocompress.store.places import find_cache, is_remote, settle_place

logger = logging.getLogger(__name__)

DAMAGED = ".damaged"  # Added to the name of a record that could not be read.
LAYOUT_FILE = "run.json"
LAYOUT = {"format": "autocompress-run", "version": 1}
_KEY = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]{2,199}")


@dataclass(frozen=True)
class RunFolder:
    """Folders under ``objects/``, records under ``results/``; several processes may write.

    A key is a content hash: who writes a key that exists writes the same, and is dropped.

    Attributes:
        root: Made when something is first written; with a depot, the cache in front of it.
        depot: Where everything lies, if not in ``root``.
    """

    root: Path
    depot: Depot | None = None

    @property
    def place(self) -> str:
        """Return what :func:`open_folder` opens it by."""
        return str(self.root) if self.depot is None else self.depot.bucket.url

    @property
    def checkpoints(self) -> Path:
        """Return where trainings in progress are kept, on this machine."""
        return self.root / "checkpoints"

    def prepare(self) -> None:
        """Make sure that a store can be written to, before anything is worked out for it.

        Raises:
            ArtifactError: It cannot, or another version has written there.
        """
        if self.depot is None:
            return
        found = self.depot.bucket.read(LAYOUT_FILE)
        if found is not None and _parse(found) != LAYOUT:
            raise ArtifactError(
                f"{self.place}: want a run folder of version {LAYOUT['version']}, found another "
                f"{LAYOUT_FILE}; use another folder, or the version of autocompress that wrote it"
            )
        self.depot.bucket.write(LAYOUT_FILE, json.dumps(LAYOUT).encode())

    def path(self, key: str) -> Path:
        """Return where the object of ``key`` is, on this machine, or would be.

        Raises:
            ValueError: ``key`` could leave the folder.
            ArtifactError: It cannot be copied from the store.
        """
        here = self._object_path(key)
        return here if self.depot is None else self.depot.fetch(key) or here

    def has(self, key: str) -> bool:
        """Return whether the object of ``key`` is finished.

        Raises:
            ArtifactError: The store cannot be reached.
        """
        if self.depot is None:
            return self._object_path(key).is_dir()
        return self.depot.find(_check_key(key)) is not None

    def write(self, key: str, fill: Callable[[Path], None]) -> Path:
        """Let ``fill`` write into an empty folder, then make it the object of ``key``.

        Files are on the disk before the object appears. When the object exists already, or
        another process finishes it first, that one stays and ``fill``'s is dropped.

        Args:
            key: Hash of everything the object follows from.
            fill: Writes the files; when it raises, nothing is left behind.

        Returns:
            The folder of the object, on this machine.

        Raises:
            ArtifactError: The disk is full, or may not be written to; or the store.
        """
        if self.has(key):
            return self.path(key)
        target = self._object_path(key)
        draft = self.root / "tmp" / uuid.uuid4().hex
        with name_failure(target):
            draft.mkdir(parents=True)
            try:
                fill(draft)
                if self.depot is not None:
                    return self.depot.put(key, draft)
                publish_folder(draft, target)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        return target

    def write_json(self, key: str, record: Mapping[str, Any]) -> None:
        """Replace the record of ``key``; a reader sees the old one or the new one, whole.

        Raises:
            ArtifactError: The disk is full, or may not be written to; or the store.
        """
        target, text = self._record_path(key), json.dumps(record, sort_keys=True, indent=1)
        if self.depot is not None:
            self.depot.bucket.write(name_record(key), text.encode())
            return
        draft = target.with_name(f".{uuid.uuid4().hex}.tmp")
        with name_failure(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with draft.open("w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                draft.replace(target)
                sync_path(target.parent)
            finally:
                draft.unlink(missing_ok=True)

    def read_json(self, key: str) -> dict[str, Any] | None:
        """Return the record of ``key``; None when there is none, or none that can be read.

        A damaged record is moved aside, so that it is worked out again and still can be seen;
        in a store it stays until then.

        Raises:
            ArtifactError: The file may not be read or moved, or the store not reached.
        """
        path = self._record_path(key)
        data = self._read_record(key, path)
        record = None if data is None else _parse(data)
        if isinstance(record, dict) or data is None:
            return record
        if self.depot is None:
            _set_aside(path)
        else:
            name = f"{self.place}/{name_record(key)}"
            logger.warning("%s: damaged, worked out again", name)
        return None

    def share(self, path: Path, name: str) -> None:
        """Put a file for people into the store, if there is one.

        Raises:
            ArtifactError: The store cannot be reached, or refuses.
        """
        if self.depot is not None:
            self.depot.bucket.upload(name, path)

    def _object_path(self, key: str) -> Path:
        return self.root / name_object(_check_key(key))

    def _record_path(self, key: str) -> Path:
        return self.root / "results" / f"{_check_key(key)}.json"

    def _read_record(self, key: str, path: Path) -> bytes | None:
        if self.depot is not None:
            return self.depot.bucket.read(name_record(key))
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from error


def open_folder(place: str) -> RunFolder:
    """Return the run folder at a path, or at a URL of a store that fsspec knows.

    Args:
        place: A path; ``file:///path``; or a URL such as ``s3://bucket/runs/first``, whose
            objects are copied into a cache: below ``AUTOCOMPRESS_CACHE`` where that is set.

    Raises:
        SettingError: It is neither, or holds a password. A package that is not installed is missed
            at the first use: who only watches a search does not need it.
    """
    place = settle_place(place)
    if not is_remote(place):
        return RunFolder(Path(place))
    cache = find_cache(place)
    return RunFolder(cache, Depot(Bucket(url=place), cache))


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


def _parse(data: bytes) -> Any:
    """Return the value of JSON text; None when it is none."""
    try:
        return json.loads(data)
    except ValueError:
        return None


def _set_aside(path: Path) -> None:
    """Rename a damaged record; another process may have done so already."""
    logger.warning("%s: damaged, set aside and worked out again", path)
    with name_failure(path), suppress(FileNotFoundError):
        path.replace(path.with_name(path.name + DAMAGED))


def _check_key(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise ValueError(f"key must be 3..200 letters, digits, '_', '-' or '.', got {key!r}")
    return key
