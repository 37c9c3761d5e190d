"""Searches whose controller is killed anywhere; experiments/service/kills.py has more of it."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from autocompress.errors import StudyBusyError
from autocompress.search.budget import Budget
from autocompress.search.controller import Wiring, hold_controller
from autocompress.search.settings import SearchSettings
from tests.fakes import FakeEvaluator
from tests.formula import count_runs, read_pids
from tests.laws import Step, find_violations, read_trajectory
from tests.service import (
    CRASH,
    VIOLATIONS,
    Service,
    kill_often,
    read_meanwhile,
    run,
    serve,
    serve_and_crash,
    serve_elsewhere,
    start,
)
from tests.workers import wait_until

PLACES = (
    "created", "asked", "evaluated", "excused", "cloned", "failed", "written", "told",
    "constrained",
)  # fmt: skip
MODES: dict[str, dict[str, Any]] = {
    "serial": {"pool": "in_process"},
    "batch": {"batch": 3, "workers": 3},
    "asynchronous": {"workers": 3},
}


def make_service(folder: Path, batch: int = 0, evaluations: int = 6, **changes: Any) -> Service:
    search = SearchSettings(evaluations=evaluations, batch=batch, chains=2)
    budget = changes.pop("budget", Budget(weights=0.6))
    return Service(folder=str(folder), search=search, budget=budget, **changes)


def list_wrong(service: Service) -> list[str]:
    noted = Path(service.folder) / VIOLATIONS
    found = noted.read_text().splitlines() if noted.exists() else []
    return [*found, *find_violations(service.settings)]


def run_through(folder: Path, mode: str, **changes: Any) -> list[Step]:
    """Return the trajectory of a search that nothing interrupts."""
    service = make_service(folder, **(MODES[mode] | changes | {"delay_s": 0.0}))
    serve(service)
    return read_trajectory(service.settings)


@pytest.mark.parametrize("mode", ["batch", "asynchronous"])
def test_a_crash_after_every_kind_of_write_in_turn(tmp_path: Path, mode: str) -> None:
    service = make_service(tmp_path / "crashed", **MODES[mode])

    statuses = [run(serve_and_crash, service, place, 0) for place in PLACES]
    assert run(serve_and_crash, service, "", 0) == 0

    assert statuses == [CRASH] * len(PLACES)
    assert list_wrong(service) == []
    if mode == "batch":
        assert read_trajectory(service.settings) == run_through(tmp_path / "whole", mode)


@pytest.mark.slow  # Each mode takes some thirty processes.
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", list(MODES))
def test_a_crash_at_any_write(tmp_path: Path, mode: str) -> None:
    rng = random.Random(mode)
    longer: dict[str, Any] = {"evaluations": 12}  # One candidate in eight fails: some have to.
    whole = run_through(tmp_path / "whole", mode, **longer)

    for place in PLACES:
        service = make_service(tmp_path / place, **(MODES[mode] | longer))
        first = run(serve_and_crash, service, place, 0)
        assert first == CRASH, place
        assert run(serve_and_crash, service, place, 1) in {CRASH, 0}
        assert run(serve_and_crash, service, place, rng.randrange(2, 6)) in {CRASH, 0}
        assert run(serve_and_crash, service, "", 0) == 0

        assert list_wrong(service) == [], place
        if mode != "asynchronous":
            assert read_trajectory(service.settings) == whole, place


@pytest.mark.parametrize("mode", ["batch", "asynchronous"])
@pytest.mark.parametrize("kills", [2, pytest.param(6, marks=pytest.mark.slow)])  # A second each.
def test_kills_at_any_moment(tmp_path: Path, mode: str, kills: int) -> None:
    rng = random.Random(kills)
    changes = {"evaluations": 16 * kills, "delay_s": 0.05}  # Longer than all moments.
    service = make_service(tmp_path / "killed", **(MODES[mode] | changes))

    places = kill_often(service, [rng.uniform(0.1, 0.6) for _ in range(kills)])

    assert len(places) == kills
    assert list_wrong(service) == []
    if mode == "batch":
        assert read_trajectory(service.settings) == run_through(
            tmp_path / "whole", mode, **changes
        )


def test_a_candidate_that_was_given_up_is_not_tried_again(tmp_path: Path) -> None:
    # In this order two trials of one candidate are under way, and it fails; seen on Ray first.
    service = make_service(
        tmp_path, evaluations=40, order=4, is_watched=False, **MODES["asynchronous"]
    )

    serve(service)

    assert list_wrong(service) == []
    assert max(count_runs(tmp_path).values()) == service.search.attempts


def test_workers_end_with_their_controller_and_what_they_stored_counts(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"workers": 2, "pool": "subprocess"}
    service = make_service(tmp_path, delay_s=0.001, **changes)
    process = start(serve, service)

    wait_until(lambda: len(list(tmp_path.glob("results/*.json"))) > 1)
    os.kill(process.pid or 0, signal.SIGSTOP)  # It hears no more of what its workers finish.
    time.sleep(0.1)
    process.kill()
    process.join()
    pids = read_pids(tmp_path)
    wait_until(lambda: not any(is_alive(pid) for pid in pids))
    stored = {path.stem for path in tmp_path.glob("results/*.json")}
    before = count_runs(tmp_path)
    serve(service)

    after = count_runs(tmp_path)
    assert {key: after[key] for key in stored} == {key: before[key] for key in stored}
    assert list_wrong(service) == []


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that only waits to be buried does not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_second_controller_waits_for_the_death_of_the_first(tmp_path: Path) -> None:
    service = make_service(tmp_path, delay_s=60.0)
    wiring = Wiring(make_evaluator=FakeEvaluator, make_executor=service.make_executor)
    first = start(serve, service)
    wait_until(lambda: bool(count_runs(tmp_path)))

    asked = time.monotonic()
    with (
        pytest.raises(StudyBusyError, match="'fake' is in use by another controller"),
        hold_controller(service.settings, wiring),
    ):
        pass
    refused = time.monotonic()
    first.kill()
    first.join()
    with hold_controller(service.settings, wiring) as controller:
        taken = time.monotonic()

    assert refused - asked < 1.0
    assert taken - refused < 3.0  # It is 0.1 s, on a machine that has time.
    assert controller.settings == service.settings


def test_the_time_zone_does_not_matter(tmp_path: Path) -> None:
    service = make_service(tmp_path / "moved", **MODES["batch"])

    statuses = [
        run(serve_elsewhere, service, zone, place, 2)
        for zone, place in (("UTC", "asked"), ("Asia/Tokyo", "told"), ("America/Lima", "none"))
    ]

    assert statuses == [CRASH, CRASH, 0]
    assert list_wrong(service) == []
    assert read_trajectory(service.settings) == run_through(tmp_path / "whole", "batch")


def test_readers_disturb_no_search_and_see_no_half_of_it(tmp_path: Path) -> None:
    service = make_service(tmp_path, **MODES["asynchronous"], evaluations=30, delay_s=0.1)
    run(serve_and_crash, service, "created", 0)
    reader = start(read_meanwhile, service)

    serve(service)
    (tmp_path / "done").touch()
    reader.join()

    decided, fronts, rows = zip(*json.loads((tmp_path / "seen.json").read_text()), strict=True)
    assert reader.exitcode == 0
    assert len(decided) > 3
    assert list(decided) == sorted(decided)
    assert list(rows) == sorted(rows)
    assert decided[-1] == 31
    assert fronts[-1] > 0
    assert list_wrong(service) == []
