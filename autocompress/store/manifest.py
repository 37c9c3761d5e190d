"""What an object in a store consists of: it exists once this was written, after its files."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autocompress.errors import ArtifactError
from autocompress.jobs import hash_json

VERSION = 1
_PART = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]*")
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Mark:
    """How to know a file again.

    Attributes:
        size_bytes: Its size.
        sha256: Hash of its content.
    """

    size_bytes: int
    sha256: str

    def check(self, path: Path) -> None:
        """Raise OSError unless the file at ``path`` is this one."""
        found = mark_file(path)
        if found != self:
            raise OSError(
                f"damaged: want {self.size_bytes:,} bytes of hash {self.sha256[:12]}, got "
                f"{found.size_bytes:,} of {found.sha256[:12]}"
            )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The files of an object.

    Attributes:
        files: By their names below the object's folder, with ``/`` between the parts.
    """

    files: Mapping[str, Mark]

    @property
    def name(self) -> str:
        """Return the hash of all files: two that write an object never mix up theirs."""
        return hash_json({name: asdict(mark) for name, mark in self.files.items()})[:32]

    def to_bytes(self) -> bytes:
        """Return what :func:`read_manifest` reads."""
        files = {name: asdict(mark) for name, mark in self.files.items()}
        record = {"version": VERSION, "folder": self.name, "files": files}
        return json.dumps(record, indent=1, sort_keys=True).encode()


def make_manifest(folder: Path) -> Manifest:
    """Return the manifest of all files in ``folder``; empty folders in it are no part of it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return Manifest(
        files={str(one.relative_to(folder).as_posix()): mark_file(one) for one in files}
    )


def mark_file(path: Path) -> Mark:
    """Return size and hash of the file at ``path``."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Mark(size_bytes=file.tell(), sha256=digest)


def read_manifest(data: bytes | None, place: str) -> Manifest | None:
    """Return the manifest in ``data``; None when there is none, or not the whole of one.

    Args:
        data: Content of the file.
        place: Where it lies.

    Raises:
        ArtifactError: It is of another version, or names files elsewhere.
    """
    try:
        record = json.loads(data or b"")
    except ValueError:
        return None
    if not isinstance(record, dict) or record.get("version") != VERSION:
        found = record.get("version") if isinstance(record, dict) else None
        raise ArtifactError(f"{place}: want version {VERSION} of a manifest, got {found!r}")
    try:
        files = {_check_name(name): _read_mark(mark) for name, mark in record["files"].items()}
        manifest = Manifest(files=files)
        if record["folder"] != manifest.name:
            raise ValueError("its files do not match its hash")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{place}: damaged: {error}; delete it, and it is made again"
        ) from error
    return manifest


def _check_name(name: str) -> str:
    if not all(_PART.fullmatch(part) for part in name.split("/")):
        raise ValueError(f"{name!r} is no name of a file in a model")
    return name


def _read_mark(record: Mapping[str, Any]) -> Mark:
    mark = Mark(**record)
    if type(mark.size_bytes) is not int or not _HASH.fullmatch(mark.sha256):
        raise ValueError(f"want size and hash, got {dict(record)}")
    return mark
