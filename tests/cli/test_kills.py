"""The command `compress` killed as the kernel kills, and called again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SETTINGS = """
name = "killed"
[task]
data = { name = "digits" }
train = { epochs = 1, batch_size = 64 }
device = "cpu"
[method]
keep_s = 0.1
[[method.steps]]
do = "prune"
density = 0.1
by = "admm"
train = { epochs = 12, batch_size = 32, average = 0.9 }
[[method.steps]]
do = "quantize"
levels = { kind = "ternary" }
by = "straight_through"
train = { epochs = 8, batch_size = 32 }
"""


def start(settings: Path, run_dir: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "autocompress", "compress", str(settings), "--json"]
    return subprocess.Popen(
        [*command, "--set", f"run_dir={run_dir}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def wait_for_checkpoint(run_dir: Path, process: "subprocess.Popen[str]", seen: set[int]) -> bool:
    """Wait for a checkpoint that is newer than those of ``seen``; False when it ends before."""
    while process.poll() is None:
        for path in run_dir.glob("checkpoints/*.training"):
            try:
                written = path.stat().st_mtime_ns
            except FileNotFoundError:
                continue
            if written not in seen:
                seen.add(written)
                return True
        time.sleep(0.005)
    return False


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_in_the_middle_of_steps_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text(SETTINGS)
    whole, _ = start(settings, tmp_path / "whole").communicate()

    kills, seen = 0, set[int]()
    while kills < 3:
        process = start(settings, tmp_path / "cut")
        if not wait_for_checkpoint(tmp_path / "cut", process, seen):
            break
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
    done, _ = start(settings, tmp_path / "cut").communicate()

    assert kills == 3
    first, second = (json.loads(text) for text in (whole, done))
    assert second["metrics"] == first["metrics"]
    folders = [Path(record["folder"]) for record in (first, second)]
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert files[0] == files[1]
    assert not list((tmp_path / "cut" / "checkpoints").glob("*"))
