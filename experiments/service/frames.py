"""Time what reads a long study: load, frames, fronts, report; prints a markdown table.

    python experiments/service/frames.py --trials 10000 --convolutions 20 --folder /tmp/frames
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna

from autocompress.pareto import find_front
from autocompress.report.frames import find_best, trials_frame
from autocompress.report.page import Content, write_page
from autocompress.report.sensitivity import measure_sensitivity
from autocompress.search.study import open_study
from experiments.service.synthetic_study import make_big_study, trace_chain

REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long something took.

    Attributes:
        what: It, in words.
        median_s: Median of the repeats.
        worst_s: The longest.
        limit_s: What it must stay below; NaN without any.
    """

    what: str
    median_s: float
    worst_s: float
    limit_s: float


def measure(what: str, work: Callable[[], object], limit_s: float = float("nan")) -> Timing:
    """Return how long ``work`` takes."""
    times_s = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times_s.append(time.perf_counter() - start)
    return Timing(
        what=what, median_s=statistics.median(times_s), worst_s=max(times_s), limit_s=limit_s
    )


def measure_all(trials: int, convolutions: int, folder: Path) -> list[Timing]:
    """Return the timings for a study of ``trials`` trials, made in ``folder``."""
    url = f"sqlite:///{folder}/big.db"
    start = time.perf_counter()
    make_big_study(url, trace_chain(convolutions), trials=trials)
    made_s = time.perf_counter() - start

    def load() -> optuna.Study:
        study = open_study("big", url)
        study.get_trials(deepcopy=False)
        return study

    study = load()
    frame = trials_frame(study)
    content = Content(name="big", frame=frame, direction="maximize", metric="accuracy", dense={}, folders={})
    page = folder / "report.html"
    all_on_front = np.random.default_rng(0).dirichlet(np.ones(4), trials)
    timings = [
        Timing(what="make the study by SQL", median_s=made_s, worst_s=made_s, limit_s=np.nan),
        measure("load it, cold", load, 30.0),
        measure("load it again", lambda: study.get_trials(deepcopy=False)),
        measure("trials_frame, loaded", lambda: trials_frame(study), 2.0),
    ]
    for names in (("val_metric", "weights"), ("val_metric", "weights", "macs")):
        timings.append(
            measure(f"find_best, {len(names)} objectives", lambda n=names: find_best(frame, n), 0.1)
        )
    for count in (2, 3, 4):
        costs = all_on_front[:, :count] if count < 4 else all_on_front
        if count < 4:
            costs = np.random.default_rng(0).dirichlet(np.ones(count), trials)
        timings.append(
            measure(f"find_front, {count} objectives, all on it", lambda c=costs: find_front(c), 0.1)
        )
    timings += [
        measure("sensitivity_frame, loaded", lambda: measure_sensitivity(frame)),
        measure("write the report", lambda: write_page(page, content), 10.0),
    ]
    size = Timing(what=f"size of the report: {page.stat().st_size / 1e6:.2f} MB", median_s=np.nan, worst_s=np.nan, limit_s=np.nan)
    return [*timings, size]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--convolutions", type=int, default=20)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    given.folder.mkdir(parents=True)
    print("| what | median s | worst s | limit s |\n|---|---|---|---|")
    for row in measure_all(given.trials, given.convolutions, given.folder):
        figures = (row.median_s, row.worst_s, row.limit_s)
        print(f"| {row.what} | " + " | ".join("" if np.isnan(x) else f"{x:.3g}" for x in figures) + " |")


if __name__ == "__main__":
    main()
