"""What holds of connections: refusals in a sentence, loopback only, and nothing left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autocompress.errors import SettingError
from autocompress.execute.settings import ExecuteSettings
from tests.workers import wait_until

pytest.importorskip("ray", reason="Ray is not installed")
from autocompress.execute.ray_cluster import join, set_environment

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
SECRET = "s3cret"


@pytest.fixture
def place() -> Iterator[str]:
    """Give a temporary folder with a short name, for the sockets of Ray."""
    path = tempfile.mkdtemp(prefix="ac")
    yield path
    shutil.rmtree(path, ignore_errors=True)


def start_driver(name: str, root: Path, place: str) -> "subprocess.Popen[str]":
    secrets = {"PGPASSWORD": SECRET, "AUTOCOMPRESS_STORAGE": f"postgresql://u:{SECRET}@h/d"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.ray_drivers", name, str(root)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **secrets, "TMPDIR": place, "HOME": place},
        start_new_session=True,
    )


def drive(name: str, root: Path, place: str) -> dict[str, Any]:
    """Return what a driver found."""
    with start_driver(name, root, place) as driver:
        found, _ = driver.communicate(timeout=120)
    assert driver.returncode == 0
    return dict(json.loads(found))


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def list_ports(pid: int) -> set[str]:
    """Return the addresses, in hexadecimal, at which a process listens for TCP."""
    sockets = set()
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        if handle.is_symlink() and str(handle.readlink()).startswith("socket:["):
            sockets.add(str(handle.readlink())[8:-1])
    found = set()
    for kind in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                found.add(fields[1].rpartition(":")[0])
    return found


def list_session(leader: int) -> list[int]:
    """Return the processes of a session that are alive."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    found = []
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(pid)
    return found


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at '127.0.0.1:1'"),
        ("somewhere", "want auto, local or HOST:PORT, got 'somewhere'"),
        ("ray://host:1", "Ray's client is not used"),
    ],
)
def test_an_address_without_a_cluster_is_refused(address: str, error: str) -> None:
    with pytest.raises(SettingError, match=error):
        join(address)


def test_the_environment_names_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")

    with pytest.raises(SettingError, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        join(ExecuteSettings().address)


@pytest.mark.parametrize("noted", ["", "127.0.0.1:1"])
def test_a_cluster_that_was_killed_is_refused_at_once(
    noted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other tests may run a Ray of their own on this machine.
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    if noted:
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(noted)
    said = (
        rf"this machine \(what ran at {noted} does not answer\); " if noted else "this machine; "
    )

    begun = time.monotonic()
    with pytest.raises(SettingError, match=f"no Ray cluster runs on {said}want --address local"):
        join("auto")

    assert time.monotonic() - begun < 5


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", SECRET)
    before = dict(os.environ)

    with set_environment():
        meanwhile = dict(os.environ)

    assert dict(os.environ) == before
    assert "PGPASSWORD" not in meanwhile
    assert len(meanwhile["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_a_driver(tmp_path: Path, place: str, number: signal.Signals) -> None:
    with start_driver("hang", tmp_path, place) as driver:
        assert driver.stdout is not None
        workers = json.loads(driver.stdout.readline())["pids"]
        wait_until((tmp_path / "hangs").exists)
        session = list_session(driver.pid)
        listening = {pid: list_ports(pid) for pid in session}

        os.killpg(driver.pid, number)
        # Agents of Ray follow within a minute; whoever works must be gone at once.
        wait_until(lambda: not any(is_alive(pid) for pid in workers))
        rest, _ = driver.communicate(timeout=90)

    assert len(workers) == 2
    assert set(workers) <= set(session)
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    assert set().union(*listening.values()) <= loopback
    assert any(listening.values())
    assert SECRET not in (tmp_path / "environment.txt").read_text()
    assert not (Path(place) / ".ray").exists()
    if number == signal.SIGINT:
        assert json.loads(rest) == {"closed": True}
        assert list(Path(place).glob("acray-*")) == []
        wait_until(lambda: not list_session(driver.pid))


@pytest.mark.slow
def test_machines_join_and_are_lost(tmp_path: Path, place: str) -> None:
    found = drive("move", tmp_path, place)

    assert "was lost with its machine" in found.pop("error")
    assert found == {
        "first": None,
        "alone": 2,
        "met": ["", ""],
        "lost": True,
        "left": 2,
        "again": [True, ""],
        "grown": 3,
    }


@pytest.mark.slow
def test_machines_that_are_sick_or_have_other_code_are_left_to_themselves(
    tmp_path: Path, place: str
) -> None:
    found = drive("shun", tmp_path, place)

    told = found.pop("told")
    (old,) = (one for one in told if "it has autocompress 0.0 and Python " in one)
    (without,) = (one for one in told if "ModuleNotFoundError" in one)
    (sick,) = {*told} - {old, without}
    assert found.pop("lost") == sick
    assert sick.endswith("says: a label is wrong")
    # There is no other machine any more, and so it is tried again.
    assert found.pop("raised").endswith(": a label is wrong")
    assert found == {
        "calm": "",
        "met": [""] * 2,
        "again": [""] * 3,
        "left": 2,
        "gone": True,
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("driver", "cause"),
    [("lose_head", "its head"), ("lose_machine", "Ray has ended on this machine")],
)
def test_a_lost_cluster_ends_the_search_in_a_sentence(
    tmp_path: Path, place: str, driver: str, cause: str
) -> None:
    found = drive(driver, tmp_path, place)

    assert found["error"].startswith(f"the Ray cluster failed: {cause}")
    assert found["error"].endswith("start the search again to go on with it")
    assert found.get("closing_s", 0.0) < 30
