"""What holds in the process of an actor, without Ray."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed")
from autocompress.execute import ray_worker
from autocompress.execute.ray_worker import SCRATCH, make_scratch, name_system


def end_process() -> int:
    """Return the number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_only_folders_of_dead_processes_of_this_system_are_removed(tmp_path: Path) -> None:
    dead, alive = end_process(), os.getpid()
    mine, other = f"{SCRATCH}{name_system()}-", f"{SCRATCH}0ther0-"
    names = [f"{mine}{dead}-a", f"{mine}{alive}-a", f"{other}{dead}-a", f"{SCRATCH}{dead}-a"]
    for name in names:
        (tmp_path / name / "objects").mkdir(parents=True)

    new = make_scratch(tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {*names[1:], new.name}
    assert new.name.startswith(f"{mine}{alive}-")


def test_processes_of_a_system_share_its_name() -> None:
    code = f"from {ray_worker.__name__} import name_system; print(name_system())"

    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert told.stdout.strip() == name_system()
