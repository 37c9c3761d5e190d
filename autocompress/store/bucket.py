"""A folder of a store that fsspec reaches: whole files by name, tried again when it falters."""

import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from autocompress.errors import ArtifactError, SettingError
from autocompress.store.places import check_driver

logger = logging.getLogger(__name__)

T = TypeVar("T")

PAUSES_S = (1.0, 4.0)  # Between the three tries at a store that never answered.
LONGEST_PAUSE_S = 30.0
PATIENCE_S = 600.0  # For one that answered before: results of hours wait for it.
# Here a file appears once all of it has been sent, and no folder needs to be made.
_OBJECT_STORES = frozenset(
    {"abfs", "abfss", "az", "gcs", "gs", "memory", "oci", "oss", "s3", "s3a"}
)
# Another try would end in the same way.
_FINAL = (
    FileNotFoundError, ImportError, IsADirectoryError, NotADirectoryError, NotImplementedError,
    PermissionError, TypeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Files of a store by their name below a URL; each is written whole or not at all.

    Attributes:
        url: Without credentials, which the driver of the store finds for itself.
        sleep: Called with the seconds to wait before another try.
        answers: Holds something once the store has answered.
    """

    url: str
    sleep: Callable[[float], None] = time.sleep
    answers: set[str] = field(default_factory=set, repr=False, compare=False)

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None when there is none.

        Raises:
            ArtifactError: The store cannot be reached, or refuses.
        """

        def work(system: Any, path: str) -> bytes | None:
            try:
                return bytes(system.cat_file(path))
            except FileNotFoundError:
                return None

        return self._try(name, "read", work)

    def write(self, name: str, data: bytes) -> None:
        """Replace a file.

        Raises:
            ArtifactError: The store cannot be reached, or refuses.
        """
        self._put(name, lambda system, path: system.pipe_file(path, data))

    def try_create(self, name: str, data: bytes) -> None:
        """Write a file unless there is one, if the store can; the caller looks what is there.

        Of two that write at once the first wins; by :meth:`write` it would be the last.
        """
        try:
            system, path = self._open(name)
            if self._is_object_store:
                system.pipe_file(path, data, mode="create")
        except Exception:  # Each driver has an error of its own for a file that is there.
            logger.debug("%s/%s: not created", self.url, name, exc_info=True)

    def upload(self, name: str, path: Path) -> None:
        """Replace a file by a local one.

        Raises:
            ArtifactError: The store cannot be reached, or refuses.
        """
        self._put(name, lambda system, target: system.put_file(str(path), target))

    def download(self, name: str, path: Path, check: Callable[[Path], None]) -> None:
        """Copy a file to ``path``.

        Args:
            name: Of the file.
            path: Replaced.
            check: Raises OSError when the copy at the path is not as it should be.

        Raises:
            ArtifactError: The store cannot be reached, lacks the file, or sends another one.
        """

        def work(system: Any, source: str) -> None:
            system.get_file(source, str(path))
            check(path)

        self._try(name, "read", work)

    def list_sizes(self) -> dict[str, int]:
        """Return the bytes of every file by its name.

        Raises:
            ArtifactError: The store cannot be reached, or refuses.
        """

        def work(system: Any, path: str) -> dict[str, int]:
            system.invalidate_cache()
            try:
                found = system.find(path, detail=True)
            except FileNotFoundError:
                return {}
            finally:
                system.invalidate_cache()  # A listing grows old and hides what is written.
            return {
                one.removeprefix(path).lstrip("/"): int(info["size"] or 0)
                for one, info in found.items()
            }

        return self._try("", "read", work)

    def delete(self, name: str) -> None:
        """Delete a file, which may be gone already.

        Raises:
            ArtifactError: The store cannot be reached, or refuses.
        """

        def work(system: Any, path: str) -> None:
            with suppress(FileNotFoundError):
                system.rm_file(path)

        self._try(name, "deleted", work)

    @property
    def _is_object_store(self) -> bool:
        return self.url.partition("://")[0] in _OBJECT_STORES

    def _open(self, name: str) -> tuple[Any, str]:
        """Return the file system, which fsspec makes once, and the path of a file in it."""
        check_driver(self.url)
        system, root = fsspec.core.url_to_fs(self.url)
        return system, f"{root}/{name}" if name else root

    def _put(self, name: str, put: Callable[[Any, str], None]) -> None:
        """Write a file by ``put``, which writes to a path of the file system."""

        def work(system: Any, path: str) -> None:
            if self._is_object_store:
                put(system, path)
                return
            parent = path.rpartition("/")[0]
            draft = f"{parent}/.{uuid.uuid4().hex}.tmp"
            system.makedirs(parent, exist_ok=True)
            try:
                put(system, draft)
                system.mv(draft, path)
            except OSError:
                with suppress(OSError):
                    system.rm_file(draft)
                raise

        self._try(name, "written", work)

    def _try(self, name: str, done: str, work: Callable[[Any, str], T]) -> T:
        """Return what ``work`` does with the file system and a path, tried again for a while."""
        place = f"{self.url}/{name}" if name else self.url
        pauses = self._list_pauses()
        while True:
            try:
                result = work(*self._open(name))
            except SettingError:
                raise
            except Exception as error:  # The driver's edge: each store has errors of its own.
                logger.debug("%s: not %s", place, done, exc_info=True)
                pause_s, cause = next(pauses, None), describe_cause(error)
                if pause_s is None or isinstance(error, _FINAL):
                    raise ArtifactError(f"{place}: cannot be {done}: {cause}") from error
                logger.warning("%s: not %s, trying again: %s", place, done, cause)
                self.sleep(pause_s)
            else:
                self.answers.add(done)
                return result

    def _list_pauses(self) -> Iterator[float]:
        """Give the seconds before each further try."""
        yield from PAUSES_S
        spent_s, pause_s = sum(PAUSES_S), PAUSES_S[-1]
        while self.answers and spent_s < PATIENCE_S:
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            spent_s += pause_s
            yield pause_s


def describe_cause(error: Exception) -> str:
    """Return one line about ``error``, without what may be a secret in a URL."""
    text = getattr(error, "strerror", None) or str(error)
    line = next(iter(text.splitlines()), "") or type(error).__name__
    if isinstance(error, FileNotFoundError) and "not exist" not in line:
        line = f"it is not there ({line})"
    return re.sub(r"(://)[^/\s@]*@|\?\S+", r"\1***", line)
