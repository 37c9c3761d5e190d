"""The cluster without containers: it searches through the loss of a node and leaves nothing."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pasting import make_commands

pytest.importorskip("ray", reason="wants the extra ray")
pytest.importorskip("psycopg", reason="wants the extra postgres")
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docker" / "local_cluster.sh"
POSTGRES = Path("/usr/lib/postgresql")
PROGRAMS = ("openssl", "setsid", "ss")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(900),  # Two minutes; machines that run other things take longer.
    pytest.mark.skipif(not POSTGRES.is_dir(), reason="PostgreSQL is not installed"),
    pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason=f"wants {PROGRAMS}"),
]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return variables with which ``autocompress`` and ``ray`` are found."""
    folders = (make_commands(tmp_path / "bin"), Path(sys.executable).parent, os.environ["PATH"])
    return {
        "HOME": str(tmp_path),
        "PATH": os.pathsep.join(map(str, folders)),
        "PYTHONPATH": str(ROOT),
    }


def list_left(place: str) -> list[str]:
    """Return what still runs of an instance in the folder ``place``."""
    return [line for line in list_commands() if place in line]


def list_commands() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # It ended meanwhile.


def find_place(text: str) -> str:
    found = re.search(r"/tmp/cluster\.\w+", text)
    assert found, text
    return found[0]


def test_a_search_outlives_a_node(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [str(SCRIPT), "--kill-node"],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )

    shown = done.stdout + done.stderr
    assert done.returncode == 0, shown
    assert "33 of 33 evaluations" in shown
    # Every place where a URL with a password is spoken of leaves the password out.
    assert not re.search(r"\w://\w+:[^@\s]+@", shown)
    place = find_place(shown)
    assert not Path(place).exists()
    assert list_left(place) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_all_that_it_started(
    environment: dict[str, str], number: int, code: int
) -> None:
    # A shell can't trap what was ignored before it began, as SIGINT is in a job in the background.
    with subprocess.Popen(
        ["env", "--default-signal=INT,TERM", str(SCRIPT)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        assert running.stdout is not None
        shown = ""
        for line in running.stdout:
            shown += line
            if "worker-1 is up" in line:
                running.send_signal(number)
        ended = running.wait()

    place = find_place(shown)
    assert ended == code, shown
    assert not Path(place).exists()
    assert list_left(place) == []
