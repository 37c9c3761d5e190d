"""Locks on studies: one process at a time writes to a study, and it notices when that ends."""

import hashlib
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote
from uuid import uuid4

import filelock
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from autocompress.errors import StudyBusyError, StudyError, StudyLostError
from autocompress.search.outage import name_outage
from autocompress.search.storage import (
    MISSING,
    Opening,
    explain_refusal,
    find_file,
    make_server_options,
    normalize_storage,
)

# A lock of PostgreSQL shows its 64 bits in two halves.
_FIND_HOLDER = text("""
SELECT pid, pid = pg_backend_pid(), pg_stat_activity.application_name,
    extract(epoch FROM backend_start), current_setting('autocompress.session', true)
FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
LEFT JOIN pg_stat_activity USING (pid)
WHERE pg_database.datname = current_database() AND locktype = 'advisory' AND granted
    AND classid = CAST(:high AS bigint) AND objid = CAST(:low AS bigint) AND objsubid = 1
""")
# Whoever writes to a study shares a second lock, by which the next holder finds it.
_END_WRITERS = text("""
SELECT pg_terminate_backend(pid)
FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
WHERE datname = current_database() AND locktype = 'advisory' AND granted
    AND classid = CAST(:high AS bigint) AND objid = CAST(:low AS bigint) AND objsubid = 1
""")
_HURRY = text("SET statement_timeout = '10s'")
_BEGIN = text("""
SELECT pid, extract(epoch FROM backend_start), current_setting('autocompress.session', true)
FROM pg_stat_activity WHERE pid = pg_backend_pid()
""")
_SHARED = (
    "a pooler lends the same session to several processes, such as PgBouncer in transaction mode; "
    "want the address of the server itself, or a pooler in session mode"
)


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who writes to a study.

    Attributes:
        host: Its machine; empty when unknown.
        process: Number of its process there; 0 when unknown.
        since: Seconds since 1970; None when unknown.
    """

    host: str = ""
    process: int = 0
    since: float | None = None

    def describe(self) -> str:
        """Return host and process, as far as they are known."""
        return f"process {self.process or 'unknown'} on {self.host or 'an unknown machine'}"


class StudyLock(Protocol):
    """Keeps every other process from writing to a study."""

    def check(self) -> None:
        """Make sure that it still does.

        Raises:
            StudyLostError: It may not.
        """
        ...

    def release(self) -> None:
        """Let others write to the study."""
        ...


class FileLock:
    """A lock of the file system, which lasts as long as the process; it may be taken once."""

    def __init__(self, name: str, path: Path) -> None:
        self._name, self._path = name, path
        self._lock = filelock.FileLock(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            self._inode = path.stat().st_ino
        except filelock.Timeout as error:
            raise StudyBusyError(name) from error
        except OSError as error:
            raise StudyError(f"study {name!r}: cannot write {path}: {error.strerror}") from error

    def check(self) -> None:
        """Make sure that others find the file that is locked.

        Raises:
            StudyError: A person has deleted it: another process may have locked a new one.
        """
        try:
            inode = self._path.stat().st_ino
        except OSError:
            inode = 0
        if inode != self._inode:
            raise StudyError(
                f"study {self._name!r}: its lock file {self._path} was deleted, so that another "
                "process may write to it; start again to go on"
            )

    def release(self) -> None:
        """Let others write to the study."""
        self._lock.release()


class ServerLock:
    """An advisory lock of PostgreSQL, which lasts as long as one connection; it may be taken once.

    Attributes:
        session: The process of the server, and since when it serves us.

    Args:
        name: Of the study.
        url: Of its database.
        before: A lock on it that was lost, whose session the server may not have ended yet.

    Raises:
        StudyBusyError: Another process holds the study.
        StudyLostError: The server cannot be reached.
    """

    def __init__(self, name: str, url: str, before: "ServerLock | None" = None) -> None:
        self._name = name
        self._key = hash_name(name)
        self._connection: Connection | None = open_connection(url, name)
        self.session: tuple[Any, ...] = ()
        self._mark = uuid4().hex
        try:
            with name_outage(name):
                self._acquire(before)
        except BaseException:
            self.release()
            raise

    def check(self) -> None:
        """Make sure that the server knows the lock as ours.

        Raises:
            StudyLostError: It does not, or it cannot be reached.
        """
        try:
            if self._connection is None:
                raise StudyLostError(self._name, "the session that held the lock has ended")
            with name_outage(self._name):
                row = self._connection.execute(_FIND_HOLDER, split_key(self._key)).first()
            if row is None or not row[1]:
                raise StudyLostError(self._name, "the server has freed the lock")
            if row[4] != self._mark:
                raise StudyError(f"study {self._name!r}: {_SHARED}")
        except StudyLostError:
            self.release()  # For good: it must not be held again without reading the study anew.
            raise

    def release(self) -> None:
        """Let others write to the study."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError):
                connection.close()

    def _acquire(self, before: "ServerLock | None") -> None:
        assert self._connection is not None
        self._connection.execute(_HURRY)
        process, since, mark = self._connection.execute(_BEGIN).one()
        if mark:
            raise StudyError(f"study {self._name!r}: {_SHARED}")
        self.session = (process, since)
        enter = text("SELECT set_config('autocompress.session', :mark, false)")
        self._connection.execute(enter, {"mark": self._mark})
        take = text("SELECT pg_try_advisory_lock(:key)")
        if self._connection.scalar(take, {"key": self._key}):
            self._end_writers()
            return
        row = self._connection.execute(_FIND_HOLDER, split_key(self._key)).first()
        if row is None:
            raise StudyLostError(self._name, "the lock was being freed")
        if before is not None and (row[0], row[3]) == before.session:
            self._connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": row[0]})
            raise StudyLostError(self._name, "the session that was lost still held the lock")
        raise StudyBusyError(self._name, read_holder(row).describe())

    def _end_writers(self) -> None:
        """End the sessions of holders before us, which may still write or keep rows locked.

        They may be of a machine that stood still or is cut off, and does not know it.
        """
        assert self._connection is not None
        writers = hash_name(self._name, "writers")
        self._connection.execute(_END_WRITERS, split_key(writers))
        for statement in ("SELECT pg_advisory_lock(:key)", "SELECT pg_advisory_unlock(:key)"):
            self._connection.execute(text(statement), {"key": writers})  # Once they are gone.


