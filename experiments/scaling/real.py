"""Measure fast evaluations per minute of real workers: subprocesses and Ray's, one and two.

    python -m experiments.scaling.real --data ROOT_OF_MNIST [--evaluations 16] [--repeats 3]

Whole searches of LeNet-5 by random densities, so that all of them evaluate the same candidates;
timed from the first decision to the last one, one thread each, the modes in turns. Ray starts on
the loopback interface for every search.
"""

import argparse
import os
import statistics
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import optuna

from autocompress.execute.settings import ExecuteSettings
from autocompress.search.controller import run_search
from autocompress.search.progress import SearchProgress
from autocompress.search.spec import Settings
from experiments.service.throughput import read_random

MODES = {
    "subprocess, 1 worker": ExecuteSettings(workers=1, threads=1, executor="subprocess"),
    "Ray, 1 worker": ExecuteSettings(workers=1, threads=1, executor="ray", address="local"),
    "subprocess, 2 workers": ExecuteSettings(workers=2, threads=1, executor="subprocess"),
    "Ray, 2 workers": ExecuteSettings(workers=2, threads=1, executor="ray", address="local"),
    "Ray, 2 workers, 2 ahead": ExecuteSettings(
        workers=2, threads=1, executor="ray", address="local", ahead=2
    ),
}


def measure(settings: Settings, execute: ExecuteSettings, name: str) -> tuple[float, float]:
    """Return evaluations per minute of one search, and seconds until its first decision."""
    decided_s: list[float] = []

    def watch(progress: SearchProgress) -> None:
        if progress.record is not None:
            decided_s.append(time.perf_counter())
        if progress.phase in ("round", "full"):
            raise KeyboardInterrupt  # Only candidates are timed.

    begun_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "objects").symlink_to(Path(settings.run_dir).absolute() / "objects")
        timed = replace(settings, name=name, run_dir=folder, storage="", execute=execute)
        with suppress(KeyboardInterrupt):
            run_search(timed, progress=watch)
    first = execute.workers - 1  # What runs at the same time is decided at the same time.
    rate = 60 * (len(decided_s) - 1 - first) / (decided_s[-1] - decided_s[first])
    return rate, decided_s[0] - begun_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--evaluations", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default="runs/scaling", help="keeps the dense model")
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = read_random(asked.data, asked.evaluations, asked.out)
    short = replace(settings, search=replace(settings.search, evaluations=2))
    measure(short, ExecuteSettings(threads=1), "warm-up")  # Trains a dense model if need be.
    found: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
    for repeat in range(asked.repeats):
        for number, (mode, execute) in enumerate(MODES.items()):
            found[mode].append(measure(settings, execute, f"real-{number}-{repeat}"))
            load = os.getloadavg()[0]
            print(f"{mode}: {found[mode][-1][0]:.1f} per minute, load {load:.1f}", flush=True)
    base = statistics.median(rate for rate, _ in found["subprocess, 1 worker"])
    print("| where | per minute, median | all | against 1 subprocess | first decision after s |")
    print("|---|---|---|---|---|")
    for mode, rows in found.items():
        rate = statistics.median(one for one, _ in rows)
        each = ", ".join(f"{one:.1f}" for one, _ in rows)
        start = statistics.median(one for _, one in rows)
        print(f"| {mode} | {rate:.1f} | {each} | {rate / base:.2f}x | {start:.1f} |")


if __name__ == "__main__":
    main()
