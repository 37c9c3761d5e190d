"""Laws of the simulated workers of experiments/scaling."""

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.jobs import Job, Outcome
from autocompress.store.run_folder import RunFolder
from experiments.scaling.simulated import (
    SimulatedPool,
    draw_lognormal,
    draw_recorded,
    find_last_asked,
    find_last_end,
    measure_use,
)
from tests.workers import calm_outcome, make_job


class Clock:
    """Real time as a test has it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def read(self) -> float:
        return self.now_s


class SlowRunner:
    """Takes real time for every evaluation."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def run(self, job: Job) -> Outcome:
        self.clock.now_s += 1000.0
        return calm_outcome(job)


def drive(pool: SimulatedPool, clock: Clock, jobs: int, think_s: Iterator[float]) -> list[str]:
    """Return the keys of all jobs as they came back to a controller that thinks before each."""
    numbers, flying, before_s = iter(range(jobs)), 0, 0.0
    came: list[str] = []
    while True:
        while flying < pool.slots and (number := next(numbers, None)) is not None:
            clock.now_s += next(think_s)
            pool.submit(f"job{number}", make_job(seed=number))
            flying += 1
        if not flying:
            return came
        came.append(pool.wait()[0])
        flying -= 1
        assert before_s <= pool.now_s
        before_s = pool.now_s


def make_pool(
    folder: Path, clock: Clock, times_s: Iterator[float], workers: int, ahead: int = 0
) -> SimulatedPool:
    return SimulatedPool(
        SlowRunner(clock),
        RunFolder(folder),
        draw_s=lambda: next(times_s),
        workers=workers,
        ahead=ahead,
        meters=[clock.read],
    )


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_controller_that_takes_no_time_keeps_all_workers_busy(
    tmp_path: Path, ahead: int
) -> None:
    clock = Clock()
    pool = make_pool(tmp_path, clock, cycle([3.0]), 4, ahead)

    drive(pool, clock, 20, cycle([0.0]))

    stints = pool.log.stints
    assert measure_use(stints, 4, until_s=find_last_asked(stints)) == 1.0
    assert measure_use(stints, 4, until_s=find_last_end(stints)) == 1.0
    assert pool.now_s == 15.0  # Whatever time the evaluations themselves took.


@pytest.mark.parametrize("ahead", [0, 3])
def test_a_controller_that_is_too_slow_leaves_workers_idle(tmp_path: Path, ahead: int) -> None:
    clock = Clock()
    pool = make_pool(tmp_path, clock, cycle([8.0]), 10, ahead)

    drive(pool, clock, 100, cycle([2.0]))

    # One job every 2 s occupies four workers, whatever lies ahead.
    stints = pool.log.stints
    assert measure_use(stints, 10, until_s=find_last_asked(stints)) == pytest.approx(0.4, abs=0.02)


def test_a_job_ahead_bridges_the_time_for_a_decision(tmp_path: Path) -> None:
    used = []
    for ahead in (0, 1):
        clock = Clock()
        pool = make_pool(tmp_path / str(ahead), clock, cycle([3.0]), 1, ahead)
        drive(pool, clock, 30, cycle([1.0]))
        stints = pool.log.stints
        used.append(measure_use(stints, 1, until_s=find_last_end(stints)))

    assert used == [pytest.approx(3 / 4, abs=0.01), 1.0]


@settings(max_examples=15)  # Each job is written to the disk and synced.
@given(
    times_s=st.lists(st.floats(0.01, 50), min_size=1, max_size=8),
    think_s=st.lists(st.floats(0, 20), min_size=1, max_size=8),
    workers=st.integers(1, 4),
    ahead=st.integers(0, 3),
)
def test_workers_do_one_job_at_a_time_and_each_job_once(
    tmp_path_factory: pytest.TempPathFactory,
    times_s: list[float],
    think_s: list[float],
    workers: int,
    ahead: int,
) -> None:
    clock = Clock()
    pool = make_pool(tmp_path_factory.mktemp("run"), clock, cycle(times_s), workers, ahead)

    came = drive(pool, clock, 15, cycle(think_s))

    stints = pool.log.stints
    assert sorted(came) == sorted(f"job{number}" for number in range(15))
    assert len(stints) == 15
    assert max(pool.log.flying) <= pool.slots
    for one in stints:
        assert one.asked_s <= one.start_s < one.end_s <= pool.now_s
        assert sum(other.start_s <= one.start_s < other.end_s for other in stints) <= workers
    ends = sorted(one.end_s for one in stints)
    assert [one.end_s for one in stints] == ends or workers > 1


def test_a_job_too_many_or_twice_is_refused(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, Clock(), cycle([1.0]), 2)
    pool.submit("one", make_job())

    with pytest.raises(ValueError, match="in flight already"):
        pool.submit("one", make_job())
    pool.submit("two", make_job())
    with pytest.raises(ValueError, match="all slots are taken"):
        pool.submit("three", make_job())

    pool.close()
    with pytest.raises(IndexError):
        pool.wait()


def test_times_have_the_mean_that_is_wanted() -> None:
    drawn = [one for one, _ in zip(draw_lognormal(30.0, seed=0), range(20_000), strict=False)]
    recorded = draw_recorded([1.0, 2.0, 6.0], 30.0, seed=0)

    # The standard error of the mean is 0.4 %.
    assert sum(drawn) / len(drawn) == pytest.approx(30.0, rel=0.02)
    assert {round(next(recorded), 9) for _ in range(200)} == {10.0, 20.0, 60.0}
