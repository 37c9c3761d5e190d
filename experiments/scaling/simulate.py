"""Simulate searches on up to a thousand workers with the real controller and a real database.

    python -m experiments.scaling.simulate [--workers 1 10 100 1000] [--job-s 10 30 120 600]
        [--storage postgresql+psycopg://USER:PASSWORD@HOST/DATABASE] [--recorded SECONDS.txt]

See RESULTS.md. Only the workers are simulated, and their clock advances by the time that the
controller really takes. Prints rows of a markdown table.
"""

import argparse
import cProfile
import io
import math
import pstats
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from uuid import uuid4

import optuna

from autocompress.execute.settings import ExecuteSettings
from autocompress.graph.layers import LayerGraph
from autocompress.search.budget import Budget
from autocompress.search.controller import Wiring, hold_controller, settle_chains
from autocompress.search.requests import Evaluator
from autocompress.search.rounds import RoundSettings
from autocompress.search.settings import SearchSettings
from autocompress.search.spec import Settings, resolve_settings
from autocompress.store.run_folder import RunFolder
from experiments.scaling.landscape import Landscape, trace_model
from experiments.scaling.simulated import (
    METERS,
    SimulatedPool,
    draw_lognormal,
    draw_recorded,
    find_last_asked,
    find_last_end,
    measure_use,
)

