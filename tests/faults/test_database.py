"""(d) The database goes away in the middle of a search: it crashes, or cannot be reached."""

import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from autocompress.execute.settings import ExecuteSettings
from tests.acknowledged import count_acknowledged, read_notes
from tests.faults.drive import (
    driving,
    make_service,
    read_endings,
    run_through,
    serve_and_say,
    wait_for_decisions,
    wait_for_end,
)
from tests.faults.proxy import Proxy, forwarding
from tests.faults.tally import Tally
from tests.formula import count_runs
from tests.laws import read_trajectory
from tests.postgres import PostgresServer
from tests.service import Service

SEED = 4
UNREACHABLE_S = 30.0


@pytest.mark.parametrize(
    ("mode", "restarts"),
    [
        ("batch", 1),
        pytest.param("batch", 5, marks=pytest.mark.faults),
        pytest.param("asynchronous", 5, marks=pytest.mark.faults),
    ],
)
@pytest.mark.timeout(300)
def test_a_search_outlasts_restarts_of_the_database(
    tmp_path: Path, postgres: PostgresServer, tally: Tally, mode: str, restarts: int
) -> None:
    rng = random.Random(f"{SEED} {mode} {restarts}")
    service = make_service(tmp_path / "outlasting", mode, evaluations=6 + 8 * restarts)
    service = replace(service, storage=postgres.make_database(), pool="subprocess", delay_s=0.2)

    with driving(serve_and_say, service) as process:
        for one in range(restarts):
            wait_for_decisions(service, 2 + 6 * one, process)
            process.join(rng.uniform(0.0, 0.5))  # A seeded moment.
            postgres.stop(immediate=True)
            tally.inject(f"PostgreSQL crashed and restarted, {mode}")
            process.join(rng.uniform(0.0, 1.0))
            assert process.is_alive(), read_endings(service)
            postgres.start()
        assert wait_for_end(process) == 0, read_endings(service)

    assert {note.pid for note in read_notes(Path(service.folder))} == {process.pid}
    assert count_repeated(service) == 0
    tally.check(service, run_through(tmp_path / "whole", service))


def count_repeated(service: Service) -> int:
    """Return how many evaluations were made more often than a search without outages would."""
    runs = count_runs(Path(service.folder))
    attempts = service.settings.search.attempts
    return sum(
        max(0, runs[key] - (attempts if energy is None else 1))
        for _, key, energy, *_ in read_trajectory(service.settings)
    )


def refuse(proxy: Proxy) -> Callable[[], None]:
    """Reset all connections and refuse new ones."""
    proxy.refuse()
    return proxy.accept


def stall(proxy: Proxy) -> Callable[[], None]:
    """Let everything hang; in the end it goes on as if nothing had been."""
    proxy.stall()
    return proxy.go_on


def stall_and_cut(proxy: Proxy) -> Callable[[], None]:
    """Let everything hang; in the end the controller's connections are dead, the server's not."""
    proxy.stall()

    def come_back() -> None:
        proxy.cut()
        proxy.go_on()

    return come_back


def cut(proxy: Proxy) -> Callable[[], None]:
    """Cut the controller off, unnoticed by the server, and let new connections hang."""
    proxy.stall()
    proxy.cut()
    return proxy.go_on


NETWORKS = {"refused": refuse, "hanging": stall, "hanging, then cut": stall_and_cut, "cut": cut}


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_a_search_outlasts_a_database_that_cannot_be_reached(
    tmp_path: Path, postgres: PostgresServer, tally: Tally
) -> None:
    rng = random.Random(SEED)
    whole = None

    with ExitStack() as stack:
        running = []
        for name, strike in NETWORKS.items():
            proxy = stack.enter_context(forwarding(postgres.port))
            service = make_service(
                tmp_path / name,
                evaluations=40,
                storage=postgres.make_database().replace(f":{postgres.port}/", f":{proxy.port}/"),
                delay_s=0.2,
                execute=ExecuteSettings(storage_patience_s=4 * UNREACHABLE_S),
            )
            process = stack.enter_context(driving(serve_and_say, service))
            wait_for_decisions(service, 3, process)
            process.join(rng.uniform(0.0, 0.5))
            running.append((name, service, process, strike(proxy)))
            tally.inject(f"PostgreSQL unreachable for {UNREACHABLE_S:.0f} s: {name}")
        running[-1][2].join(UNREACHABLE_S)
        reached = [count_acknowledged(Path(service.folder)) for _, service, _, _ in running]
        for name, service, process, come_back in running:
            assert process.is_alive(), (name, read_endings(service))
            come_back()
        for name, service, process, _ in running:
            assert wait_for_end(process) == 0, (name, read_endings(service))
            whole = whole or run_through(tmp_path / "whole", service)
            tally.check(service, whole)

    assert all(3 <= one < 41 for one in reached)
