"""Follow docs/guide.md literally in an empty environment: clone, install, paste every block.

    PYTHONPATH=. python experiments/service/follow_guide.py --folder SCRATCH

SCRATCH must not exist; the clone and the environment in it (7 GB) are removed afterwards unless
--keep is given, the log and the small files stay.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.blocks import Block, read_blocks, write_script

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "torchvision", "optuna", "pandas", "numpy", "onnx", "onnxruntime")


def is_pasted(block: Block) -> bool:
    """Return whether a reader pastes a block; a dashboard would serve until Ctrl-C."""
    return block.is_run or block.reason.startswith("installs")


def clean_environment() -> dict[str, str]:
    """Return the variables of a shell that knows nothing of this checkout."""
    ours = ("PYTHONPATH", "VIRTUAL_ENV", "OMP_NUM_THREADS")
    return {name: value for name, value in os.environ.items() if name not in ours}


def describe_machine() -> str:
    """Return processor, cores, system, Python and date."""
    model = next(
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    )
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{date}; {model}, {cores} cores, load {load:.1f}; {platform.platform()}"


def follow(folder: Path, *, keep: bool) -> int:
    """Paste the guide's blocks in ``folder``, which is made; return the shell's exit code."""
    project, clone, log = folder / "project", folder / "autocompress", folder / "guide.log"
    project.mkdir(parents=True)
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)  # noqa: S603, S607
    blocks = [block for block in read_blocks(clone / "docs" / "guide.md") if is_pasted(block)]
    versions = (
        f"python --version\ngit -C ../autocompress rev-parse --short HEAD\n"
        f"pip list 2>/dev/null | grep -E '^({'|'.join(PACKAGES)}) '\ndu -sh venv | cut -f 1\n"
    )
    script = folder / "guide.sh"
    script.write_text(write_script(blocks) + versions, encoding="utf-8")
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        file.write(describe_machine() + "\n")
        file.flush()
        done = subprocess.run(  # noqa: S603
            ["bash", str(script.resolve())], cwd=project, env=clean_environment(), check=False,  # noqa: S607
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
        file.write(f"exit {done.returncode} after {time.monotonic() - start:.0f} s\n")
    if not keep:
        shutil.rmtree(project / "venv", ignore_errors=True)
        shutil.rmtree(clone)
    return done.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--keep", action="store_true", help="leave the environment there")
    given = parser.parse_args()
    code = follow(given.folder, keep=given.keep)
    print((given.folder / "guide.log").read_text(encoding="utf-8"))
    sys.exit(code)


if __name__ == "__main__":
    main()
