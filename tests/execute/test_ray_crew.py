"""Who gets a place on a Ray cluster that has few."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.workers import make_job, take_outcome, wait_until

pytest.importorskip("ray", reason="Ray is not installed")
from autocompress.execute.ray_crew import Member
from tests.ray_pools import Open, meet, opening_pools, run

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


@pytest.fixture
def open_pool(tmp_path: Path) -> Iterator[Open]:
    with opening_pools(tmp_path) as opener:
        yield opener


class WarnedError(Exception):
    """A warning was given while the pool waited."""


@pytest.fixture
def interrupt() -> Iterator[None]:
    """Let a warning end the wait that gives it."""

    class Interrupt(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise WarnedError(record.getMessage())

    handler = Interrupt(logging.WARNING)
    logger = logging.getLogger("autocompress.execute")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)


@pytest.mark.usefixtures("interrupt")
def test_workers_join_when_there_is_room(open_pool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    other, pool = open_pool(cpus=2), open_pool(workers=2, cpus=1.5)
    run(other)
    monkeypatch.setattr("autocompress.execute.ray_watch.PLACE_S", 0.0)
    pool.submit("key", make_job())

    with pytest.raises(
        WarnedError, match=r"^Ray has a place for 0 of 2 workers: each of them asks for 1\.5 CPUs"
    ):
        pool.wait()
    other.close()
    monkeypatch.undo()
    pool.submit("meet0", make_job("meet", 0))
    pool.submit("meet1", make_job("meet", 1))
    outcomes = [take_outcome(pool)[1] for _ in range(3)]

    assert [outcome.error for outcome in outcomes] == [""] * 3
    assert pool.slots == 2


def test_who_waits_for_room_is_not_late(open_pool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = open_pool(workers=2, cpus=99)
    pool.submit("key", make_job())
    monkeypatch.setattr("autocompress.execute.ray_pool.START_S", 0.1)
    before = list(pool._crew.members)

    for _ in range(3):
        pool._look()

    assert pool._crew.members == before


@pytest.mark.usefixtures("interrupt")
def test_a_request_that_no_machine_can_meet_is_told(
    open_pool: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autocompress.execute.ray_watch.PLACE_S", 0.0)
    pool = open_pool(workers=2, gpus=0.5)
    pool.submit("key", make_job())

    with pytest.raises(WarnedError, match=r"no machine of the cluster has 1 CPUs and 0\.5 GPUs"):
        pool.wait()


@pytest.mark.slow
def test_models_and_candidates_make_room_for_each_other(open_pool: Open) -> None:
    pool = open_pool(workers=3, model_cpus=3)

    outcomes = [
        run(pool, key=f"key{place}", stage=stage)
        for place, stage in enumerate(["fast", "round", "fast", "full"])
    ]

    assert [outcome.error for outcome in outcomes] == [""] * 4


def test_a_model_does_not_wait_for_idle_workers_while_a_candidate_flies(
    open_pool: Open, tmp_path: Path
) -> None:
    pool = open_pool(workers=3, model_cpus=2)
    meet(pool)

    pool.submit("hang", make_job("hang"))
    wait_until((tmp_path / "hangs").exists)
    outcome = run(pool, stage="full")

    assert outcome.error == ""


class CountedMembers(list[Member]):
    """Counts how often someone looks through them all."""

    looks = 0

    def __iter__(self) -> Iterator[Member]:
        self.looks += 1
        return super().__iter__()


def test_jobs_that_wait_do_not_look_for_a_worker_each(open_pool: Open) -> None:
    pool = open_pool()
    pool.submit("first", make_job())
    members = pool._crew.members = CountedMembers(pool._crew.members)
    looks = []

    for place in range(9):
        before = members.looks
        pool.submit(f"key{place}", make_job())
        looks.append(members.looks - before)

    assert len(set(looks)) == 1


@pytest.mark.slow
def test_models_wait_together_for_workers(open_pool: Open) -> None:
    pool = open_pool(workers=2, model_cpus=1.5)
    pool.submit("meet0", replace(make_job("meet", 0), stage="full"))

    slots = pool.slots
    pool.submit("meet1", replace(make_job("meet", 1), stage="full"))

    assert slots == 2
    assert [take_outcome(pool)[1].error for _ in range(2)] == [""] * 2
