"""Open a study: its database, its lock, and the settings it was begun with."""

import json
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import filelock
import optuna
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from autocompress.errors import SpecMismatchError, StudyBusyError, StudyError
from autocompress.jobs import hash_json
from autocompress.settings import flatten_settings

VERSION = 2
BUSY_TIMEOUT_S = 60


def open_study(name: str, storage: str) -> optuna.Study:
    """Return a study for reading; a search may be writing to it.

    Args:
        name: Name of the study.
        storage: An Optuna URL such as ``sqlite:///runs/digits/study.db``, or the path of a
            SQLite file.

    Raises:
        StudyError: The database or the study is missing, or was written by a newer version.
    """
    url = normalize_storage(storage)
    path = find_file(url)
    if path is not None and not path.is_file():
        raise StudyError(f"study {name!r}: no database at {path}")
    opened = make_storage(url)
    try:
        study = optuna.load_study(study_name=name, storage=opened, sampler=RandomSampler(seed=0))
    except KeyError as error:
        known = ", ".join(sorted(optuna.get_all_study_names(opened))) or "none"
        raise StudyError(f"study {name!r} is not in {url}; studies there: {known}") from error
    _check_version(study)
    return study


@contextmanager
def hold_study(
    name: str, storage: str, spec: Mapping[str, Any], run_dir: Path, objectives: int = 1
) -> Iterator[optuna.Study]:
    """Give a study for writing, made if it does not exist, while no one else writes to it.

    Args:
        name: Name of the study.
        storage: As for :func:`open_study`.
        spec: The settings that decide what the study finds, as plain values.
        run_dir: Where the lock lies when the database is no file.
        objectives: What a trial is told, all minimised.

    Raises:
        SpecMismatchError: The study was begun with another ``spec``.
        StudyBusyError: Another process holds the study.
        StudyError: The study was written by a newer version.
    """
    url = normalize_storage(storage)
    with lock_study(name, url, run_dir):
        _make_database(url)
        opened = make_storage(url)
        study = optuna.create_study(
            study_name=name,
            storage=opened,
            sampler=RandomSampler(seed=0),
            directions=["minimize"] * objectives,
            load_if_exists=True,
        )
        _check_version(study)
        _settle_spec(study, spec)
        yield study


@contextmanager
def lock_study(name: str, url: str, run_dir: Path) -> Iterator[None]:
    """Keep every other process from writing to a study, which need not exist.

    Args:
        name: Name of the study.
        url: Of its database.
        run_dir: Where the lock lies when the database is no file.

    Raises:
        StudyBusyError: Another process holds the study.
    """
    path = find_file(url)
    folder = run_dir if path is None else path.parent
    folder.mkdir(parents=True, exist_ok=True)
    stem = "study" if path is None else path.name
    lock = filelock.FileLock(folder / f"{stem}.{quote(name, safe='')}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise StudyBusyError(name) from error
    try:
        yield
    finally:
        lock.release()


def make_storage(url: str) -> RDBStorage:
    """Return the Optuna storage at ``url``: SQLite with a write-ahead log and full syncs.

    Raises:
        StudyError: The database cannot be opened.
    """
    path = find_file(url)
    try:
        if path is None:
            options: dict[str, Any] = {"pool_pre_ping": True}
        else:
            options = {"connect_args": {"timeout": BUSY_TIMEOUT_S}}
        storage = RDBStorage(url, engine_kwargs=options)
    except (SQLAlchemyError, ImportError) as error:
        first = str(error).splitlines()[0]
        raise StudyError(f"cannot open the database {url}: {first}") from error
    # Python 3.13 warns of connections that are left open.
    weakref.finalize(storage, storage.engine.dispose)
    if path is not None:
        event.listen(storage.engine, "connect", _set_pragmas)
        storage.engine.dispose()  # Connections made before the listener lack the pragmas.
    return storage


def normalize_storage(storage: str) -> str:
    """Return ``storage`` as a URL; a path becomes that of a SQLite file."""
    return storage if "://" in storage else f"sqlite:///{storage}"


def find_file(url: str) -> Path | None:
    """Return the file of a SQLite URL; None for another database.

    Raises:
        StudyError: ``url`` is no database URL, or a SQLite database in memory.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StudyError(f"storage: want a database URL or a path, got {url!r}") from error
    if not parsed.drivername.startswith("sqlite"):
        return None
    if not parsed.database or parsed.database == ":memory:":
        raise StudyError(f"storage: want a SQLite file, which survives the process, got {url!r}")
    return Path(parsed.database)


def read_spec(study: optuna.Study) -> dict[str, Any]:
    """Return the settings with which ``study`` was begun, as plain values.

    Raises:
        StudyError: The study has none: it is not one of this package.
    """
    text = study.user_attrs.get("spec")
    if not isinstance(text, str):
        raise StudyError(f"study {study.study_name!r} was not made by this package")
    record: dict[str, Any] = json.loads(text)
    return record


def _make_database(url: str) -> None:
    """Make an empty SQLite database unless there is one: whole, or not at all.

    Whoever opens one that is half made, to read it or for another study, would make the missing
    tables as well, and one of the two would fail.
    """
    path = find_file(url)
    if path is None:
        return
    with filelock.FileLock(path.with_name(f"{path.name}.lock")):
        if path.exists():
            return
        with TemporaryDirectory(prefix=".new-", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            engine = make_storage(f"sqlite:///{draft}").engine
            engine.connect().close()  # The first connection switches to the write-ahead log.
            engine.dispose()
            draft.rename(path)


def _set_pragmas(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _check_version(study: optuna.Study) -> None:
    version = study.user_attrs.get("version", VERSION)  # A new study has none yet.
    if version != VERSION:
        raise StudyError(
            f"study {study.study_name!r}: want version {VERSION}, got {version}; "
            "use the version of autocompress that wrote it"
        )


def _settle_spec(study: optuna.Study, spec: Mapping[str, Any]) -> None:
    """Store ``spec`` in a new study; compare it with that of an old one."""
    if "spec" in study.user_attrs:
        stored = flatten_settings(read_spec(study))
        given = flatten_settings(spec)
        differences = {
            key: (repr(stored.get(key, "absent")), repr(given.get(key, "absent")))
            for key in stored.keys() | given.keys()
            if stored.get(key, "absent") != given.get(key, "absent")
        }
        if differences:
            raise SpecMismatchError(study.study_name, differences)
    elif study.get_trials(deepcopy=False):
        raise StudyError(f"study {study.study_name!r} was not made by this package")
    else:
        study.set_user_attr("version", VERSION)
        study.set_user_attr("spec_hash", hash_json(spec))
        study.set_user_attr("spec", json.dumps(spec, sort_keys=True))
