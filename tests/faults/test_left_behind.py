"""(g) Nothing is left of a driver that was killed: no worker, no Ray."""

import importlib.util
import time
from pathlib import Path
from uuid import uuid4

import pytest

from autocompress.execute.settings import ExecuteSettings
from tests.faults.drive import LIMIT_S, driving, make_service, serve_and_say
from tests.faults.tally import Tally
from tests.formula import read_pids
from tests.workers import wait_until

pytestmark = pytest.mark.faults
MARK = "AUTOCOMPRESS_TEST_MARK"
WORKERS_S = 10.0  # Subprocesses look for their parent twice a second.
AGENTS_S = 120.0  # Ray's agents notice after about a minute.
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed"
)


def list_processes() -> dict[int, tuple[int, str]]:
    """Return the parent and the start of every process that runs."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            found[int(path.name)] = (int(fields[1]), fields[19])
    return found


def find_started(driver: int, mark: str) -> set[tuple[int, str]]:
    """Return what a process has started, directly or not: by descent, or by what it inherited."""
    running = list_processes()
    found = {driver}
    for pid in sorted(running, key=lambda pid: int(running[pid][1])):
        if running[pid][0] in found or is_marked(pid, mark):
            found.add(pid)
    return {(pid, running[pid][1]) for pid in found - {driver} if pid in running}


def is_marked(pid: int, mark: str) -> bool:
    """Return whether a process inherited a variable; who renames itself may hide it."""
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def find_left(started: set[tuple[int, str]]) -> set[int]:
    """Return which of some processes still run."""
    running = list_processes()
    return {pid for pid, begun in started if running.get(pid, (0, ""))[1] == begun}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "pool", ["subprocess", pytest.param("ray", marks=[pytest.mark.ray, needs_ray])]
)
def test_nothing_outlives_a_driver_that_is_killed(tmp_path: Path, tally: Tally, pool: str) -> None:
    mark = uuid4().hex
    service = make_service(
        tmp_path / "left",
        pool=pool,
        workers=2,
        delay_s=600.0,
        execute=ExecuteSettings(address="local"),
        environment={MARK: mark},
    )

    with driving(serve_and_say, service) as process:
        wait_until(lambda: len(read_pids(tmp_path / "left")) == 2, LIMIT_S)
        started = find_started(process.pid or 0, mark)
        workers = {one for one in started if one[0] in read_pids(tmp_path / "left")}
        process.kill()
        tally.inject(f"driver killed, nothing left behind, {pool}")
        process.join()
        killed_s = time.monotonic()
    wait_until(lambda: not find_left(workers), WORKERS_S)
    gone_s = time.monotonic() - killed_s
    wait_until(lambda: not find_left(started | find_started(-1, mark)), AGENTS_S)
    all_gone_s = time.monotonic() - killed_s

    assert len(workers) == 2
    tally.measure(
        f"after SIGKILL of the driver, {pool}",
        f"{len(workers)} workers gone after {gone_s:.1f} s, "
        f"all {len(started)} processes after {all_gone_s:.1f} s",
    )
