"""Kill the controller of a search at any moment, again and again: the table in RESULTS.md.

PYTHONPATH=. python experiments/service/kills.py --kills 30 --seed 0
"""

import argparse
import os
import random
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autocompress.errors import StudyBusyError
from autocompress.search.controller import Wiring, hold_controller
from autocompress.search.settings import SearchSettings
from tests.fakes import FakeEvaluator
from tests.formula import count_runs, read_pids, read_runs
from tests.laws import Step, find_violations, read_trajectory
from tests.service import VIOLATIONS, Service, kill_often, serve, start

EVALUATIONS = 12  # In each of two rounds; with the two models, 26 decisions.
KILLS_PER_RUN = 5
LONGEST_S = 3.0  # A life, or what of it comes after the first checkpoint.
DELAY_S = {"fake": 0.1, "subprocess": 0.2, "in_process": 60.0}
BATCH = {"batch": 3, "asynchronous": 0}
HEAD = (
    "| mode | executor | runs | kills | in an evaluation | opening the study | elsewhere | "
    "same trajectory | violations | evaluations | repeated | run though stored |"
)


def make_service(folder: Path, mode: str, pool: Any, seed: int) -> Service:
    return Service(
        folder=str(folder),
        search=SearchSettings(evaluations=EVALUATIONS, batch=BATCH[mode], chains=2),
        workers=3,
        pool=pool,
        order=seed,
        delay_s=DELAY_S[pool],
        is_watched=pool == "fake",
    )


def list_wrong(service: Service) -> list[str]:
    noted = Path(service.folder) / VIOLATIONS
    found = noted.read_text().splitlines() if noted.exists() else []
    return [*found, *find_violations(service.settings)]


def count_repeated(service: Service, steps: list[Step]) -> tuple[int, int]:
    """Return the evaluations, and how many were lost with a controller and made again."""
    runs = count_runs(Path(service.folder))
    needed = {
        key: service.settings.search.attempts if energy is None else 1
        for _, key, energy, *_ in steps
    }
    return runs.total(), sum(max(0, runs[key] - needed[key]) for key in needed)


def kill_searches(root: Path, mode: str, pool: str, kills: int, seed: int) -> str:
    """Return the row of the table for one mode and executor."""
    rng = random.Random(f"{mode} {pool} {seed}")  # noqa: S311 - no secret
    whole = make_service(root / "whole", mode, "fake", 0)
    serve(whole)
    expected = read_trajectory(whole.settings)
    places: Counter[str] = Counter()
    runs = same = violations = evaluations = repeated = again = 0
    while places.total() < kills:
        service = make_service(root / str(runs), mode, pool, runs)
        moments_s = [rng.uniform(0.05, LONGEST_S) for _ in range(KILLS_PER_RUN)]
        places.update(kill_often(service, moments_s))
        steps, found = read_trajectory(service.settings), list_wrong(service)
        made = count_repeated(service, steps)
        runs, same, violations = runs + 1, same + (steps == expected), violations + len(found)
        evaluations, repeated = evaluations + made[0], repeated + made[1]
        again += sum(what == "again" for what, _ in read_runs(Path(service.folder)))
        print(f"  {mode} {pool} run {runs}: {places.total()} kills {found}", flush=True)
    elsewhere = places.total() - places["evaluation"] - places["opening"]
    agreement = f"{same} of {runs}" if mode == "batch" else "not meant to"
    print("  killed after:", dict(places.most_common()))
    return (
        f"| {mode} | {pool} | {runs} | {places.total()} | {places['evaluation']} | "
        f"{places['opening']} | {elsewhere} | {agreement} | {violations} | {evaluations} | "
        f"{repeated} | {again} |"
    )


def measure_takeover(folder: Path) -> tuple[float, float]:
    """Return the seconds until a second controller is refused, and until it takes over."""
    service = make_service(folder, "asynchronous", "in_process", 0)
    wiring = Wiring(make_evaluator=FakeEvaluator, make_executor=service.make_executor)
    first = start(serve, service)
    wait_for(lambda: bool(count_runs(folder)))
    asked = time.monotonic()
    try:
        with hold_controller(service.settings, wiring):
            raise AssertionError("the second controller was let in")
    except StudyBusyError as error:
        refused = time.monotonic()
        print(f"  {error}")
    first.kill()
    while True:
        try:
            with hold_controller(service.settings, wiring):
                return refused - asked, time.monotonic() - refused
        except StudyBusyError:
            time.sleep(0.001)


def measure_end(folder: Path) -> float:
    """Return the seconds that workers live after SIGKILL of their controller."""
    service = make_service(folder, "asynchronous", "subprocess", 0)
    first = start(serve, service)
    wait_for(lambda: len(read_pids(folder)) == service.workers)
    first.kill()
    killed = time.monotonic()
    first.join()
    wait_for(lambda: not any(is_alive(pid) for pid in read_pids(folder)))
    return time.monotonic() - killed


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(fact: Callable[[], bool]) -> None:
    while not fact():
        time.sleep(0.005)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=30, help="per mode, in the fake pool")
    parser.add_argument("--worker-kills", type=int, default=10, help="with real workers")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for pool, kills in (("fake", chosen.kills), ("subprocess", chosen.worker_kills)):
            rows += [
                kill_searches(root / pool / mode, mode, pool, kills, chosen.seed) for mode in BATCH
            ]
        times = [measure_takeover(root / f"takeover{one}") for one in range(5)]
        ends = [measure_end(root / f"end{one}") for one in range(5)]
    print(HEAD, "|" + "---|" * HEAD.count(" | ") + "---|", *rows, sep="\n")
    for what, values in (
        ("second controller refused after", [one for one, _ in times]),
        ("takes over after SIGKILL of the first", [one for _, one in times]),
        ("workers gone after SIGKILL of their controller", ends),
    ):
        print(f"{what}: median {statistics.median(values):.2f} s, most {max(values):.2f} s")


if __name__ == "__main__":
    main()
