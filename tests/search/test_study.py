from contextlib import ExitStack
from pathlib import Path

import optuna
import pytest
import sqlalchemy

from autocompress.errors import SpecMismatchError, StudyBusyError, StudyError
from autocompress.search.lock import lock_study
from autocompress.search.storage import find_file, make_storage
from autocompress.search.study import hold_study, open_study, read_spec

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


def test_studies_of_similar_names_are_held_at_the_same_time(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"

    with ExitStack() as held:
        for name in ("a.b", "a_b", "a-b", "a b", "a/b", "a%2Fb"):
            held.enter_context(lock_study(name, url))
            with pytest.raises(StudyBusyError), lock_study(name, url):
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


def test_sqlite_writes_ahead_and_syncs_fully(tmp_path: Path) -> None:
    storage = make_storage(f"sqlite:///{tmp_path}/study.db")

    with storage.engine.connect() as connection:
        mode = connection.execute(sqlalchemy.text("PRAGMA journal_mode")).scalar()
        synchronous = connection.execute(sqlalchemy.text("PRAGMA synchronous")).scalar()

    assert (mode, synchronous) == ("wal", 2)


def test_odd_storages_are_refused() -> None:
    with pytest.raises(StudyError, match="survives the process"):
        find_file("sqlite://")
    with pytest.raises(
        StudyError, match="want sqlite:///FILE or postgresql://USER@HOST/DATABASE, got ://"
    ):
        find_file("://x")
    assert find_file("postgresql+psycopg://host/db") is None
