"""What only a Ray cluster can promise: places, crashes, hangs, growth and separate files."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autocompress.errors import ArtifactError, SettingError
from autocompress.execute.settings import ExecuteSettings
from autocompress.store.freight import read_files, write_files
from autocompress.store.run_folder import RunFolder
from tests.workers import (
    make_job,
    make_storer,
    read_runs,
    take_outcome,
    wait_until,
)

pytest.importorskip("ray", reason="Ray is not installed")
import ray

from autocompress.execute.ray_pool import RayPool
from tests.ray_pools import Open, meet, opening_pools, run

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

WEIGHTS = np.frombuffer(b"1234", dtype=np.uint8)


@pytest.fixture
def open_pool(tmp_path: Path) -> Iterator[Open]:
    with opening_pools(tmp_path) as opener:
        yield opener


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_all_workers_are_asked_for_at_the_first_job_and_slots_follow(open_pool: Open) -> None:
    pool = open_pool(workers=2)
    before = pool.slots

    pool.submit("meet0", make_job("meet", 0))
    grown = [pool.wait()]
    while pool.slots < 2:
        grown.append(pool.wait())
    pool.submit("meet1", make_job("meet", 1))
    outcomes = [take_outcome(pool)[1] for _ in range(2)]

    assert before == 1
    assert set(grown) == {None}
    assert {outcome.metrics["pid"] for outcome in outcomes} == set(pool.pids)
    assert os.getpid() not in pool.pids


@pytest.mark.slow
def test_slots_count_the_jobs_ahead(open_pool: Open) -> None:
    pool = open_pool(ahead=3)

    run(pool)

    assert pool.slots == 4


@pytest.mark.slow
@pytest.mark.parametrize("base", ["exit", "kill"])
def test_a_crash_replaces_one_worker(open_pool: Open, base: str) -> None:
    pool = open_pool(workers=2)
    meet(pool)
    before = set(pool.pids)

    crashed = run(pool, base)
    left = set(pool.pids)
    while pool.slots < 2:
        pool.submit("next", make_job("calm"))
        take_outcome(pool)

    (gone,) = before - left
    assert crashed.error == (
        f"the worker {gone} on 127.0.0.1 ended without an answer: killed, crashed or out of memory"
    )
    assert (crashed.failed, crashed.lost) == (True, False)
    assert pool.find("key") is None
    assert left < set(pool.pids) != before


def test_the_next_attempt_after_a_crash_succeeds(open_pool: Open, tmp_path: Path) -> None:
    pool = open_pool()

    first, second = run(pool, "die_once"), run(pool, "die_once")

    assert (first.failed, second.error) == (True, "")
    assert read_runs(tmp_path) == ["die_once"] * 2


@pytest.mark.slow
def test_a_worker_that_died_idle_costs_no_job(open_pool: Open) -> None:
    now = [0.0]
    pool = open_pool(clock=lambda: now[0])
    run(pool)
    (before,) = pool.pids

    os.kill(before, signal.SIGKILL)
    wait_until(lambda: not is_alive(before))
    now[0] = 2.0

    assert run(pool, key="next").error == ""
    assert pool.pids != [before]


@pytest.mark.slow
@pytest.mark.parametrize("base", ["use_up_memory", "break_cuda"])
def test_a_process_in_doubt_evaluates_nothing_more(open_pool: Open, base: str) -> None:
    pool = open_pool()
    run(pool)
    before = pool.pids

    run(pool, base, "other")

    assert pool.pids == []
    assert run(pool, key="next").error == ""
    assert pool.pids != before


@pytest.mark.slow
def test_a_worker_that_has_grown_is_replaced(
    open_pool: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autocompress.execute.ray_crew.GROWTH_BYTES", 60_000_000)
    pool = open_pool()

    pids = [run(pool, "grow", f"key{place}").metrics["pid"] for place in range(4)]

    # The first job of a process is where its growth counts from.
    assert pids[:3] == [pids[0]] * 3
    assert pids[0] != pids[3]


def test_a_hang_is_ended_by_its_limit_and_never_heard_of_again(
    open_pool: Open, tmp_path: Path
) -> None:
    pool = open_pool(clock=lambda: 100.0 * (tmp_path / "hangs").exists(), timeout_s=10)
    run(pool)
    (before,) = pool.pids

    first = run(pool, "hang_once", "other")
    wait_until(lambda: not is_alive(before))
    second = run(pool, "hang_once", "other")

    assert first.error == "the evaluation took longer than execute.timeout_s = 10 seconds"
    assert (first.metrics["seconds"], first.lost) == (100, False)
    assert (second.energy, second.error) == (0.1, "")
    assert read_runs(tmp_path) == ["calm", "hang_once", "hang_once"]


@pytest.mark.slow
def test_stages_have_limits_of_their_own(open_pool: Open) -> None:
    now = [0.0]
    pool = open_pool(clock=lambda: now[0], workers=2, timeout_s=10, model_timeout_s=1000)
    meet(pool)

    pool.submit("fast", make_job("hang"))
    pool.submit("full", replace(make_job("hang"), stage="full"))
    now[0] = 999.0
    fast = take_outcome(pool)
    now[0] = 1000.0
    full = take_outcome(pool)

    assert (fast[0], full[0]) == ("fast", "full")
    assert full[1].error == (
        "the evaluation took longer than execute.model_timeout_s = 1000 seconds"
    )


@pytest.mark.slow
def test_a_worker_that_never_gets_ready_is_ended(
    open_pool: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autocompress.execute.ray_pool.START_S", 0.4)

    outcome = run(open_pool("hang", timeout_s=0.1))

    assert outcome.error == "a worker was not ready after 0.4 seconds"


class Stuck:
    """A worker that gets a process and never answers, as when an import hangs."""

    def __init__(self, *_: object, **__: object) -> None:
        time.sleep(600)

    def locate(self) -> None:
        """Say nothing, ever."""


def test_a_worker_that_never_answers_is_ended(
    open_pool: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autocompress.execute.ray_pool.START_S", 0.4)
    monkeypatch.setattr("autocompress.execute.ray_crew.REMOTE", ray.remote(Stuck))

    outcome = run(open_pool())

    assert outcome.error == "a worker was not ready after 0.4 seconds"


@pytest.mark.slow
def test_a_runner_that_cannot_be_made_fails_the_job(open_pool: Open) -> None:
    outcome = run(open_pool("fail"))

    assert (outcome.error, outcome.lost) == ("EvaluationError: training diverged", False)


@pytest.mark.slow
def test_settings_that_no_runner_can_have_are_raised(open_pool: Open) -> None:
    with pytest.raises(SettingError, match="loss: no such loss"):
        run(open_pool("refuse_settings"))


def test_a_version_that_no_machine_has_is_refused(
    open_pool: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autocompress.__version__", "0.0")

    with pytest.raises(
        SettingError, match=r"^the machine 127\.0\.0\.1 \(node .* and .*, want 0\.0 and"
    ):
        run(open_pool())


def test_workers_without_gpus_see_none(open_pool: Open, tmp_path: Path) -> None:
    run(open_pool(), "show_environment")

    assert "CUDA_VISIBLE_DEVICES=" in (tmp_path / "environment.txt").read_text().splitlines()


def test_one_process_serves_100_jobs(open_pool: Open) -> None:
    pool = open_pool()

    pids = {run(pool, key=f"key{place}").metrics["pid"] for place in range(100)}

    assert pids == set(pool.pids)


@pytest.mark.slow
@pytest.mark.parametrize(("threads", "cpus", "wanted"), [(0, 2.0, 2), (0, 0.5, 1), (3, 1.0, 3)])
def test_threads_are_those_that_ray_reserves(
    open_pool: Open, threads: int, cpus: float, wanted: int
) -> None:
    pool = open_pool("load_torch", threads=threads, cpus=cpus)

    outcomes = [run(pool, "report_threads", f"key{place}") for place in range(2)]

    assert [outcome.metrics["openmp"] for outcome in outcomes] == [wanted] * 2
    assert [outcome.energy for outcome in outcomes] == [wanted] * 2


def test_models_come_and_go_by_ray_alone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write("base", lambda path: write_files(path, {"weights": WEIGHTS}))
    settings = ExecuteSettings(executor="ray", address="local")
    pool = RayPool(lambda: make_storer, folder, settings)

    try:
        outcomes = [run(pool, "base", f"key{place}") for place in range(2)]
    finally:
        pool.close()

    for outcome in outcomes:
        stored = read_files(folder.path(outcome.artifact))
        assert {name: bytes(data) for name, data in stored.items()} == {"deep/copy": b"12341234"}
        # Neither the base nor the models of earlier jobs pile up beside it.
        assert outcome.metrics["objects"] == 2


def test_a_result_that_cannot_be_stored_is_raised(open_pool: Open, tmp_path: Path) -> None:
    pool = open_pool()
    (tmp_path / "results").write_text("no folder")

    with pytest.raises(ArtifactError, match="results"):
        run(pool)
