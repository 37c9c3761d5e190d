"""A store in memory that counts what is asked of it, and can fail or end at any point of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from autocompress.store.bucket import Bucket
from autocompress.store.depot import Depot
from autocompress.store.run_folder import RunFolder

When = Literal["before", "halfway", "after"]
FOLDERS = "faulty"  # Fsspec knows nothing of it, so files are renamed when they are whole.
OBJECTS = "oss"  # A store of whole objects, whose real driver we do not use.


class Crash(BaseException):
    """The process has ended: nothing of ours catches it."""


@dataclass
class Script:
    """What happens at each operation, counted from 0.

    Attributes:
        act: Called before, within and after each operation that sends or deletes.
        step: Number of the next one.
        calls: Names of all operations, those that only read too.
    """

    act: Callable[[int, When], None] = lambda step, when: None
    step: int = 0
    calls: list[str] = field(default_factory=list)


class FaultyFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """Files of this process; a file can be seen while half of it is written."""

    protocol = (FOLDERS, OBJECTS)
    root_marker = ""
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    script: ClassVar[Script] = Script()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.partition("://")[2].strip("/") if "://" in path else path.rstrip("/")

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> bytes:
        self.script.calls.append("read")
        data: bytes = super().cat_file(path, *args, **kwargs)
        return data

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        if mode == "create" and path in self.store:
            raise OSError(22, "at least one of the preconditions did not hold")
        self._send(path, value)

    def put_file(self, lpath: str, rpath: str, *args: Any, **kwargs: Any) -> None:
        self._send(rpath, Path(lpath).read_bytes())

    def mv(self, path1: str, path2: str, *args: Any, **kwargs: Any) -> None:
        def work() -> None:
            self.store[path2] = self.store.pop(path1)

        self._pass("rename", work)

    def rm_file(self, path: str) -> None:
        self._pass("delete", lambda: MemoryFileSystem.rm_file(self, path))

    def _send(self, path: str, data: bytes) -> None:
        half = data[: len(data) // 2]

        def write(part: bytes) -> None:
            MemoryFileSystem.pipe_file(self, path, part)

        # A store of objects shows nothing of one that was cut off.
        first = () if path.startswith(f"/{OBJECTS}") else (lambda: write(half),)
        self._pass("write", lambda: write(data), *first)

    def _pass(self, call: str, work: Callable[[], None], *halves: Callable[[], None]) -> None:
        step, self.script.step = self.script.step, self.script.step + 1
        self.script.calls.append(call)
        self.script.act(step, "before")
        for half in halves:
            half()
        self.script.act(step, "halfway")
        work()
        self.script.act(step, "after")


fsspec.register_implementation(FOLDERS, FaultyFileSystem, clobber=True)
fsspec.register_implementation(OBJECTS, FaultyFileSystem, clobber=True)


def begin_script(act: Callable[[int, When], None] = lambda step, when: None) -> Script:
    """Return the script that the store follows from now on."""
    FaultyFileSystem.script = Script(act)
    return FaultyFileSystem.script


def crash_at(wanted: int, moment: When) -> Script:
    """Let the process end at an operation."""

    def act(step: int, when: When) -> None:
        if (step, when) == (wanted, moment):
            raise Crash(step)

    return begin_script(act)


def empty_store() -> None:
    """Forget all files and the script."""
    FaultyFileSystem.store.clear()
    begin_script()


def open_machine(url: str, cache: Path, pauses: list[float] | None = None) -> RunFolder:
    """Return a run folder in a store as one machine sees it.

    Args:
        url: Of the store.
        cache: Folder of that machine.
        pauses: Takes the seconds that it would wait for.
    """
    waited: list[float] = [] if pauses is None else pauses
    return RunFolder(cache, Depot(Bucket(url=url, sleep=waited.append), cache))
