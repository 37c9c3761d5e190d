"""Databases of studies: their URLs, the secrets in these, and Optuna's storage on them."""

import os
import re
import socket
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from autocompress.errors import StudyError, StudyLostError
from autocompress.search.outage import describe_cause, is_away

BUSY_TIMEOUT_S = 60
POSTGRES = "postgresql+psycopg"
MISSING = (
    "PostgreSQL needs psycopg; install it with: python -m pip install 'autocompress[postgres]'"
)
MASK = "***"
# What libpq or a proxy takes as a secret in the query of a URL.
_SECRET = re.compile(r"pass(word|wd)?$|pwd$|secret|token", re.IGNORECASE)
# A server that drops packets is noticed after about 15 s, not after the hours of Linux.
ENCODING = "utf8"  # Of what is sent and read, also where a server keeps bytes of SQL_ASCII.
PATIENCE: Mapping[str, int] = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
# How Linux calls file systems that machines share; SQLite's locks and shared memory fail there.
NETWORKS = frozenset(
    {"9p", "afs", "beegfs", "ceph", "ceph-fuse", "cifs", "coda", "davfs", "davfs2", "gcsfuse"}
    | {"glusterfs", "goofys", "gpfs", "juicefs", "lustre", "nfs", "nfs3", "nfs4", "orangefs"}
    | {"pvfs2", "rclone", "s3fs", "smb", "smb2", "smb3", "smbfs", "sshfs", "virtiofs", "weka"}
)
# After 25 s the server ends the session of a machine that vanished, with its locks; never that of
# one which only waits. Older servers lack some of these settings.
SESSION = """
SELECT set_config(name, value, false) FROM pg_settings JOIN (VALUES
    ('tcp_keepalives_idle', '10'), ('tcp_keepalives_interval', '5'), ('tcp_keepalives_count', '3'),
    ('tcp_user_timeout', '25000'), ('idle_session_timeout', '0')
) AS wanted (name, value) USING (name)
"""
NAME_BYTES = 63  # What PostgreSQL keeps of the name of an application.
_IS_EMPTY = re.compile(r'relation ".*" does not exist|no such table')
_NEEDS_DATABASE = re.compile(r'database ".*" does not exist')
_NEEDS_PASSWORD = re.compile(r"password authentication failed|no password supplied")


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How a storage is opened.

    Attributes:
        study: For whom, which the server can tell a person; may be empty.
        read_only: Whether nothing may be written or made, tables included.
        on_connect: Called with each new connection to a server before it is used.
    """

    study: str = ""
    read_only: bool = False
    on_connect: Callable[[Any, Any], None] | None = None


TO_WRITE = Opening()


def make_storage(url: str, how: Opening = TO_WRITE) -> RDBStorage:
    """Return the Optuna storage at ``url``: SQLite with a write-ahead log and full syncs.

    Raises:
        StudyLostError: A server cannot be reached.
        StudyError: The database cannot be opened.
    """
    url = normalize_storage(url)
    path = find_file(url)
    options = make_server_options(url, how) if path is None else _make_file_options(how)
    place = url if path is None or not how.read_only else _open_frozen(url, path)
    connections = weakref.WeakSet[Any]()
    if path is None:
        options["pool_events"].append((lambda new, _: connections.add(new), "connect"))
    try:
        storage = RDBStorage(place, engine_kwargs=options, skip_table_creation=how.read_only)
    except ImportError as error:
        raise StudyError(MISSING) from error
    except (SQLAlchemyError, StorageInternalError) as error:
        for connection in connections:  # Of a pool that nobody can close.
            connection.close()
        raise explain_refusal(error, url, how.study) from error
    # Python 3.13 warns of connections that are left open.
    weakref.finalize(storage, storage.engine.dispose)
    return storage


def explain_refusal(
    error: SQLAlchemyError | StorageInternalError, url: str, study: str
) -> StudyError:
    """Return what to tell a person of a database that refused; no password is in it."""
    cause = error if isinstance(error, SQLAlchemyError) else error.__cause__
    text = hide_password(describe_cause(cause or error), url)
    if _IS_EMPTY.search(text):
        return StudyError(f"study {study!r} is not in {mask_url(url)}; studies there: none")
    if _NEEDS_PASSWORD.search(text):
        text += "; give the password by PGPASSWORD or PGPASSFILE, or in AUTOCOMPRESS_STORAGE"
    elif _NEEDS_DATABASE.search(text):
        text += "; make it with: createdb"
    elif study and isinstance(cause, DBAPIError) and is_away(cause):
        return StudyLostError(study, text)
    return StudyError(f"cannot open the database {mask_url(url)}: {text}")


def normalize_storage(storage: str) -> str:
    """Return ``storage`` as a URL: a path is a SQLite file, and psycopg 3 speaks to PostgreSQL.

    Raises:
        StudyError: It is another database, or another driver.
    """
    if "://" not in storage:
        return f"sqlite:///{storage}"
    scheme, _, rest = storage.partition("://")
    if scheme in {"postgres", "postgresql", POSTGRES}:
        return f"{POSTGRES}://{rest}"
    if scheme.partition("+")[0] != "sqlite":
        raise StudyError(
            f"storage: want sqlite:///FILE or postgresql://USER@HOST/DATABASE, got {scheme}://"
        )
    return storage


def find_file(storage: str) -> Path | None:
    """Return the file of a SQLite database; None for a server.

    Raises:
        StudyError: ``storage`` is no database URL and no path, or a SQLite database in memory.
    """
    parsed = _parse(normalize_storage(storage))
    if not parsed.drivername.startswith("sqlite"):
        return None
    if not parsed.database or parsed.database == ":memory:":
        raise StudyError(
            f"storage: want a SQLite file, which survives the process, got {storage!r}"
        )
    return Path(parsed.database)


def find_network(path: Path, mounts: str | None = None) -> str:
    """Return the kind of network file system that ``path`` lies on; empty for a local one.

    Args:
        path: Of a file or folder, which need not exist.
        mounts: What Linux says in ``/proc/self/mountinfo``; read there when None.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""  # Another system than Linux.
    place, depth, kind = path.resolve(), 0, ""
    for row in mounts.splitlines():
        # 36 35 98:0 /root /mount/point options ... - kind source options
        front, _, back = row.partition(" - ")
        point = Path(
            re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), front.split()[4])
        )
        if place.is_relative_to(point) and len(point.parts) >= depth:
            depth, kind = len(point.parts), back.split()[0]
    return kind if kind.removeprefix("fuse.") in NETWORKS else ""


