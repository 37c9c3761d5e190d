"""A PostgreSQL server that lives for one test run, with a password, on this machine only."""

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from uuid import uuid4

import pytest

ADMIN = "controller"
PASSWORD = "correct-horse/battery@staple"  # Has to be quoted in a URL.
READER = "reader"
START_S = 30
UNPRIVILEGED = ("postgres", "nobody")  # PostgreSQL refuses to run as root.
QUICK = ("fsync=off", "max_connections=60", "shared_buffers=16MB", "timezone=UTC")


def find_postgres() -> Path | None:
    """Return the folder of PostgreSQL's programs; None when there is none."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(versions, key=lambda path: float(path.parts[-3]), default=None)
    return None if newest is None else newest.parent


def find_unprivileged() -> str:
    """Return a user that exists and is not root."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    found = next((name for name in UNPRIVILEGED if name in names), None)
    if found is None:
        pytest.skip(f"PostgreSQL does not run as root, and there is no {UNPRIVILEGED}")
    return found


class PostgresServer:
    """A server in a folder of its own, which may be stopped and started again.

    Attributes:
        port: On the loopback interface; the same after a restart.
        folder: Also that of its socket.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        self.folder = folder
        self._programs = programs
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._owner: str | None = None
        if os.geteuid() == 0:
            self._owner = find_unprivileged()
            shutil.chown(folder, self._owner)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        secret = folder / "password"
        secret.write_text(PASSWORD, encoding="utf-8")
        if self._owner is not None:
            shutil.chown(secret, self._owner)
        secure = ("-A", "scram-sha-256", "--pwfile", str(secret))
        plain = ("-E", "UTF8", "--no-locale", "--no-sync")
        code = self._run("initdb", "-D", str(self._data), "-U", ADMIN, *secure, *plain).wait()
        assert code == 0, self.read_log()

    @property
    def url(self) -> str:
        """Return the URL of a database for every test, with its password."""
        return self.make_url("postgres")

    def make_url(self, database: str, *, user: str = ADMIN, port: int = 0) -> str:
        """Return the URL of ``database``, seen by ``user``, at another ``port`` if given."""
        secret = PASSWORD.replace("/", "%2F").replace("@", "%40")
        place = f"127.0.0.1:{port or self.port}"
        return f"postgresql+psycopg://{user}:{secret}@{place}/{database}"

    def make_database(self) -> str:
        """Return the URL of a new empty database."""
        name = f"t{uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name}")
        return self.make_url(name)

    def make_reader(self, url: str) -> str:
        """Return ``url`` for a role that may only read what the database holds now."""
        database = url.rpartition("/")[2]
        if not self.execute(f"SELECT 1 FROM pg_roles WHERE rolname = '{READER}'"):
            self.execute(f"CREATE ROLE {READER} LOGIN PASSWORD '{PASSWORD}'")
        self.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {READER}", database)
        return self.make_url(database, user=READER)

    def execute(self, statement: str, database: str = "postgres") -> list[str]:
        """Return the rows that a statement of the administrator finds, ``|`` between columns."""
        done = subprocess.run(
            [
                *(str(self._programs / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1"),
                *("-h", "127.0.0.1", "-p", str(self.port), "-U", ADMIN, "-d", database),
                *("-c", statement),
            ],
            env={**os.environ, "PGPASSWORD": PASSWORD},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        assert self._process is None, "it runs already"
        places = ("-k", str(self.folder), "-h", "127.0.0.1", "-p", str(self.port))
        options = [part for option in QUICK for part in ("-c", option)]
        self._process = self._run("postgres", "-D", str(self._data), *places, *options)
        ready = (str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p")
        for _ in range(START_S * 20):
            if subprocess.run([*ready, str(self.port)], check=False).returncode == 0:
                return
            if self._process.poll() is not None:
                break
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05)
        raise AssertionError(self.read_log())

    def dump(self, url: str) -> str:
        """Return everything that a database holds, as text."""
        database = url.rpartition("/")[2]
        place = ("-h", "127.0.0.1", "-p", str(self.port), "-U", ADMIN, "-d", database)
        done = subprocess.run(
            [str(self._programs / "pg_dump"), "--inserts", *place],
            env={**os.environ, "PGPASSWORD": PASSWORD},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def ensure(self) -> None:
        """Start it unless it runs."""
        if self._process is None:
            self.start()

    def stop(self, *, immediate: bool = False) -> None:
        """Stop it: after ending its sessions, or at once as a crash would (``immediate``)."""
        if self._process is not None:
            # What ``pg_ctl stop -m fast`` and ``-m immediate`` send.
            self._process.send_signal(signal.SIGQUIT if immediate else signal.SIGINT)
            self._process.wait(START_S)
            self._process = None

    def read_log(self) -> str:
        """Return what its programs have written."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        log: IO[bytes]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [str(self._programs / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=self._owner,
                group=None if self._owner is None else pwd.getpwnam(self._owner).pw_gid,
                extra_groups=None if self._owner is None else [],
                start_new_session=True,  # Ctrl-C in a terminal is for pytest.
            )


@contextmanager
def run_postgres() -> Iterator[PostgresServer]:
    """Give a server that runs; skips where PostgreSQL is not installed."""
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed: python -m pip install 'autocompress[postgres]'")
    programs = find_postgres()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: no initdb on PATH or in /usr/lib/postgresql")
    # Not in pytest's own folder, which the unprivileged user may not enter.
    with tempfile.TemporaryDirectory(prefix="acpg", ignore_cleanup_errors=True) as folder:
        server = PostgresServer(programs, Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()