HEAD = (
    "| database | workers | mean job s | ahead | evaluations | used | used, to the last result | "
    "decisions / s | ceiling / s | per decision ms, median (p99) | CPU ms, median | best |"
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One simulated search.

    Attributes:
        workers: How many.
        job_s: Mean seconds of a job.
        ahead: Jobs submitted beyond the workers.
        evaluations: Candidates scored.
        chains: Annealing chains; 0 for as many as a search takes by itself.
        drafts: Moves drafted for each proposal.
        seed: Of the search and of the job times.
        storage: URL of a database; empty for SQLite.
        charge: Which of the controller's times moves the simulated clock.
    """

    workers: int
    job_s: float
    ahead: int
    evaluations: int
    chains: int
    drafts: int
    seed: int
    storage: str
    charge: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a simulation came to.

    Attributes:
        used: Busy share of all workers' time, from the first job to the last submission.
        used_all: The same to the last result.
        rate: Decisions per simulated second, from the first job to the last submission.
        ceiling: Decisions per second that the controller could make at most.
        wall_ms: Median of the controller's time per decision.
        wall_p99_ms: 99th percentile of the same.
        cpu_ms: Median of its CPU time.
        best: Lowest energy found, without the noise of its score.
    """

    used: float
    used_all: float
    rate: float
    ceiling: float
    wall_ms: float
    wall_p99_ms: float
    cpu_ms: float
    best: float


def make_settings(case: Case, folder: str) -> Settings:
    """Return a search of one round, whose candidates keep a quarter of the weights."""
    settings = Settings(
        name=f"scaling-{uuid4().hex[:8]}",
        seed=case.seed,
        run_dir=folder,
        storage=case.storage,
        budget=Budget(weights=0.25),
        rounds=RoundSettings(step=1000.0),
        search=SearchSettings(
            evaluations=case.evaluations, chains=case.chains, drafts=case.drafts
        ),
        execute=ExecuteSettings(workers=case.workers),
    )
    return settle_chains(resolve_settings(settings))


def simulate(case: Case, graph: LayerGraph, times: Iterator[float]) -> Found:
    """Return what one search came to."""
    evaluator = Landscape(graph)
    with tempfile.TemporaryDirectory() as folder:
        pools: list[SimulatedPool] = []

        def make_pool(runner: Evaluator, folder: RunFolder) -> SimulatedPool:
            pool = SimulatedPool(
                runner,
                folder,
                draw_s=lambda: next(times),
                workers=case.workers,
                ahead=case.ahead,
                meters=(METERS[case.charge], time.process_time),
            )
            pools.append(pool)
            return pool

        wiring = Wiring(make_evaluator=lambda: evaluator, make_executor=make_pool)
        with hold_controller(make_settings(case, folder), wiring) as controller:
            controller.run()
            scored = [one for one in controller.records if one.stage == "fast"]
    best = min(scored, key=lambda one: one.energy)
    return measure(case, pools[0], evaluator.measure(best.candidate))


def measure(case: Case, pool: SimulatedPool, best: float) -> Found:
    stints = [one for one in pool.log.stints if one.stage == "fast"]
    until_s = find_last_asked(stints)
    # The first cycle fills all workers; in the last ones there is nothing left to propose.
    steady = pool.log.cycles[1 : max(2, len(stints) - pool.slots)]
    wall = sorted(cycle[0] for cycle in steady)
    decided = sum(one.end_s <= until_s for one in stints)
    return Found(
        used=measure_use(stints, case.workers, until_s=until_s),
        used_all=measure_use(stints, case.workers, until_s=find_last_end(stints)),
        rate=decided / until_s,
        ceiling=1 / statistics.mean(wall),
        wall_ms=1e3 * statistics.median(wall),
        wall_p99_ms=1e3 * wall[math.ceil(0.99 * len(wall)) - 1],
        cpu_ms=1e3 * statistics.median(cycle[1] for cycle in steady),
        best=best,
    )


def describe(case: Case, found: Found) -> str:
    """Return the row of the table."""
    database = "PostgreSQL" if case.storage.startswith("postgresql") else "SQLite"
    cells = (
        database, f"{case.workers:,}", f"{case.job_s:g}", f"{case.ahead}", f"{case.evaluations:,}",
        f"{found.used:.1%}", f"{found.used_all:.1%}", f"{found.rate:.2f}", f"{found.ceiling:.1f}",
        f"{found.wall_ms:.1f} ({found.wall_p99_ms:.1f})", f"{found.cpu_ms:.1f}",
        f"{found.best:.4f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def read_times(path: Path) -> list[float]:
    """Return the seconds in a file, one number per line."""
    return [float(line) for line in path.read_text(encoding="utf-8").split()]


def print_profile(profile: cProfile.Profile) -> None:
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats("cumulative").print_stats(70)
    print(re.sub(r"\S*/(site-packages|experiments|autocompress)/", r"\1/", text.getvalue()))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--job-s", type=float, nargs="+", default=[10.0, 30.0, 120.0, 600.0])
    parser.add_argument("--ahead", type=int, nargs="+", default=[0])
    parser.add_argument("--per-worker", type=int, default=10, help="evaluations of each worker")
    parser.add_argument("--least", type=int, default=200, help="evaluations of a search, at least")
    parser.add_argument("--chains", type=int, default=0)
    parser.add_argument("--drafts", type=int, default=32)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--model", default="resnet20", help="of the zoo, for CIFAR-10")
    parser.add_argument("--storage", default="", help="URL of a database; SQLite without it")
    parser.add_argument("--recorded", type=Path, help="seconds of real jobs, one per line")
    parser.add_argument(
        "--charge", choices=METERS, default="wall", help="alone: without waiting for busy cores"
    )
    parser.add_argument("--profile", action="store_true", help="say where the time goes")
    return parser.parse_args()


def main() -> None:
    asked = parse_arguments()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    graph = trace_model(asked.model)
    recorded = read_times(asked.recorded) if asked.recorded else []
    print(HEAD, "|" + "---|" * 12, sep="\n", flush=True)
    profile = cProfile.Profile() if asked.profile else None
    for workers, job_s, ahead, seed in product(
        asked.workers, asked.job_s, asked.ahead, asked.seeds
    ):
        case = Case(
            workers=workers,
            job_s=job_s,
            ahead=ahead,
            evaluations=max(asked.least, workers * asked.per_worker),
            chains=asked.chains,
            drafts=asked.drafts,
            seed=seed,
            storage=asked.storage,
            charge=asked.charge,
        )
        times = draw_lognormal(job_s, seed)
        if recorded:
            times = draw_recorded(recorded, job_s, seed)
        begun = time.perf_counter()
        with profile or nullcontext():
            found = simulate(case, graph, times)
        print(describe(case, found), flush=True)
        print(f"{time.perf_counter() - begun:.0f} s of real time", file=sys.stderr, flush=True)
    if profile is not None:
        print_profile(profile)


if __name__ == "__main__":
    main()
