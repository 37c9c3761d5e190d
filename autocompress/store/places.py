"""Where a run folder lies: at a path, or at the URL of a store with a cache in front of it.

A path may be on a file system that several machines share. There a rename must be atomic on the
server and ``fsync`` must reach it, as on NFS, SMB, Lustre or CephFS; a folder that another machine
has just finished may be seen a little late, and is then made twice and kept once.
"""

import hashlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import fsspec

from autocompress.errors import SettingError

CACHE_VARIABLE = "AUTOCOMPRESS_CACHE"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


def is_remote(place: str) -> bool:
    """Return whether ``place`` is a URL; a ``file://`` one is a path."""
    return "://" in place and not place.startswith("file://")


def settle_place(place: str) -> str:
    """Return ``place`` in the one form that the rest of the program knows.

    Raises:
        SettingError: It is no path and no URL, or holds a password.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/(?!/)", place):
        raise SettingError(f"run_dir: want two slashes in a URL, SCHEME://..., got {place!r}")
    if place.startswith("file://"):
        return place.removeprefix("file://").rstrip("/") or "/"
    if not is_remote(place):
        return place
    # What may hold a secret is refused without being repeated: messages go into logs.
    if re.search(r"://[^@]*:[^@]*@", place) or "?" in place or "#" in place:
        raise SettingError(
            "run_dir: want a URL without password, key, '?' or '#'; credentials come from the "
            "environment or the role of the machine, as the driver of the store finds them"
        )
    match = _URL.fullmatch(place)
    if match is None or "::" in place or not match[2].strip("/"):
        raise SettingError(f"run_dir: want a path or SCHEME://BUCKET/FOLDER, got {place!r}")
    return f"{match[1].lower()}://{match[2].rstrip('/')}"


def fix_place(place: str) -> str:
    """Return ``place`` so that it says the same wherever a process stands."""
    place = settle_place(place)
    return place if is_remote(place) else str(Path(place).resolve())


def check_driver(url: str) -> None:
    """Raise SettingError unless the package that reads ``url`` is installed."""
    scheme = url.partition("://")[0]
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        how = f"python -m pip install 'autocompress[{extra}]'" if extra else str(error)
        raise SettingError(
            f"run_dir: the package for {scheme}:// is not installed; install it with: {how}"
        ) from error
    except ValueError as error:
        raise SettingError(f"run_dir: no file system is known for {scheme}://") from error


def find_cache(url: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of this machine that holds copies of what lies at ``url``.

    Args:
        url: As of :func:`settle_place`; it alone decides on the name.
        environment: Says where caches lie.
    """
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", url.rpartition("/")[2])[:40]
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    return _find_caches(environment) / f"{name}-{digest}"


def _find_caches(environment: Mapping[str, str]) -> Path:
    """Return the folder of all caches; none that other users of the machine may write to."""
    if chosen := environment.get(CACHE_VARIABLE):
        return Path(chosen).absolute()
    if chosen := environment.get("XDG_CACHE_HOME"):
        return Path(chosen).absolute() / "autocompress"
    around = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return Path.home() / around / "autocompress"
