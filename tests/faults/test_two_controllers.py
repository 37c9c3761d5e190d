"""(f) Two controllers, as of two machines: own process groups and run folders, one database."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autocompress.search.lock import ServerLock
from tests.acknowledged import COUNTED, Note, find_writers, read_notes
from tests.faults.drive import (
    LIMIT_S,
    PLACES,
    STOPPED,
    driving,
    make_service,
    read_endings,
    serve_and_pause,
    serve_and_say,
    wait_and_serve,
    wait_for_decisions,
    wait_for_end,
)
from tests.faults.tally import Tally
from tests.postgres import PostgresServer
from tests.service import Service
from tests.workers import wait_until

END_HOLDER = """
SELECT pg_terminate_backend(pid, 10000)
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE datname = '{}' AND application_name LIKE 'autocompress % {} %'
    AND locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted
"""


def make_pair(folder: Path, postgres: PostgresServer, **changes: Any) -> tuple[Service, Service]:
    """Return the same search on two machines."""
    service = make_service(folder, storage=postgres.make_database(), **changes)
    first, second = (str(folder / machine) for machine in ("here", "there"))
    return replace(service, run_dir=first), replace(service, run_dir=second)


def serve_alone(target: Callable[..., None], *args: object) -> None:
    """Do something in a process group of its own."""
    os.setsid()
    target(*args)


def end_holder(postgres: PostgresServer, service: Service, pid: int | None) -> None:
    """Let the server end the session by which a process holds the study.

    That is what it does when a machine has vanished.
    """
    database = service.storage.rpartition("/")[2]
    postgres.execute(END_HOLDER.format(database, pid))


def find_decided(service: Service, pid: int | None) -> list[Note]:
    """Return the decisions of one process."""
    return [note for note in read_notes(Path(service.folder)) if note.pid == pid]


def find_written(service: Service, pid: int | None) -> list[Note]:
    """Return the writes of one process that returned."""
    notes = [note for what in COUNTED for note in read_notes(Path(service.folder), what)]
    return [note for note in notes if note.pid == pid]


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_a_second_controller_is_refused_and_takes_over_when_the_first_is_killed(
    tmp_path: Path, postgres: PostgresServer, tally: Tally
) -> None:
    here, there = make_pair(tmp_path, postgres)

    with driving(serve_alone, serve_and_say, here) as first:
        wait_for_decisions(here, 2, first)
        with driving(serve_alone, wait_and_serve, there) as second:
            wait_until(lambda: bool(read_endings(there, second.pid)), LIMIT_S)
            first.kill()
            tally.inject("controller killed while another waits")
            assert wait_for_end(second) == 0

    refusal = read_endings(there, second.pid)[0]
    assert "StudyBusyError: study 'fake' is in use by another controller" in refusal
    assert f"process {first.pid} on " in refusal
    assert find_decided(here, first.pid)
    assert find_decided(there, second.pid)
    assert set(find_writers(read_notes(tmp_path)).values()) == {1}
    tally.check(there)


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_who_loses_the_lock_writes_no_more_unless_it_gets_it_again(
    tmp_path: Path, postgres: PostgresServer, tally: Tally
) -> None:
    here, there = make_pair(tmp_path, postgres, evaluations=60)

    with driving(serve_alone, serve_and_say, here) as first:
        wait_for_decisions(here, 3, first)
        with driving(serve_alone, wait_and_serve, there) as second:
            wait_until(lambda: bool(read_endings(there, second.pid)), LIMIT_S)
            while not find_decided(there, second.pid) and first.is_alive():
                decided = len(read_notes(tmp_path))
                end_holder(postgres, here, first.pid)
                tally.inject("lock lost while another waits")
                wait_for_decisions(here, decided + 1, second)
            assert wait_for_end(second) == 0
            status = wait_for_end(first)

    assert set(find_writers(read_notes(tmp_path)).values()) == {1}
    if find_decided(there, second.pid):
        assert status == STOPPED
        assert f"in use by another controller, process {second.pid} on" in str(
            read_endings(here, first.pid)
        )
    tally.check(there)


@pytest.mark.faults
@pytest.mark.timeout(300)
@pytest.mark.parametrize("place", [*PLACES[:-1], "checked"])
def test_a_controller_that_stood_still_while_another_took_over_writes_nothing(
    tmp_path: Path, postgres: PostgresServer, tally: Tally, place: str
) -> None:
    here, there = make_pair(tmp_path, postgres, evaluations=12)
    here = replace(here, is_watched=False)  # What it remembers is old when it wakes up.
    target = serve_and_pause_checked if place == "checked" else serve_and_pause

    with driving(serve_alone, target, here, place, 2 if place != "checked" else 20) as first:
        wait_until(lambda: is_stopped(first.pid or 0), LIMIT_S)
        end_holder(postgres, here, first.pid)
        with driving(serve_alone, wait_and_serve, there) as second:
            wait_for_decisions(there, len(read_notes(tmp_path)) + 3, second)
            before = find_written(here, first.pid)
            os.kill(first.pid or 0, signal.SIGCONT)
            tally.inject("controller frozen while another took over")
            status = wait_for_end(first)
            assert wait_for_end(second) == 0, read_endings(there, second.pid)

    assert find_written(here, first.pid) == before
    assert status == STOPPED
    assert "StudyBusyError" in read_endings(here, first.pid)[0]
    tally.check(there)


def serve_and_pause_checked(service: Service, _: str, occurrence: int) -> None:
    """Search; stand still right after the lock was found to be held, for that time from 0."""
    check, checks = ServerLock.check, 0

    def check_and_pause(lock: ServerLock) -> None:
        nonlocal checks
        check(lock)
        checks += 1
        if checks == occurrence + 1:
            os.kill(os.getpid(), signal.SIGSTOP)

    ServerLock.check = check_and_pause  # type: ignore[method-assign, assignment]
    serve_and_say(service)


def is_stopped(pid: int) -> bool:
    """Return whether a process stands still."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    return stat.rpartition(")")[2].split()[0] == "T"
