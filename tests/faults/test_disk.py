"""(e) There is no room, or nothing may be written: a sentence, and nothing is lost."""

import os
import random
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from tests.acknowledged import count_acknowledged
from tests.faults.drive import (
    STOPPED,
    driving,
    finish,
    make_service,
    read_endings,
    run_through,
    serve_and_say,
    wait_for_decisions,
    wait_for_end,
)
from tests.faults.tally import Tally
from tests.postgres import PostgresServer, find_unprivileged
from tests.service import Service

SEED = 4
EVALUATIONS = 28
ROOM_BYTES = 12_000_000  # SQLite's log alone takes four before it is written back.
BALLAST = "ballast"
SENTENCE = re.compile(r"(StudyError|ArtifactError): [^\n]+(make room|allow|Read-only)[^\n]*")


class Disk:
    """A small file system."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def fill(self) -> None:
        """Leave no room."""
        with (self.place / BALLAST).open("ab", buffering=0) as file:
            for size in (65536, 512, 1):
                while self._append(file.fileno(), size):
                    pass

    def free(self) -> None:
        """Leave room."""
        (self.place / BALLAST).unlink(missing_ok=True)

    def forbid(self) -> None:
        """Let nothing be written."""
        subprocess.run(["mount", "-o", "remount,ro", str(self.place)], check=True)

    def allow(self) -> None:
        """Let it be written."""
        subprocess.run(["mount", "-o", "remount,rw", str(self.place)], check=True)

    def _append(self, handle: int, size: int) -> bool:
        try:
            return os.write(handle, bytes(size)) == size
        except OSError:
            return False


@contextmanager
def mounting(place: Path, room_bytes: int = ROOM_BYTES) -> Iterator[Disk]:
    """Give a small file system; skips where we may not mount one."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={room_bytes}", "tmpfs", str(place)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("a small file system cannot be mounted: not root, or in a container")
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def stop_and_go_on(
    service: Service,
    count: Callable[[], None],
    strike: Callable[[], None],
    mend: Callable[[], None],
) -> None:
    """Let a search stop in a sentence twice, then come to its end."""
    rng = random.Random(f"{SEED} {service.folder.rpartition('/')[2]}")
    for one in range(2):
        with driving(serve_and_say, service) as process:
            wait_for_decisions(service, 3 + 8 * one, process)
            process.join(rng.uniform(0.0, 0.3))
            strike()
            count()
            status = wait_for_end(process)
            check_sentence(service, process.pid, status)
        with driving(serve_and_say, service) as process:  # It does not begin either.
            check_sentence(service, process.pid, wait_for_end(process))
        mend()
    finish(service)


def check_sentence(service: Service, pid: int | None, status: int | None) -> None:
    """Check that a process has ended in one readable sentence."""
    (ending,) = read_endings(service, pid)
    assert status == STOPPED
    assert SENTENCE.fullmatch(ending), ending


@pytest.mark.faults
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["batch", "asynchronous"])
@pytest.mark.parametrize("pool", ["fake", "subprocess"])
def test_a_full_disk_stops_a_search_which_goes_on_when_there_is_room(
    tmp_path: Path, tally: Tally, mode: str, pool: str
) -> None:
    with mounting(tmp_path / "disk") as disk:
        service = make_service(tmp_path / "notes", mode, evaluations=EVALUATIONS, pool=pool)
        service = replace(service, run_dir=str(disk.place / "run"))

        count = partial(tally.inject, "disk full, SQLite and run folder")
        stop_and_go_on(service, count, disk.fill, disk.free)
        tally.check(service, run_through(tmp_path / "whole", service))


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_a_full_run_folder_stops_a_search_whose_database_is_elsewhere(
    tmp_path: Path, postgres: PostgresServer, tally: Tally
) -> None:
    with mounting(tmp_path / "disk") as disk:
        service = make_service(tmp_path / "notes", evaluations=EVALUATIONS)
        service = replace(
            service, run_dir=str(disk.place / "run"), storage=postgres.make_database()
        )

        count = partial(tally.inject, "disk full, run folder")
        stop_and_go_on(service, count, disk.fill, disk.free)
        tally.check(service, run_through(tmp_path / "whole", service))


@pytest.mark.faults
def test_a_disk_that_may_only_be_read_stops_a_search(tmp_path: Path, tally: Tally) -> None:
    with mounting(tmp_path / "disk") as disk:
        service = make_service(tmp_path / "notes", run_dir=str(disk.place / "run"))
        with driving(serve_and_say, service) as process:
            wait_for_decisions(service, 3, process)
        decided = count_acknowledged(Path(service.folder))

        disk.forbid()
        tally.inject("disk read-only, SQLite and run folder")
        with driving(serve_and_say, service) as process:
            status = wait_for_end(process)
        disk.allow()

        check_sentence(service, process.pid, status)
        assert count_acknowledged(Path(service.folder)) == decided
        finish(service)
        tally.check(service, run_through(tmp_path / "whole", service))


def serve_in_pages(service: Service, pages: int) -> None:
    """Search in a SQLite database that may grow by so many pages only."""

    def limit(connection: sqlite3.Connection, _: object) -> None:
        (there,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {there + pages}")

    event.listen(Engine, "connect", limit)
    serve_and_say(service)


@pytest.mark.faults
def test_a_database_that_may_not_grow_stops_a_search(tmp_path: Path, tally: Tally) -> None:
    service = make_service(tmp_path / "notes", evaluations=EVALUATIONS)
    with driving(serve_and_say, service) as process:
        wait_for_decisions(service, 3, process)
    for pages in (1, 5):
        with driving(serve_in_pages, service, pages) as process:
            tally.inject("database full, SQLite")
            check_sentence(service, process.pid, wait_for_end(process))

    finish(service)

    tally.check(service, run_through(tmp_path / "whole", service))


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_a_server_that_only_lets_read_stops_a_search(
    tmp_path: Path, postgres: PostgresServer, tally: Tally
) -> None:
    service = make_service(tmp_path, evaluations=EVALUATIONS, storage=postgres.make_database())

    def set_read_only(value: str) -> None:
        postgres.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        postgres.execute("SELECT pg_reload_conf()")

    try:
        count = partial(tally.inject, "database read-only, PostgreSQL")
        stop_and_go_on(service, count, lambda: set_read_only("on"), lambda: set_read_only("off"))
    finally:
        set_read_only("off")
    tally.check(service, run_through(tmp_path / "whole", service))


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_a_server_without_room_stops_a_search(
    tmp_path: Path, postgres: PostgresServer, tally: Tally
) -> None:
    with mounting(postgres.folder / "disk", 40_000_000) as disk:
        shutil.chown(disk.place, find_unprivileged())  # Who may mount is root.
        postgres.execute(f"CREATE TABLESPACE small LOCATION '{disk.place}'")
        url = postgres.make_database()
        name = url.rpartition("/")[2]
        postgres.execute(f"ALTER DATABASE {name} SET TABLESPACE small")
        service = make_service(tmp_path, evaluations=EVALUATIONS, storage=url)
        try:
            count = partial(tally.inject, "disk full, PostgreSQL")
            stop_and_go_on(service, count, disk.fill, disk.free)
            tally.check(service, run_through(tmp_path / "whole", service))
        finally:
            postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")
            postgres.execute("DROP TABLESPACE small")
