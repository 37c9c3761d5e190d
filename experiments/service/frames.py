"""Time what reads a long study: load, frames, fronts, report; prints a markdown table.

    python experiments/service/frames.py --folder /tmp/frames

Wall clock and CPU seconds: other work on the machine adds to the first only.
"""

import argparse
import math
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import optuna
from synthetic_study import make_big_study, trace_chain

from autocompress.pareto import find_front
from autocompress.report.frames import find_best, trials_frame
from autocompress.report.mirror import Mirror
from autocompress.report.page import Content, write_page
from autocompress.report.sensitivity import sensitivity_frame
from autocompress.search.study import open_study

REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long something took.

    Attributes:
        what: It, in words.
        wall_s: Median of the repeats.
        cpu_s: The same, without waiting.
        limit_s: What it must stay below; NaN without any.
    """

    what: str
    wall_s: float
    cpu_s: float
    limit_s: float


def measure(
    what: str, work: Callable[[], object], limit_s: float = math.nan, repeats: int = REPEATS
) -> Timing:
    """Return how long ``work`` takes."""
    wall_s, cpu_s = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        wall_s.append(time.perf_counter() - wall)
        cpu_s.append(time.process_time() - cpu)
    return Timing(
        what=what,
        wall_s=statistics.median(wall_s),
        cpu_s=statistics.median(cpu_s),
        limit_s=limit_s,
    )


def measure_all(trials: int, convolutions: int, folder: Path) -> list[Timing]:
    """Return the timings for a study of ``trials`` trials, made in ``folder``."""
    url, page = f"sqlite:///{folder}/big.db", folder / "report.html"
    graph = trace_chain(convolutions)
    timings = [
        measure("make it by SQL", lambda: make_big_study(url, graph, trials=trials), repeats=1),
        measure("load it, cold", lambda: load(url), 30.0),
    ]
    study = load(url)
    frame = trials_frame(study)
    densities = sum("/" in name for name in frame.columns)
    print(f"{len(frame):,} trials x {densities} densities, seed 0, medians of {REPEATS}\n")
    timings += [
        measure("load it again", lambda: study.get_trials(deepcopy=False)),
        measure("`trials_frame`, loaded", lambda: trials_frame(study), 2.0),
    ]
    for names in (("val_metric", "weights"), ("val_metric", "weights", "macs")):
        work = partial(find_best, frame, names)
        timings.append(measure(f"front of the frame, {len(names)} objectives", work, 0.1))
    for count in (2, 3, 4):
        # Points of a simplex: none is better than another.
        costs = np.random.default_rng(0).dirichlet(np.ones(count), trials)
        what = f"front, {count} objectives, all points on it"
        timings.append(measure(what, partial(find_front, costs), 0.1))
    content = Content(
        name="big", frame=frame, direction="maximize", metric="accuracy", dense={}, folders={}
    )
    timings += [
        measure("`sensitivity_frame`, loaded", lambda: sensitivity_frame(study)),
        measure("write the report", lambda: write_page(page, content), 10.0),
        measure("copy it for optuna-dashboard", lambda: Mirror(study).refresh(), repeats=1),
    ]
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"Report of {page.stat().st_size / 1e6:.2f} MB; most memory {memory_mb:,.0f} MB.\n")
    return timings


def load(url: str) -> optuna.Study:
    """Return the study with all its trials read."""
    study = open_study("big", url)
    study.get_trials(deepcopy=False)
    return study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--convolutions", type=int, default=20)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    given.folder.mkdir(parents=True)
    timings = measure_all(given.trials, given.convolutions, given.folder)
    print("| what | s | CPU s | limit s |\n|---|---|---|---|")
    for row in timings:
        figures = (row.wall_s, row.cpu_s, row.limit_s)
        cells = ["" if math.isnan(one) else f"{one:.3g}" for one in figures]
        print(f"| {row.what} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
