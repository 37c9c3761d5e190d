"""What runs in the process of a Ray actor: it makes its runner once, then evaluates job by job.

It knows no shared folder: models come as bytes, and what a job stores is sent back as bytes.
"""

import hashlib
import os
import shutil
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

import autocompress
from autocompress.execute.base import Runner, try_job
from autocompress.execute.memory import breaks_process, read_resident
from autocompress.execute.threads import limit_libraries, set_threads
from autocompress.execute.worker import STOPPING, Reply, reply_error
from autocompress.jobs import Job
from autocompress.store.files import name_failure
from autocompress.store.freight import Files, read_files, store_files
from autocompress.store.run_folder import RunFolder

Maker = Callable[[str], Runner]

PYTHON = ".".join(map(str, sys.version_info[:2]))  # Pickles of another one may not be read.
SCRATCH = "autocompress-worker-"  # The system and the process id follow.


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an actor runs.

    Attributes:
        node: Ray's name of the machine.
        address: Its network address.
        pid: The process.
        version: Of the package there.
        python: Of the interpreter there.
    """

    node: str
    address: str
    pid: int
    version: str
    python: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What comes back from a job.

    Attributes:
        reply: A ``Reply`` as JSON.
        models: Files of the models that the job stored, by key.
    """

    reply: bytes
    models: Mapping[str, Files]


class RayWorker:
    """One actor; its methods are called from the driver."""

    def __init__(
        self, threads: int, growth_bytes: int, parent: str = "", *, has_gpus: bool = False
    ) -> None:
        """Take a place.

        Args:
            threads: Of every job.
            growth_bytes: How much it may grow beyond what its first job leaves behind.
            parent: Folder for the scratch folder; the system's when empty.
            has_gpus: Whether Ray has reserved GPUs, or a part of one, and shows no others.
        """
        if not has_gpus:  # Ray shows all of them then, and every worker would take the first.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        # Unpickling the maker may import PyTorch, and libraries look at their variables once.
        limit_libraries(threads)
        self._threads = threads
        self._growth_bytes = growth_bytes
        self._enough = 0
        self._parent = Path(parent or tempfile.gettempdir())
        self._folder: RunFolder | None = None
        self._runner: Runner | None = None
        self._known: set[str] = set()

    def locate(self) -> Place:
        """Return where this is; the first answer tells that the cluster had room."""
        return locate()

    def prepare(self, maker: list[Any]) -> bytes:
        """Make the runner; return a reply, which tells of an error if there was one.

        Args:
            maker: Reference of the maker, in a list so that Ray fetches nothing before.
        """
        begun = time.monotonic()
        try:
            with name_failure(self._parent):  # Here and not before: an answer tells the machine.
                self._folder = RunFolder(make_scratch(self._parent))
            make: Maker = ray.get(maker[0])
            self._runner = make(str(self._folder.root))
        except Exception as error:  # noqa: BLE001 - the executor's edge
            return reply_error(error, time.monotonic() - begun).to_bytes()
        self._known = set(list_models(self._folder))
        return Reply().to_bytes()

    def run(self, key: str, job: Mapping[str, Any], base: list[Any]) -> Answer:
        """Evaluate a job.

        Args:
            key: Of its result, for messages.
            job: As JSON.
            base: Reference of the files of the model it starts from; empty for the dense model
                and for runners that keep their models elsewhere.
        """
        begun = time.monotonic()
        assert self._runner is not None
        assert self._folder is not None
        set_threads(self._threads)  # At every job: the one before may have changed it.
        try:
            asked = Job.from_json(job)
            if base and not self._folder.has(asked.base):
                store_files(self._folder, asked.base, ray.get(base[0]))
                self._known.add(asked.base)
            outcome = try_job(self._runner, key, asked, time.monotonic)
        except tuple(STOPPING.values()) as error:
            reply = reply_error(error, time.monotonic() - begun)
            return Answer(reply=reply.to_bytes(), models={})
        reply = Reply(outcome=outcome.to_json(), leaving=breaks_process(outcome.error))
        # What the first job leaves behind, data and libraries, stays in use.
        self._enough = self._enough or read_resident() + self._growth_bytes
        if read_resident() > self._enough:
            reply = replace(reply, leaving=True)
        return Answer(reply=reply.to_bytes(), models=self._take_models(self._folder))

    def clear(self) -> None:
        """Remove the scratch folder; the last call."""
        if self._folder is not None:
            shutil.rmtree(self._folder.root, ignore_errors=True)

    def _take_models(self, folder: RunFolder) -> dict[str, Files]:
        """Return the models that were stored since, and keep only those that came from outside."""
        models = {}
        for key in list_models(folder):
            if key not in self._known:
                models[key] = read_files(folder.path(key))
                shutil.rmtree(folder.path(key))
        return models


def locate() -> Place:
    """Return where this process is, as one of a Ray cluster."""
    return Place(
        node=ray.get_runtime_context().get_node_id(),
        address=ray.util.get_node_ip_address(),
        pid=os.getpid(),
        version=autocompress.__version__,
        python=PYTHON,
    )


def make_scratch(parent: Path, prefix: str = SCRATCH) -> Path:
    """Return a new folder of this process; those of its system's dead processes are removed.

    Other machines may have theirs in the same folder, and containers know processes by the same
    numbers: whose a folder is says its name.
    """
    prefix += f"{name_system()}-"
    for path in parent.glob(f"{prefix}*"):
        with suppress(ValueError, OSError):  # Another user's, or nothing of ours.
            if not _is_alive(int(path.name.removeprefix(prefix).partition("-")[0])):
                shutil.rmtree(path, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=parent))


def name_system() -> str:
    """Return a short name for what numbers this process: a container or machine since its boot.

    Two that have the same name know the same processes; one that cannot be told has a new name
    each time, and leaves what was killed there.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = Path("/proc/self/ns/pid").readlink()
    except OSError:
        boot, space = uuid.uuid4().hex, Path()
    facts = f"{socket.gethostname()} {boot} {space}"
    return hashlib.sha256(facts.encode()).hexdigest()[:6]  # Names of sockets are short.


def list_models(folder: RunFolder) -> list[str]:
    """Return the keys of the objects in a run folder."""
    return [path.name for path in (folder.root / "objects").glob("*/*")]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
