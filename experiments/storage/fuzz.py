"""Fuzz the reader of compact files: fuzz.py [--seconds 600] [--seed 0] [--save FOLDER].

Mutated files with right digests are read under caps of memory and time. A file that reaches a new
line of ``autocompress/store/pack``, or ends in a new sentence, is kept and mutated further. Each
must end in tensors as its header says or in FormatError; anything else is a defect, whose file is
saved.
"""

import argparse
import re
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import CodeType, FrameType
from typing import Any

import torch

from autocompress.errors import FormatError
from autocompress.store import pack
from autocompress.store.pack.container import read_container
from autocompress.store.pack.state import unpack_state
from autocompress.store.tensors import DTYPE_NAMES
from tests.store.pack.forging import forge, make_seeds, mutate

PACKAGE = str(Path(str(pack.__file__)).parent)
MOST_BYTES = 2**18  # Of the tensors of one file.
MORE_MEMORY = 2**29  # Beyond what is mapped at the start.
MOST_SECONDS = 20.0  # For one file, traced.


class TooSlowError(BaseException):
    """One file took more than its time; not an Exception, so that nothing catches it."""


class Lines:
    """Lines of the package that ran; a function whose lines all ran is no longer watched."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, int]] = set()
        self.all: set[tuple[str, int]] = set()
        self._left: dict[CodeType, set[int]] = {}

    def watch(self, frame: FrameType, _event: str, _argument: object) -> Any:
        """Trace one call, as ``sys.settrace`` wants it."""
        code = frame.f_code
        left = self._left.get(code)
        if left is None:
            left = set()
            if code.co_filename.startswith(PACKAGE) and "reference" not in code.co_filename:
                left = {line for _, _, line in code.co_lines() if line}
                self.all |= {(code.co_filename, line) for line in left}
            self._left[code] = left
        if not left:
            return None

        def mark(inner: FrameType, _event: str, _argument: object) -> Any:
            left.discard(inner.f_lineno)
            self.seen.add((code.co_filename, inner.f_lineno))
            return mark

        return mark(frame, "line", None)


@dataclass
class Tally:
    """What came of the files.

    Attributes:
        outcomes: How often each, by sentence.
        defects: Sentences of what should not be.
        slowest: Seconds of the slowest file.
        runs: Files read.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    defects: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    runs: int = 0


def read_file(data: bytes) -> str:
    """Return how one file ends, in a sentence without names and numbers.

    Raises:
        ValueError: Tensors came of it that are not as its header says.
    """
    try:
        state = unpack_state(data, most_bytes=MOST_BYTES)[1]
    except FormatError as error:
        text = re.sub(r"'[^']*'|\"[^\"]*\"|\[.*\]|\(.*\)", "X", str(error))
        return "FormatError: " + re.sub(r"-?\d[\d,.]*", "N", text).rsplit(": ", 1)[-1][:60]
    found = [[name, DTYPE_NAMES[one.dtype], list(one.shape)] for name, one in state.items()]
    wanted = read_container(data)[0]["tensors"]
    if found != wanted:
        raise ValueError(f"want {wanted!r:.200}, got {found!r:.200}")
    return "tensors"


def limit_memory() -> None:
    """Let this process map no more than a little beyond what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def fuzz(seconds: float, seed: int, save: Callable[[str, bytes], None]) -> tuple[Tally, Lines]:
    """Read mutated files for so many seconds."""
    random = Random(seed)  # noqa: S311 - no secret
    tally, lines = Tally(), Lines()
    corpus, start = make_seeds(), time.monotonic()
    queue = list(corpus)
    while time.monotonic() - start < seconds or queue:
        if queue:
            file = queue.pop()
        else:
            # Later ones reach deeper; each half of the choices.
            later = corpus[-50:] if random.random() < 0.5 else corpus
            file = mutate(random, random.choice(later), random.choice(corpus))
        data = forge(*file)
        before, began = len(lines.seen), time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
        sys.settrace(lines.watch)
        try:
            outcome = read_file(data)
        except (Exception, TooSlowError) as error:  # noqa: BLE001 - counted
            sys.settrace(None)
            outcome = f"DEFECT {type(error).__name__}: {str(error)[:80]}"
            tally.defects[outcome] += 1
            save(f"{type(error).__name__}_{tally.runs}", data)
        finally:
            sys.settrace(None)
            signal.setitimer(signal.ITIMER_REAL, 0)
        tally.runs += 1
        tally.slowest = max(tally.slowest, time.monotonic() - began)
        new = len(lines.seen) > before or outcome not in tally.outcomes
        tally.outcomes[outcome] += 1
        if new:
            corpus.append(file)
    return tally, lines


def stop_slow(number: int, frame: FrameType | None) -> None:
    """Raise TooSlowError, as a handler of the timer."""
    del number, frame
    raise TooSlowError(f"more than {MOST_SECONDS:.0f} s")


def main() -> None:
    """Fuzz, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, default=Path("runs/fuzz"))
    given = parser.parse_args()
    signal.signal(signal.SIGALRM, stop_slow)
    warnings.simplefilter("error")

    def save(name: str, data: bytes) -> None:
        given.save.mkdir(parents=True, exist_ok=True)
        (given.save / f"{name}.acz").write_bytes(data)

    torch.set_num_threads(1)
    limit_memory()
    tally, lines = fuzz(given.seconds, given.seed, save)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{tally.runs:,} files, slowest {tally.slowest:.1f} s, peak {peak:,.0f} MB")
    reached = f"{len(lines.seen & lines.all):,} of {len(lines.all):,}"
    print(f"lines reached: {reached} in the functions entered")
    for outcome, count in tally.outcomes.most_common():
        print(f"{count:>9,}  {outcome}")
    missed: dict[str, list[int]] = {}
    for name, line in sorted(lines.all - lines.seen):
        missed.setdefault(Path(name).name, []).append(line)
    print("not reached:", "; ".join(f"{name} {numbers}" for name, numbers in missed.items()))
    sys.exit(1 if tally.defects else 0)


if __name__ == "__main__":
    main()
