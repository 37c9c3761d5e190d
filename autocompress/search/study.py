"""Open a study: its database, its lock, and the settings it was begun with."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage

from autocompress.errors import SpecMismatchError, StudyError, StudyLostError
from autocompress.jobs import hash_json
from autocompress.search.lock import StudyLock, enter_writer, lock_tables, take_lock
from autocompress.search.outage import name_outage
from autocompress.search.storage import (
    Opening,
    find_file,
    make_storage,
    mask_url,
    normalize_storage,
)
from autocompress.settings import flatten_settings

logger = logging.getLogger(__name__)
VERSION = 2
SHORTEST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0


def open_study(name: str, storage: str) -> optuna.Study:
    """Return a study for reading, which writes nothing; a search may be writing to it.

    Args:
        name: Name of the study.
        storage: An Optuna URL such as ``sqlite:///runs/digits/study.db`` or
            ``postgresql://USER@HOST/DATABASE``, or the path of a SQLite file.

    Raises:
        StudyLostError: The server cannot be reached.
        StudyError: The database or the study is missing, or was written by a newer version.
    """
    url = normalize_storage(storage)
    path = find_file(url)
    if path is not None and not path.is_file():
        raise StudyError(f"study {name!r}: no database at {path}")
    opened = make_storage(url, Opening(study=name, read_only=True))
    with name_outage(name):
        try:
            study = optuna.load_study(
                study_name=name, storage=opened, sampler=RandomSampler(seed=0)
            )
        except KeyError as error:
            known = ", ".join(sorted(optuna.get_all_study_names(opened))) or "none"
            raise StudyError(
                f"study {name!r} is not in {mask_url(url)}; studies there: {known}"
            ) from error
        _check_version(study)
    return study


class HeldStudy:
    """A study that no other process writes to.

    Attributes:
        study: Another object after :meth:`reopen`.
    """

    def __init__(self, name: str, storage: str, spec: Mapping[str, Any], objectives: int) -> None:
        self._name = name
        self._url = normalize_storage(storage)
        self._spec = spec
        self._lock: StudyLock = take_lock(name, self._url)
        self._storage: RDBStorage | None = None
        try:
            self.study = self._make(objectives)
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Make sure that the study is still held; before anything that others build on.

        Raises:
            StudyLostError: It may not be: see :meth:`reopen`.
        """
        self._lock.check()

    def reopen(
        self,
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Hold the study again after its database went away, and read it anew.

        Args:
            patience_s: Seconds after which to give up.
            clock: Seconds; only their differences count.
            sleep: Called between two attempts.

        Raises:
            StudyBusyError: Another process holds it by now.
            StudyError: The database was away for too long, or the study is not in it any more.
        """
        begun, pause_s = clock(), SHORTEST_PAUSE_S
        while True:
            try:
                self._take_again()
                return
            except StudyLostError as error:
                left_s = patience_s - (clock() - begun)
                if left_s <= 0:
                    raise StudyError(f"{error}; given up after {patience_s:.0f} s") from error
                logger.warning("%s; trying again for %.0f s", error, left_s)
            sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def close(self) -> None:
        """Let others write to the study."""
        if self._storage is not None:
            self._storage.engine.dispose()
        self._lock.release()

    def _take_again(self) -> None:
        self.close()
        self._lock = take_lock(self._name, self._url, self._lock)
        with name_outage(self._name):
            self.study = self._load(self._open())

    def _make(self, objectives: int) -> optuna.Study:
        """Return the study, made if it does not exist."""
        with lock_tables(self._name, self._url):
            _make_database(self._url)
            self._storage = self._open()
        with name_outage(self._name):
            optuna.create_study(
                study_name=self._name,
                storage=self._storage,
                sampler=RandomSampler(seed=0),
                directions=["minimize"] * objectives,
                load_if_exists=True,
            )
            return self._load(self._storage)

    def _load(self, opened: RDBStorage) -> optuna.Study:
        try:
            study = optuna.load_study(
                study_name=self._name, storage=opened, sampler=RandomSampler(seed=0)
            )
        except KeyError as error:
            raise StudyError(f"study {self._name!r} is gone from the database") from error
        _check_version(study)
        _settle_spec(study, self._spec)
        return study

    def _open(self) -> RDBStorage:
        """Return the storage; a connection made after the lock was lost is refused."""
        opened = make_storage(self._url, Opening(study=self._name, on_connect=self._check_first))
        self._storage = opened
        return opened

    def _check_first(self, connection: Any, _: object) -> None:
        try:
            enter_writer(connection, self._name)
            self._lock.check()  # Afterwards: whoever holds it now ends all that entered before.
        except BaseException:
            connection.close()
            raise


@contextmanager
def hold_study(
    name: str, storage: str, spec: Mapping[str, Any], objectives: int = 1
) -> Iterator[HeldStudy]:
    """Give a study for writing, made if it does not exist, while no one else writes to it.

    Args:
        name: Name of the study.
        storage: As for :func:`open_study`.
        spec: The settings that decide what the study finds, as plain values.
        objectives: What a trial is told, all minimised.

    Raises:
        SpecMismatchError: The study was begun with another ``spec``.
        StudyBusyError: Another process holds the study.
        StudyLostError: The server cannot be reached.
        StudyError: The study was written by a newer version.
    """
    held = HeldStudy(name, storage, spec, objectives)
    try:
        yield held
    finally:
        held.close()


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

    Whoever opens one that is half made, to read it or for another study, would find tables
    missing. PostgreSQL makes all tables in one transaction.
    """
    path = find_file(url)
    if path is None or path.exists():
        return
    with TemporaryDirectory(prefix=".new-", dir=path.parent) as folder:
        draft = Path(folder) / path.name
        make_storage(f"sqlite:///{draft}").engine.dispose()
        draft.rename(path)


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
