"""Measure fast evaluations per minute: in the controller's process, by one worker, by two.

python experiments/service/throughput.py --data ROOT_OF_MNIST [--evaluations 16] [--repeats 3]

Whole searches of LeNet-5 by random densities, so that all of them evaluate the same candidates;
timed from the first decision to the last one, one thread each, the modes in turns.
"""

import argparse
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
from autocompress.settings import read_settings

MODES = {
    "in process": ExecuteSettings(workers=1, threads=1),
    "1 worker": ExecuteSettings(workers=1, threads=1, executor="subprocess"),
    "2 workers": ExecuteSettings(workers=2, threads=1),
}


def measure(settings: Settings, mode: str, repeat: int) -> float:
    """Return evaluations per minute of one search."""
    decided_s: list[float] = []

    def watch(progress: SearchProgress) -> None:
        if progress.record is not None:
            decided_s.append(time.perf_counter())
        if progress.phase in ("round", "full"):
            raise KeyboardInterrupt  # Only candidates are timed.

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "objects").symlink_to(Path(settings.run_dir).absolute() / "objects")
        timed = replace(
            settings, name=f"{mode.replace(' ', '-')}-{repeat}", run_dir=folder, storage=""
        )
        with suppress(KeyboardInterrupt):
            run_search(replace(timed, execute=MODES[mode]), progress=watch)
    workers = MODES[mode].workers
    return 60 * (len(decided_s) - workers) / (decided_s[-1] - decided_s[workers - 1])


def read_random(data: str, evaluations: int, out: str) -> Settings:
    """Return a search of LeNet-5 by random densities in a folder, which is made."""
    changes = [
        f"task.data.root={data}",
        "budget.weights=0.02",
        "rounds.step=1000.0",
        "search.searcher=random",
        f"search.evaluations={evaluations}",
        f"run_dir={out}",
    ]
    path = Path(__file__).parents[1] / "lenet5_mnist" / "settings.toml"
    (Path(out) / "objects").mkdir(parents=True, exist_ok=True)
    return read_settings(Settings, path, changes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--evaluations", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default="runs/throughput")
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = read_random(asked.data, asked.evaluations, asked.out)
    measure(settings, "in process", -1)  # Trains the dense model where it is missing.
    found: dict[str, list[float]] = {mode: [] for mode in MODES}
    for repeat in range(asked.repeats):
        for mode in MODES:
            found[mode].append(measure(settings, mode, repeat))
    base = statistics.median(found["in process"])
    print("| where | per minute, median | all | against in process | efficiency |")
    print("|---|---|---|---|---|")
    for mode, rates in found.items():
        rate = statistics.median(rates)
        share = rate / base / MODES[mode].workers
        each = ", ".join(f"{one:.1f}" for one in rates)
        print(f"| {mode} | {rate:.1f} | {each} | {rate / base:.2f}x | {share:.0%} |", flush=True)


if __name__ == "__main__":
    main()
