"""Do with the blocks of a document what a reader does, faster: commands run in this process.

Importing PyTorch for each of twenty commands would take longer than all that they do.
``experiments/service/follow_guide.py`` pastes the same blocks into a real shell.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from autocompress.cli import main
from tests.blocks import Block

OPERATORS = {"|", "||", "&", "&&", ";", "<", ">"}
ROOT = Path(__file__).parents[1]


def paste(block: Block, bin_folder: Path) -> None:
    """Save or run ``block`` in the working folder.

    Args:
        block: Of a document.
        bin_folder: From :func:`make_commands`.
    """
    if block.file:
        Path(block.file).write_text(block.text, encoding="utf-8")
    elif block.language == "python":
        exec(compile(block.text, block.name, "exec"), {"__name__": "__main__"})
    else:
        for line in block.text.splitlines():
            run_line(line, bin_folder)


def run_line(line: str, bin_folder: Path) -> None:
    """Run one line of a shell; ``autocompress`` itself in this process.

    Raises:
        AssertionError: It failed.
    """
    words = shlex.split(line, comments=True)
    if words[:1] == ["autocompress"] and not OPERATORS & {*words}:
        found = [sorted(map(str, Path().glob(one))) if "*" in one else [one] for one in words[1:]]
        try:
            main([word for part in found for word in part])
        except SystemExit as ended:
            assert not ended.code, f"{line}: ended with {ended.code}"  # noqa: PT017
        return
    path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    subprocess.run(["bash", "-ec", line], env=environment, check=True, stdin=subprocess.DEVNULL)


def make_commands(folder: Path) -> Path:
    """Return ``folder``, which is made, with ``autocompress`` and ``python`` of this process."""
    folder.mkdir()
    for name, command in (
        ("autocompress", f"{shlex.quote(sys.executable)} -m autocompress"),
        ("python", shlex.quote(sys.executable)),
    ):
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
        path.chmod(0o755)
    return folder