def mask_url(storage: str) -> str:
    """Return ``storage`` to be shown: with ``***`` for its password, if it has one."""
    return _replace_secrets(storage, MASK)


def strip_password(storage: str) -> str:
    """Return ``storage`` to be kept or typed again: without its password, if it has one."""
    return _replace_secrets(storage, "")


def has_password(storage: str) -> bool:
    """Return whether a secret is written in ``storage``."""
    return mask_url(storage) != storage


def hide_password(text: str, storage: str) -> str:
    """Return ``text`` with ``***`` wherever it says a secret of ``storage``."""
    try:
        parsed = _parse(storage)
    except StudyError:
        return text.replace(storage, mask_url(storage))
    for secret in sorted(_list_secrets(parsed), key=len, reverse=True):
        for form in (secret, quote(secret, safe=""), quote_plus(secret)):
            text = text.replace(form, MASK)
    return text


def _replace_secrets(storage: str, mark: str) -> str:
    if "://" not in storage or storage.startswith("sqlite"):
        return storage
    try:
        parsed = _parse(storage)
    except StudyError:  # Nobody can tell what of it is the password.
        return f"{storage.partition('://')[0]}://{MASK}"
    if not _list_secrets(parsed):
        return storage
    query = {
        key: mark if _SECRET.search(key) else value
        for key, value in parsed.query.items()
        if mark or not _SECRET.search(key)
    }
    shown = parsed.set(query=query)
    if parsed.password is not None:
        shown = URL.create(
            shown.drivername,
            username=shown.username,
            password=mark or None,
            host=shown.host,
            port=shown.port,
            database=shown.database,
            query=shown.query,
        )
    return shown.render_as_string(hide_password=False).replace(quote(MASK), MASK)


