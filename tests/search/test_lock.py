import os
import socket
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import StudyBusyError, StudyError, StudyLostError
from autocompress.search.lock import (
    Holder,
    ServerLock,
    connect,
    enter_writer,
    find_holder,
    hash_name,
    lock_study,
    read_holder,
    split_key,
    take_lock,
)
from tests.postgres import PostgresServer

NAMES = ("a.b", "a_b", "a-b", "a b", "a/b", "a%2Fb")


@pytest.fixture(params=["file", "server"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return str(tmp_path / "deep" / "study.db")
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.make_database()


@given(names=st.sets(st.text(), min_size=2))
def test_names_have_keys_of_64_bits_of_their_own(names: set[str]) -> None:
    keys = {hash_name(name) for name in names}

    assert len(keys) == len(names)
    assert all(-(2**63) <= key < 2**63 for key in keys)
    for key in keys:
        halves = split_key(key)
        assert (halves["high"] << 32 | halves["low"]) == key % 2**64


def test_studies_of_similar_names_are_held_at_the_same_time(url: str) -> None:
    with ExitStack() as held:
        for name in NAMES:
            held.enter_context(lock_study(name, url))
            with pytest.raises(StudyBusyError), lock_study(name, url):
                pass


def test_a_lock_is_kept_until_it_is_released(url: str) -> None:
    lock = take_lock("one", url)
    lock.check()

    with pytest.raises(StudyBusyError):
        take_lock("one", url)
    lock.release()
    lock.release()
    again = take_lock("one", url)

    again.check()
    again.release()


def test_who_holds_a_study_is_known_to_others(url: str) -> None:
    assert find_holder("one", url) is None
    with lock_study("one", url):
        holder = find_holder("one", url)
        other = find_holder("two", url)
    after = find_holder("one", url)

    assert holder is not None
    assert (holder.host, holder.process) == (socket.gethostname(), os.getpid())
    assert other is after is None


def test_who_is_refused_is_told_by_whom(postgres: PostgresServer) -> None:
    url = postgres.make_database()
    who = f"process {os.getpid()} on {socket.gethostname()}"

    with (
        lock_study("one", url),
        pytest.raises(StudyBusyError, match=f"another controller, {who}; wait"),
        lock_study("one", url),
    ):
        pass


def test_the_same_name_in_another_database_is_another_study(postgres: PostgresServer) -> None:
    with lock_study("one", postgres.make_database()):
        other = postgres.make_database()
        with lock_study("one", other):
            pass
        assert find_holder("one", other) is None


def test_a_lock_whose_session_ended_is_lost_for_good(postgres: PostgresServer) -> None:
    url = postgres.make_database()
    lock = take_lock("one", url)
    assert isinstance(lock, ServerLock)

    postgres.execute(f"SELECT pg_terminate_backend({lock.session[0]})")

    for _ in range(2):
        with pytest.raises(StudyLostError):
            lock.check()
    with lock_study("one", url), pytest.raises(StudyLostError):
        lock.check()


def test_a_lock_is_lost_when_the_server_stops(postgres: PostgresServer) -> None:
    url = postgres.make_database()
    lock = take_lock("one", url)

    postgres.stop(immediate=True)
    with pytest.raises(StudyLostError):
        lock.check()
    with pytest.raises(StudyLostError):
        take_lock("one", url, lock)
    postgres.start()

    with pytest.raises(StudyLostError, match="has ended"):
        lock.check()
    take_lock("one", url, lock).release()


def test_a_session_that_was_lost_does_not_keep_its_study(postgres: PostgresServer) -> None:
    url = postgres.make_database()
    lost = take_lock("one", url)  # The server does not know that nobody uses its session.

    with pytest.raises(StudyBusyError):
        take_lock("one", url)
    with pytest.raises(StudyLostError, match="still held the lock"):
        take_lock("one", url, lost)

    taken = take_lock("one", url, lost)
    with pytest.raises(StudyLostError):
        lost.check()
    taken.check()
    taken.release()


def test_a_lost_session_is_known_whatever_it_is_called(postgres: PostgresServer) -> None:
    url = f"{postgres.make_database()}?application_name=mine"
    lost = take_lock("one", url)

    with pytest.raises(StudyLostError, match="still held the lock"):
        take_lock("one", url, lost)

    take_lock("one", url, lost).release()


def test_a_session_that_others_share_is_refused(postgres: PostgresServer) -> None:
    url = postgres.make_database()
    database = url.rpartition("/")[2]
    postgres.execute(f"ALTER DATABASE {database} SET autocompress.session = 'somebody'")

    with pytest.raises(StudyError, match="a pooler lends the same session"):
        take_lock("one", url)


def test_a_lock_file_that_a_person_deletes_ends_its_holder(tmp_path: Path) -> None:
    url = str(tmp_path / "study.db")
    lock = take_lock("one", url)
    (path,) = tmp_path.glob("*.lock")

    path.unlink()
    with pytest.raises(StudyError, match=r"lock file .* was deleted"):
        lock.check()
    with lock_study("one", url), pytest.raises(StudyError, match="was deleted"):
        lock.check()
    lock.release()


def test_the_session_of_another_controller_is_left_alone(postgres: PostgresServer) -> None:
    url = postgres.make_database()
    lost = take_lock("one", url)
    lost.release()

    other = take_lock("one", url)
    with pytest.raises(StudyBusyError):
        take_lock("one", url, lost)

    other.check()
    other.release()


def test_whoever_wrote_before_is_ended_by_the_next_holder(postgres: PostgresServer) -> None:
    url = postgres.make_database()
    with psycopg.connect(url.replace("+psycopg", "")) as stale, connect(url, "") as bystander:
        enter_writer(stale, "one")
        stale.execute("CREATE TABLE half (done int)")  # In a transaction, with locks.

        with lock_study("two", url):
            stale.execute("SELECT 1")
        with lock_study("one", url), pytest.raises(psycopg.OperationalError):
            stale.execute("INSERT INTO half VALUES (1)")

        assert bystander.exec_driver_sql("SELECT 1").scalar() == 1


def test_a_folder_that_refuses_the_lock_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StudyError, match=r"study 'one': cannot write .*study\.db\.one\.lock"):
        take_lock("one", str(tmp_path / "file" / "study.db"))


@pytest.mark.parametrize("text", [None, "", "psql", "autocompress", "autocompress host"])
def test_sessions_of_other_programs_say_nothing(text: str | None) -> None:
    assert read_holder((1, False, text, None)) == Holder()
    assert "unknown" in Holder().describe()
