import threading
from pathlib import Path

import optuna
import pytest
import sqlalchemy

from autocompress.errors import SpecMismatchError, StudyBusyError, StudyError, StudyLostError
from autocompress.search.outage import name_outage
from autocompress.search.storage import make_storage
from autocompress.search.study import hold_study, open_study, read_spec
from tests.postgres import PostgresServer

SPEC = {"seed": 0, "budget": {"macs": 0.5}}


def hold(storage: str) -> None:
    with hold_study("one", storage, SPEC):
        pass


def test_a_study_is_made_once_and_opened_for_reading(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/deep/study.db"

    hold(storage)
    hold(storage)

    assert read_spec(open_study("one", storage)) == SPEC
    assert open_study("one", f"{tmp_path}/deep/study.db").direction.name == "MINIMIZE"


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    storage = str(tmp_path / "study.db")
    hold(storage)

    with (
        pytest.raises(SpecMismatchError, match=r"budget\.macs is 0\.5 in the study but 0\.25"),
        hold_study("one", storage, {"seed": 0, "budget": {"macs": 0.25}}),
    ):
        pass


def test_a_second_controller_is_refused(tmp_path: Path) -> None:
    storage = str(tmp_path / "study.db")

    with hold_study("one", storage, SPEC):
        with pytest.raises(StudyBusyError, match="in use by another controller"):
            hold(storage)
        with hold_study("two", storage, SPEC):
            pass

    hold(storage)


@pytest.mark.parametrize("last", ["CREATE TABLE trials", "INSERT INTO alembic_version"])
def test_a_database_is_made_whole_or_not_at_all(tmp_path: Path, last: str) -> None:
    def stop(*given: object) -> None:
        if last in str(given[2]):
            raise KeyboardInterrupt

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", stop)
    with pytest.raises(KeyboardInterrupt):
        hold(str(tmp_path / "study.db"))
    sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", stop)

    # A reader would make the tables that are missing, and the writer would fail in its turn.
    with pytest.raises(StudyError, match="no database at"):
        open_study("one", str(tmp_path / "study.db"))
    hold(str(tmp_path / "study.db"))
    assert read_spec(open_study("one", str(tmp_path / "study.db"))) == SPEC


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    storage = str(tmp_path / "study.db")
    with pytest.raises(StudyError, match="no database at"):
        open_study("one", storage)
    hold(storage)

    with pytest.raises(StudyError, match=r"'two' is not in .* studies there: one"):
        open_study("two", storage)


def test_newer_and_foreign_studies_are_refused(tmp_path: Path) -> None:
    storage = str(tmp_path / "study.db")
    hold(storage)
    with hold_study("one", storage, SPEC) as held:
        held.study.set_user_attr("version", 3)
    foreign = optuna.create_study(
        study_name="foreign", storage=make_storage(f"sqlite:///{storage}"), direction="minimize"
    )
    foreign.ask()

    with pytest.raises(StudyError, match="want version 2, got 3"):
        open_study("one", storage)
    with (
        pytest.raises(StudyError, match="not made by this package"),
        hold_study("foreign", storage, SPEC),
    ):
        pass


class FalseClock:
    """A clock that only sleeping moves, and what happens then."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept_s: list[float] = []

    def read(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds


def test_a_study_in_a_file_is_opened_again_at_once(tmp_path: Path) -> None:
    with hold_study("one", str(tmp_path / "study.db"), SPEC) as held:
        before = held.study
        held.reopen(0.0)
        held.check()

        assert held.study is not before
        with pytest.raises(StudyBusyError):
            hold(str(tmp_path / "study.db"))


def test_studies_begin_at_once_in_an_empty_database(postgres: PostgresServer) -> None:
    url = postgres.make_database()
    start = threading.Barrier(4)
    errors: list[BaseException] = []

    def begin(name: str) -> None:
        start.wait()
        try:
            with hold_study(name, url, SPEC) as held:
                held.study.add_trial(optuna.trial.create_trial(value=0.0))
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=begin, args=(f"study {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert all(len(open_study(f"study {number}", url).get_trials()) == 1 for number in range(4))


def test_nothing_is_written_without_the_lock_after_a_restart(postgres: PostgresServer) -> None:
    with hold_study("one", postgres.make_database(), SPEC) as held:
        held.study.set_user_attr("step", 1)
        postgres.stop(immediate=True)
        with pytest.raises(StudyLostError), name_outage("one"):
            held.study.set_user_attr("step", 2)
        postgres.start()
        # The pool would connect again by itself, while another controller may have begun.
        for _ in range(2):
            with pytest.raises(StudyLostError):
                held.study.set_user_attr("step", 3)

        held.reopen(60.0)

        assert held.study.user_attrs["step"] == 1
        held.study.set_user_attr("step", 4)
        held.check()


def test_waiting_for_a_database_takes_as_long_as_it_is_away(postgres: PostgresServer) -> None:
    clock = FalseClock()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if len(clock.slept_s) == 3:
            postgres.start()

    with hold_study("one", postgres.make_database(), SPEC) as held:
        postgres.stop(immediate=True)
        held.reopen(60.0, clock.read, sleep)
        held.check()

    assert clock.slept_s == [0.5, 1.0, 2.0]


def test_a_database_that_stays_away_is_given_up(postgres: PostgresServer) -> None:
    clock = FalseClock()
    with hold_study("one", postgres.make_database(), SPEC) as held:
        postgres.stop(immediate=True)

        with pytest.raises(StudyError, match=r"cannot be reached.*given up after 60 s") as caught:
            held.reopen(60.0, clock.read, clock.sleep)

    assert not isinstance(caught.value, StudyLostError)
    assert clock.now_s == 60.0
    assert max(clock.slept_s) == 15.0


def test_a_study_that_another_controller_took_is_not_opened_again(
    postgres: PostgresServer,
) -> None:
    url = postgres.make_database()
    with hold_study("one", url, SPEC) as held:
        held.close()  # As when the server ended its session.
        with hold_study("one", url, SPEC) as other:
            with pytest.raises(StudyLostError):
                held.check()
            with pytest.raises(StudyBusyError):
                held.reopen(60.0)

            other.study.set_user_attr("step", 1)
            other.check()


def test_a_study_that_is_gone_is_not_begun_again(postgres: PostgresServer) -> None:
    url = postgres.make_database()
    with hold_study("one", url, SPEC) as held:
        optuna.delete_study(study_name="one", storage=make_storage(url))

        with pytest.raises(StudyError, match="'one' is gone from the database"):
            held.reopen(60.0)

    with pytest.raises(StudyError, match="studies there: none"):
        open_study("one", url)


def test_a_study_that_cannot_be_held_lets_others_hold_it(postgres: PostgresServer) -> None:
    url = postgres.make_database()
    hold(url)
    with pytest.raises(SpecMismatchError), hold_study("one", url, {"seed": 1}):
        pass

    hold(url)
