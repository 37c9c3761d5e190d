"""Kill a script at moments after it wrote a checkpoint, then let it end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

CHECKPOINT = "x.ckpt"
RESULT = "result"


def kill_and_finish(script: str, folder: Path) -> Path:
    """Return the result of ``script``, which was killed three times on the way.

    Args:
        script: Called with ``folder``; keeps its training there as ``CHECKPOINT`` and leaves
            ``RESULT`` when it is done.
        folder: Empty.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command, kept = [sys.executable, script, str(folder)], folder / CHECKPOINT
    for wait_s in (0.05, 0.2, 0.3):
        before = kept.stat().st_mtime_ns if kept.exists() else 0
        with subprocess.Popen(command, env=environment) as process:
            while not kept.exists() or kept.stat().st_mtime_ns == before:
                assert process.poll() is None
                time.sleep(0.001)
            time.sleep(wait_s)
            os.kill(process.pid, signal.SIGKILL)
        assert not (folder / RESULT).exists()
    subprocess.run(command, env=environment, check=True)
    return folder / RESULT
