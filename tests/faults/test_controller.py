"""(a) The controller is killed: at any moment, and between any two writes."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.drive import PLACES, die_at_places, finish, make_service, run_through
from tests.faults.tally import Tally
from tests.postgres import PostgresServer
from tests.service import kill_often

SEED = 4


@pytest.mark.parametrize(
    ("mode", "kills"),
    [
        ("batch", 1),
        pytest.param("batch", 12, marks=pytest.mark.faults),
        pytest.param("asynchronous", 12, marks=pytest.mark.faults),
    ],
)
@pytest.mark.timeout(300)
def test_a_controller_that_is_killed_loses_nothing(
    tmp_path: Path, postgres: PostgresServer, tally: Tally, mode: str, kills: int
) -> None:
    rng = random.Random(f"{SEED} {mode} {kills}")
    service = make_service(tmp_path / "killed", mode, evaluations=12 + 5 * kills)
    service = replace(service, storage=postgres.make_database())
    places = [rng.choice(PLACES[:3])] if kills == 1 else rng.sample(PLACES[:-1], kills // 2)

    died = die_at_places(service, places, rng)
    died += kill_often(service, [rng.uniform(0.1, 0.6) for _ in range(kills - len(died))])
    tally.inject(f"controller killed, PostgreSQL, {mode}", len(died))
    finish(service)

    assert len(died) == kills
    tally.check(service, run_through(tmp_path / "whole", service))
