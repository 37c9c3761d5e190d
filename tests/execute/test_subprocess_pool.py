"""What only processes can promise: crashes, hangs, overlap and the end of a controller."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autocompress.errors import ArtifactError, SettingError
from autocompress.execute.settings import ExecuteSettings
from autocompress.execute.subprocess_pool import SubprocessPool
from autocompress.jobs import Outcome
from autocompress.store.run_folder import RunFolder
from tests.workers import PerformerFactory, make_job, read_runs, wait_until

CONTROLLER = """
import signal
import sys
from pathlib import Path
from autocompress.execute.settings import ExecuteSettings
from autocompress.execute.subprocess_pool import SubprocessPool
from autocompress.store.run_folder import RunFolder
from tests.workers import PerformerFactory, make_job

# Neither guarded by __name__ nor closed: workers must do without both.
signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's background job ignores it.
root = sys.argv[1]
pool = SubprocessPool(PerformerFactory(root), RunFolder(Path(root)), ExecuteSettings(workers=2))
pool.submit("calm", make_job())
pool.wait()
pool.submit("meet_one", make_job("meet", seed=0))
pool.submit("meet_too", make_job("meet", seed=1))
pool.wait(), pool.wait()
pool.submit("hang", make_job("hang"))
print("hangs", flush=True)
pool.wait()
"""


@pytest.fixture
def open_pool(tmp_path: Path) -> Iterator[Callable[..., SubprocessPool]]:
    opened: list[SubprocessPool] = []

    def open_one(
        act: str = "calm", clock: Callable[[], float] = time.monotonic, **changes: Any
    ) -> SubprocessPool:
        settings = ExecuteSettings(executor="subprocess", **changes)
        factory = PerformerFactory(str(tmp_path), act)
        opened.append(SubprocessPool(factory, RunFolder(tmp_path), settings, clock))
        return opened[-1]

    yield open_one
    for pool in opened:
        pool.close()


def run(pool: SubprocessPool, base: str = "calm", key: str = "key") -> Outcome:
    pool.submit(key, make_job(base))
    return pool.wait()[1]


def meet(pool: SubprocessPool) -> list[Outcome]:
    """Run two jobs that wait for each other; afterwards two workers are ready."""
    for seed in range(2):
        pool.submit(f"meet{seed}", make_job("meet", seed))
    return [pool.wait()[1] for _ in range(2)]


Open = Callable[..., SubprocessPool]


def test_no_process_starts_before_its_first_job(open_pool: Open) -> None:
    pool = open_pool(workers=2)

    assert pool.pids == []
    run(pool)
    assert len(pool.pids) == 1


def test_two_jobs_run_at_the_same_time(open_pool: Open) -> None:
    pool = open_pool(workers=2)

    outcomes = meet(pool)

    assert [outcome.error for outcome in outcomes] == ["", ""]
    assert {outcome.metrics["pid"] for outcome in outcomes} == set(pool.pids)
    assert os.getpid() not in pool.pids


@pytest.mark.parametrize(
    ("base", "error"),
    [
        ("exit", "the worker ended with exit status 3 before it had answered"),
        ("kill", "the worker was killed by SIGKILL, probably out of memory"),
        ("abort", "the worker was ended by SIGABRT"),
    ],
)
def test_a_crash_replaces_one_worker(open_pool: Open, base: str, error: str) -> None:
    pool = open_pool(workers=2)
    meet(pool)
    before = set(pool.pids)

    crashed = run(pool, base)
    left = set(pool.pids)
    # The free slot comes first, and then the other worker is the only one left.
    pool.submit("next0", make_job(seed=2))
    pool.submit("next1", make_job(seed=3))
    outcomes = [pool.wait()[1] for _ in range(2)]

    assert (crashed.failed, crashed.error) == (True, error)
    assert pool.find("key") is None
    assert len(left) == 1
    assert left < before
    assert left < set(pool.pids) != before
    assert sorted(outcome.energy for outcome in outcomes) == [2.1, 3.1]


def test_the_next_attempt_after_a_crash_succeeds(open_pool: Open, tmp_path: Path) -> None:
    pool = open_pool()

    first, second = run(pool, "die_once"), run(pool, "die_once")

    assert (first.failed, second.error) == (True, "")
    assert read_runs(tmp_path) == ["die_once"] * 2


def test_a_worker_that_dies_idle_costs_no_job(open_pool: Open) -> None:
    pool = open_pool()
    run(pool)
    (before,) = pool.pids

    os.kill(before, signal.SIGKILL)
    os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)

    assert run(pool, key="next").error == ""
    assert pool.pids != [before]


@pytest.mark.parametrize("base", ["use_up_memory", "break_cuda"])
def test_a_process_in_doubt_evaluates_nothing_more(open_pool: Open, base: str) -> None:
    pool = open_pool()
    run(pool)
    before = pool.pids

    run(pool, base, "other")

    assert pool.pids == []
    assert run(pool, key="next").error == ""
    assert pool.pids != before


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_a_worker_that_has_grown_is_replaced(
    open_pool: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autocompress.execute.subprocess_pool.GROWTH_BYTES", 60_000_000)
    pool = open_pool()

    pids = [run(pool, "grow", f"key{place}").metrics["pid"] for place in range(6)]

    # The first job of a process is where its growth counts from.
    assert pids[:3] == [pids[0]] * 3
    assert pids[3:] == [pids[3]] * 3
    assert pids[0] != pids[3]


def test_a_hang_is_ended_by_its_limit_and_never_heard_of_again(
    open_pool: Open, tmp_path: Path
) -> None:
    pool = open_pool(clock=lambda: 100.0 * (tmp_path / "hangs").exists(), timeout_s=10)
    run(pool)

    first, second = run(pool, "hang_once", "other"), run(pool, "hang_once", "other")

    assert first.error == "the evaluation took longer than execute.timeout_s = 10 seconds"
    assert first.metrics["seconds"] == 100
    assert (second.energy, second.error) == (0.1, "")
    assert read_runs(tmp_path) == ["calm", "hang_once", "hang_once"]
    with pytest.raises(IndexError):
        pool.wait()


def test_a_hang_ends_no_other_job(open_pool: Open) -> None:
    now = [0.0]
    pool = open_pool(clock=lambda: now[0], workers=2, timeout_s=10)
    meet(pool)
    pool.submit("hang", make_job("hang"))

    calm = [run(pool, key=f"key{place}") for place in range(3)]
    now[0] = 100.0
    key, outcome = pool.wait()

    assert [one.metrics["pid"] for one in calm] == pool.pids * 3
    assert (key, outcome.failed) == ("hang", True)


def test_stages_have_limits_of_their_own(open_pool: Open) -> None:
    now = [0.0]
    pool = open_pool(clock=lambda: now[0], workers=2, timeout_s=10, model_timeout_s=1000)
    meet(pool)

    pool.submit("fast", make_job("hang"))
    pool.submit("full", replace(make_job("hang"), stage="full"))
    now[0] = 999.0
    fast = pool.wait()
    now[0] = 1000.0
    full = pool.wait()

    assert (fast[0], full[0]) == ("fast", "full")
    assert full[1].error == (
        "the evaluation took longer than execute.model_timeout_s = 1000 seconds"
    )


def test_a_worker_that_never_gets_ready_is_ended(
    open_pool: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autocompress.execute.subprocess_pool.START_S", 0.4)
    pool = open_pool("hang", timeout_s=0.1)

    outcome = run(pool)

    assert outcome.error == "the worker was not ready after 0.4 seconds"
    assert pool.pids == []


def test_a_result_on_the_disk_outlives_its_worker(open_pool: Open) -> None:
    pool = open_pool()

    outcome = run(pool, "store_and_die:stored", "stored")

    assert (outcome.energy, outcome.error) == (0.1, "")


def test_a_result_that_cannot_be_read_after_a_crash_is_raised(open_pool: Open) -> None:
    pool = open_pool()

    with pytest.raises(ArtifactError, match=r"spoilt\.json: cannot be read"):
        run(pool, "spoil_and_die:spoilt", "spoilt")

    assert run(pool, key="next").error == ""


def test_a_runner_that_cannot_be_made_fails_the_job(open_pool: Open) -> None:
    pool = open_pool("fail")

    outcome = run(pool)

    assert outcome.error == "EvaluationError: training diverged"
    assert pool.pids == []


def test_settings_that_no_runner_can_have_are_raised(open_pool: Open) -> None:
    pool = open_pool("refuse_settings")

    with pytest.raises(SettingError, match="loss: no such loss"):
        run(pool)


def test_one_process_serves_200_jobs(open_pool: Open) -> None:
    pool = open_pool()

    pids = {run(pool, key=f"key{place}").metrics["pid"] for place in range(200)}

    assert pids == set(pool.pids)


@pytest.mark.parametrize(
    ("threads", "workers", "wanted"), [(3, 1, 3), (0, 1, 4), (0, 3, 1), (0, 9, 1)]
)
def test_threads_are_set_before_libraries_load_and_at_each_job(
    open_pool: Open,
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    workers: int,
    wanted: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4), raising=False)
    pool = open_pool("load_torch", threads=threads, workers=workers)

    outcomes = [run(pool, "report_threads", f"key{place}") for place in range(2)]

    assert [outcome.metrics["openmp"] for outcome in outcomes] == [wanted] * 2
    assert [outcome.energy for outcome in outcomes] == [wanted] * 2


def test_ctrl_c_in_a_worker_is_ignored(open_pool: Open, tmp_path: Path) -> None:
    pool = open_pool(workers=2)
    pool.submit("key0", make_job("meet", 0))
    wait_until((tmp_path / "met0").exists)

    for pid in pool.pids:
        os.kill(pid, signal.SIGINT)
    pool.submit("key1", make_job("meet", 1))

    assert [pool.wait()[1].error for _ in range(2)] == ["", ""]


@pytest.mark.parametrize("base", ["hang", "hang_stubbornly"])
def test_close_ends_all_workers_and_leaves_no_zombie(
    open_pool: Open, tmp_path: Path, base: str
) -> None:
    pool = open_pool(workers=2)
    pool.submit("hang", make_job(base))
    run(pool)
    wait_until((tmp_path / "hangs").exists)
    pids = pool.pids

    pool.close()

    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_a_controller(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    ) as controller:
        assert controller.stdout is not None
        assert controller.stdout.readline() == "hangs\n"
        wait_until((tmp_path / "hangs").exists)

        os.killpg(controller.pid, number)
        # Workers hold the pipes too: they are read to the end only once all are gone.
        rest, errors = controller.communicate(timeout=20)

    assert rest == ""
    assert errors.count("Traceback") == (number == signal.SIGINT)