def enter_writer(connection: Any, name: str) -> None:
    """Let a session of psycopg be ended by the next holder of a study.

    Args:
        connection: New, and not in a transaction.
        name: Of the study.
    """
    connection.autocommit = True
    connection.execute("SELECT pg_advisory_lock_shared(%s)", [hash_name(name, "writers")])
    connection.autocommit = False


def take_lock(name: str, storage: str, before: StudyLock | None = None) -> StudyLock:
    """Return a lock on a study, which need not exist.

    Args:
        name: Name of the study.
        storage: Its database.
        before: The lock on it that was lost, if one was.

    Raises:
        StudyBusyError: Another process holds the study.
        StudyLostError: The server cannot be reached.
    """
    url = normalize_storage(storage)
    path = find_file(url)
    if path is None:
        return ServerLock(name, url, before if isinstance(before, ServerLock) else None)
    return FileLock(name, find_lock_file(name, path))


@contextmanager
def lock_study(name: str, storage: str) -> Iterator[None]:
    """Keep every other process from writing to a study, as :func:`take_lock` does."""
    lock = take_lock(name, storage)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def lock_tables(name: str, url: str) -> Iterator[None]:
    """Let one process at a time make tables in a database.

    Args:
        name: Of the study that they are made for.
        url: Of the database.

    Raises:
        StudyError: Another process takes too long.
    """
    path = find_file(url)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(f"{path.name}.lock")):
            yield
        return
    with connect(url, name) as connection:
        with name_outage(name):
            connection.execute(_HURRY)
            wait = text("SELECT pg_advisory_lock(:key)")
            connection.execute(wait, {"key": hash_name("", "tables")})
        yield


def find_holder(name: str, storage: str) -> Holder | None:
    """Return who writes to a study; None when nobody does, as far as this machine can tell.

    Raises:
        StudyLostError: The server cannot be reached.
    """
    url = normalize_storage(storage)
    path = find_file(url)
    if path is not None:
        process = find_file_holder(find_lock_file(name, path))
        return Holder(host=socket.gethostname(), process=process) if process else None
    with connect(url, name, read_only=True) as connection, name_outage(name):
        row = connection.execute(_FIND_HOLDER, split_key(hash_name(name))).first()
    return None if row is None else read_holder(row)


def read_holder(row: Sequence[Any]) -> Holder:
    """Return who holds a lock: what a session calls itself, since when, if we may know it."""
    found = re.match(r"autocompress (\S+) (\d+)", row[2] or "")
    began = None if row[3] is None else float(row[3])
    if found is None:
        return Holder(since=began)
    return Holder(host=found[1], process=int(found[2]), since=began)


def find_file_holder(path: Path) -> int:
    """Return the number of the process on this machine that locks a file; 0 without any."""
    try:
        inode = path.stat().st_ino
        rows = Path("/proc/locks").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    # 1: FLOCK  ADVISORY  WRITE 4321 fe:01:131 0 EOF
    fields = [row.split() for row in rows]
    owners = [int(one[4]) for one in fields if one[1] == "FLOCK" and one[5].endswith(f":{inode}")]
    return next((process for process in owners if process > 0), 0)


def find_lock_file(name: str, database: Path) -> Path:
    """Return the file whose lock a writer of a SQLite study holds."""
    return database.with_name(f"{database.name}.{quote(name, safe='')}.lock")


def hash_name(name: str, kind: str = "study") -> int:
    """Return the key of a lock: 64 bits with a sign."""
    digest = hashlib.sha256(f"autocompress {kind} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def split_key(key: int) -> dict[str, int]:
    """Return the halves of a key as ``pg_locks`` shows them."""
    return {"high": (key >> 32) & 0xFFFFFFFF, "low": key & 0xFFFFFFFF}


@contextmanager
def connect(url: str, study: str, *, read_only: bool = False) -> Iterator[Connection]:
    """Give a connection of its own that commits every statement.

    Raises:
        StudyLostError: The server cannot be reached.
        StudyError: It refuses.
    """
    connection = open_connection(url, study, read_only=read_only)
    try:
        yield connection
    finally:
        with suppress(SQLAlchemyError):
            connection.close()


def open_connection(url: str, study: str, *, read_only: bool = False) -> Connection:
    """Return what :func:`connect` gives, to be closed by the caller."""
    options = make_server_options(url, Opening(study=study, read_only=read_only))
    del options["pool_pre_ping"]  # There is no pool, and a lock is never taken up again unseen.
    try:
        engine = create_engine(url, **options, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        return engine.connect()
    except ImportError as error:
        raise StudyError(MISSING) from error
    except SQLAlchemyError as error:
        raise explain_refusal(error, url, study) from error
