"""Connect to a Ray cluster, or start one for this search alone."""

import logging
import math
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import ray
from ray._private import ray_constants, services
from ray._private import worker as ray_worker
from ray._raylet import AuthenticationTokenLoader, Config
from ray.exceptions import AuthenticationError, RayError

from autocompress.errors import SettingError
from autocompress.execute.ray_worker import make_scratch
from autocompress.execute.settings import ExecuteSettings

STORE_BYTES = 2**29  # Of a Ray of our own; it takes memory only as it fills.
PROBE_S = 5.0
HOME = "acray-"  # Short, because the system limits the length of names of sockets.
LOOPBACK = ("127.", "localhost:", "[::1]:")
HOW = "want RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
SECRETS = ("AUTOCOMPRESS_STORAGE", "AUTOCOMPRESS_STORAGE_FILE", "PGPASSWORD", "PGPASSFILE")


@dataclass(frozen=True)
class Cluster:
    """A connection to a Ray cluster.

    Attributes:
        address: ``HOST:PORT`` of its head.
        home: Folder of a Ray that we started; empty for one that was there.
        ending: Disconnects, and ends what we started.
    """

    address: str
    home: str = ""
    ending: ExitStack = field(default_factory=ExitStack)

    def has_head(self) -> bool:
        """Return whether the head still listens; Ray ends a process that asks it in vain."""
        return can_reach(self.address)

    def close(self) -> None:
        """Disconnect; a Ray that we started ends, and its files are removed."""
        self.ending.close()


def connect(settings: ExecuteSettings) -> Cluster:
    """Connect this process; a connection that it has already is used.

    Raises:
        SettingError: There is no such cluster, or it refuses us.
    """
    if ray.is_initialized():
        return Cluster(find_head())
    if settings.address == "local":
        return start_local(settings)
    return join(settings.address)


def start_local(settings: ExecuteSettings) -> Cluster:
    """Start a Ray on the loopback interface that ends with this process.

    It has as many cores as the workers ask for, however many the machine has: who asks for
    more workers than cores means it, here as with subprocesses.
    """
    cpus = max(settings.cpus, settings.model_cpus)
    with ExitStack() as stack:
        home = make_scratch(Path(tempfile.gettempdir()), HOME)
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        stack.callback(read_again)
        stack.enter_context(keep_loopback())
        stack.enter_context(keep_quiet())
        stack.callback(ray.shutdown)
        with keep_sigterm(), set_environment():
            read_again()
            ray.init(
                num_cpus=max(1, math.ceil(cpus * settings.workers)),
                object_store_memory=STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
                _temp_dir=str(home),
            )
        return Cluster(find_head(), str(home), stack.pop_all())


def join(address: str) -> Cluster:
    """Connect to a cluster that is there.

    Args:
        address: ``HOST:PORT``, or ``auto`` for the one that the environment names or that runs
            on this machine.

    Raises:
        SettingError: There is none, or it refuses us.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "") or address
    if "://" in address:
        raise SettingError(
            f"execute.address: want auto, local or HOST:PORT, got {address!r}; Ray's client is "
            "not used: run the search on a machine of the cluster, such as by ray job submit"
        )
    if address == "auto":
        address = find_cluster()
    elif not can_reach(address):  # Ray would try for minutes.
        raise SettingError(f"execute.address: no Ray cluster answers at {address!r}")
    stack = ExitStack()
    if address.startswith(LOOPBACK):  # Ray would look at another interface.
        stack.enter_context(keep_loopback())
    stack.enter_context(keep_quiet())
    stack.callback(ray.shutdown)
    try:
        with stack, keep_sigterm():
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
            )
            return Cluster(find_head(), ending=stack.pop_all())
    except AuthenticationError as error:
        raise SettingError(f"execute.address: {address!r} wants a token; {HOW}") from error
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise SettingError(
            f"execute.address: something listens at {address!r}, but Ray does not get in: this "
            f"machine must be one of the cluster, and know its token; {HOW} ({_shorten(error)})"
        ) from error


def find_cluster() -> str:
    """Return ``HOST:PORT`` of the head of the cluster that this machine belongs to.

    Ray notes it in a file when it starts, which stays when it is killed.

    Raises:
        SettingError: There is none, or it does not answer.
    """
    noted = ""
    with suppress(OSError):  # Another user's file.
        noted = services.find_bootstrap_address(None) or ""
    found = [one for one in (noted, *sorted(services.find_gcs_addresses())) if one]
    for address in found:
        if can_reach(address):
            return str(address)
    past = f" (what ran at {found[0]} does not answer)" if found else ""
    raise SettingError(
        f"execute.address: no Ray cluster runs on this machine{past}; want --address local for a "
        "Ray of this search alone, or --address HOST:PORT, or start one: ray start --head"
    )


def find_head() -> str:
    """Return ``HOST:PORT`` of the head of the cluster that this process is connected to."""
    return str(ray.get_runtime_context().gcs_address)


def can_reach(address: str) -> bool:
    """Return whether something listens at ``HOST:PORT``.

    Raises:
        SettingError: It is no such address.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise SettingError(f"execute.address: want auto, local or HOST:PORT, got {address!r}")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), PROBE_S):
            return True
    except OSError:
        return False


@contextmanager
def keep_loopback() -> Iterator[None]:
    """Let Ray listen on the loopback interface only; it reads that when it is imported."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def set_environment() -> Iterator[None]:
    """Set what processes of Ray inherit that start meanwhile.

    They send no statistics, listen on the loopback interface only, want a token that no file
    holds, and do not learn how to reach the study.
    """
    wanted = {
        "RAY_USAGE_STATS_ENABLED": "0",
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    before = {name: os.environ.pop(name, None) for name in (*wanted, *SECRETS)}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def read_again() -> None:
    """Let Ray look at the environment again, while it does not run: it looks once otherwise."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def keep_quiet() -> Iterator[None]:
    """Keep from the standard output what Ray's machines write about every worker that ends."""
    before = vars(ray_worker).get("_worker_logs_enabled")
    vars(ray_worker)["_worker_logs_enabled"] = False
    try:
        yield
    finally:
        vars(ray_worker)["_worker_logs_enabled"] = before


@contextmanager
def keep_sigterm() -> Iterator[None]:
    """Put back what SIGTERM does; Ray replaces it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _shorten(error: Exception) -> str:
    """Return the first line of a message of Ray, which writes many."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