def _list_secrets(parsed: URL) -> list[str]:
    """Return what is secret in a URL."""
    found = [] if not parsed.password else [str(parsed.password)]
    for key, value in parsed.query.items():
        if _SECRET.search(key):
            found += [value] if isinstance(value, str) else [*value]
    return found


def _parse(storage: str) -> URL:
    """Return the parts of a URL.

    Raises:
        StudyError: It is none, or one of which nobody can tell where the password ends.
    """
    scheme, _, rest = storage.partition("://")
    try:
        parsed = make_url(storage)
    except (ArgumentError, ValueError):  # Their messages may quote the password.
        parsed = None
    if parsed is None:
        raise StudyError(f"storage: want a database URL or a path, got {scheme}://{MASK}")
    outside_query = re.sub(r"\?[\w.]+=.*$", "", rest)
    if outside_query.count("@") > 1 + (parsed.username or "").count("@") and scheme != "sqlite":
        raise StudyError(f"storage: write @ as %40 in the password of {scheme}://{MASK}")
    return parsed


def make_server_options(url: str, how: Opening) -> dict[str, Any]:
    """Return the options of an engine on a server."""
    given = _parse(url).query
    options: dict[str, Any] = {**PATIENCE, "application_name": name_application(how.study)}
    options["client_encoding"] = ENCODING
    options = {key: value for key, value in options.items() if key not in given}
    events: list[Callable[[Any, Any], None]] = [_settle_session]
    events += [_forbid_writing] if how.read_only else []
    if how.on_connect is not None:
        events.append(how.on_connect)
    return {
        "pool_pre_ping": True,
        "connect_args": options,
        "pool_events": [(event, "connect") for event in events],
    }


def name_application(study: str) -> str:
    """Return what the server says of a session: which process it is of, and for which study."""
    text = f"autocompress {socket.gethostname()} {os.getpid()} {study}".rstrip()
    return text.encode()[:NAME_BYTES].decode(errors="ignore")


def _make_file_options(how: Opening) -> dict[str, Any]:
    event = _forbid_changes if how.read_only else _set_pragmas
    return {
        "connect_args": {"timeout": BUSY_TIMEOUT_S},
        "pool_events": [(event, "connect")],
    }


def _open_frozen(url: str, path: Path) -> str:
    """Return the URL that reads a file in a folder where SQLite cannot put its own files.

    It would fail to make those of the write-ahead log. Where there is none, nobody writes.
    """
    log = path.with_name(f"{path.name}-wal")
    if os.access(path.parent, os.W_OK) or (log.exists() and log.stat().st_size):
        return url
    return f"sqlite:///file:{quote(str(path.resolve()))}?immutable=1&uri=true"


def _settle_session(connection: Any, _: object) -> None:
    _run_apart(connection, SESSION)


def _forbid_writing(connection: Any, _: object) -> None:
    """Make every transaction of a PostgreSQL session read-only."""
    _run_apart(connection, "SET default_transaction_read_only = on")


def _run_apart(connection: Any, statement: str) -> None:
    """Run a statement outside a transaction, whose end would take a setting back."""
    connection.autocommit = True
    connection.execute(statement)
    connection.autocommit = False


def _forbid_changes(connection: Any, _: object) -> None:
    connection.execute("PRAGMA query_only = ON").close()


def _set_pragmas(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
