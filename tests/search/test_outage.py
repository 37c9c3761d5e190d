"""A database that goes away in the middle of a search, and comes back."""

import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import OperationalError, PendingRollbackError

from autocompress.errors import StudyError, StudyLostError
from autocompress.search.controller import Wiring, hold_controller
from autocompress.search.outage import name_outage, outlast
from tests.fakes import FakeEvaluator
from tests.formula import count_runs
from tests.laws import read_trajectory
from tests.postgres import PostgresServer
from tests.search.test_kills import MODES, PLACES, list_wrong, make_service, run_through
from tests.service import serve


class Outage:
    """Takes the database away at some checkpoints of a search."""

    def __init__(self, strikes: Callable[[str, int], bool]) -> None:
        self.passed: Counter[str] = Counter()
        self.happened: list[str] = []
        self._strikes = strikes

    def __call__(self, name: str) -> None:
        """Raise when it is time."""
        if self._strikes(name, self.passed[name]):
            self.happened.append(name)
            self.passed[name] += 1
            raise StudyLostError("fake", "connection refused")
        self.passed[name] += 1


def search(folder: Path, mode: str, outage: Outage, **changes: Any) -> Counter[str]:
    """Return how often each key was evaluated in a search that an outage interrupts."""
    changes = {"evaluations": 8, "is_watched": False} | changes  # One candidate in 8 fails.
    service = make_service(folder, **(MODES[mode] | changes))
    serve(service, outage)
    assert list_wrong(service) == []
    return count_runs(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of searches that nothing interrupts, one for each mode."""
    root = tmp_path_factory.mktemp("whole")
    for mode in ("serial", "batch"):
        run_through(root / mode, mode, evaluations=8, is_watched=False)
    return root


@pytest.mark.parametrize(
    "mode",
    ["batch", *(pytest.param(one, marks=pytest.mark.slow) for one in ("serial", "asynchronous"))],
)  # Nine searches of a second each.
@pytest.mark.parametrize("place", PLACES)
def test_an_outage_after_any_write_changes_nothing(
    tmp_path: Path, whole: Path, place: str, mode: str
) -> None:
    outage = Outage(lambda name, passed: name == place and passed in {0, 2})

    runs = search(tmp_path, mode, outage)

    assert outage.happened
    if mode != "asynchronous":
        steps = read_trajectory(make_service(tmp_path, **MODES[mode]).settings)
        assert steps == read_trajectory(make_service(whole / mode, **MODES[mode]).settings)
        assert runs == count_runs(whole / mode)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_outages_at_any_moment_evaluate_nothing_twice(
    tmp_path: Path, whole: Path, seed: int
) -> None:
    rng = random.Random(seed)
    outage = Outage(lambda _name, _passed: rng.random() < 0.15)

    runs = search(tmp_path, "batch", outage)

    assert len(outage.happened) > 2
    steps = read_trajectory(make_service(tmp_path, **MODES["batch"]).settings)
    assert steps == read_trajectory(make_service(whole / "batch", **MODES["batch"]).settings)
    assert runs == count_runs(whole / "batch")


def refuse(error: Exception) -> StorageInternalError:
    """Return what Optuna makes of an error of the database."""
    wrapped = StorageInternalError("An exception is raised during the commit.")
    wrapped.__cause__ = OperationalError("INSERT", {"secret": 1}, error)
    return wrapped


def raise_inside(error: Exception) -> str:
    """Return the sentence that an error becomes."""
    with pytest.raises(StudyError) as raised, name_outage("digits"):
        raise error
    return f"{type(raised.value).__name__}: {raised.value}"


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError("connection to server failed: Connection refused"),
        psycopg.InterfaceError("the connection is closed"),
        psycopg.errors.ConnectionTimeout("connection timeout expired"),
        psycopg.errors.AdminShutdown("terminating connection"),
        psycopg.errors.CannotConnectNow("the database system is starting up"),
        psycopg.errors.TooManyConnections("sorry, too many clients already"),
        psycopg.errors.QueryCanceled("canceling statement due to statement timeout"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_server_that_is_away_is_waited_for(error: Exception) -> None:
    sentence = raise_inside(refuse(error))

    assert sentence.startswith("StudyLostError: study 'digits': the database cannot be reached: ")
    assert str(error) in sentence
    assert raise_inside(OperationalError("SELECT", {}, error)) == sentence


def test_a_connection_that_was_lost_in_a_transaction_is_made_again() -> None:
    error = StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = PendingRollbackError("Can't reconnect until it is rolled back.")

    assert raise_inside(error).startswith("StudyLostError: ")


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (psycopg.errors.DiskFull("could not extend file: No space left on device"), "make room"),
        (psycopg.errors.ReadOnlySqlTransaction("in a read-only transaction"), "allow writing"),
        (sqlite3.OperationalError("database or disk is full"), "make room"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "allow writing"),
        (sqlite3.OperationalError("disk I/O error"), "make room"),
        (sqlite3.DatabaseError("database disk image is malformed"), "go on"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_waiting_does_not_mend_ends_the_search(error: Exception, remedy: str) -> None:
    sentence = raise_inside(refuse(error))

    assert sentence.startswith(
        f"StudyError: study 'digits': the database cannot be written or read: {error}"
    )
    assert remedy in sentence
    assert "secret" not in sentence


class Clock:
    """Tells what it is told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.now_s


@pytest.mark.parametrize("writes", [0, 1])
def test_a_database_that_goes_away_before_every_write_is_given_up(writes: int) -> None:
    clock, begun = Clock(), 0

    def work() -> str:
        nonlocal begun
        begun += 1
        if begun == 10:
            return "done"
        clock.now_s += 30
        raise StudyLostError("digits", "canceling statement due to statement timeout")

    def search() -> str:
        return outlast(
            work, lambda: None, patience_s=100, count_writes=lambda: writes * begun, clock=clock
        )

    if writes:
        assert search() == "done"
    else:
        with pytest.raises(StudyError, match="statement timeout; given up after 100 s"):
            search()
        assert clock.now_s == 150  # The first of the outages began at 30.


def test_a_database_may_go_away_while_the_dense_model_is_trained(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    service = make_service(tmp_path, storage=postgres.make_database(), **MODES["batch"])
    trained = []

    def train() -> FakeEvaluator:
        postgres.stop(immediate=True)
        postgres.start()
        trained.append(FakeEvaluator())
        return trained[-1]

    wiring = Wiring(make_evaluator=train, make_executor=service.make_executor)
    with hold_controller(service.settings, wiring) as controller:
        controller.run()

    assert len(trained) == 1
    assert list_wrong(service) == []
