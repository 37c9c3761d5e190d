import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.engine import URL

from autocompress.errors import StudyError, StudyLostError
from autocompress.search.storage import (
    Opening,
    find_file,
    find_network,
    has_password,
    hide_password,
    make_storage,
    mask_url,
    normalize_storage,
    strip_password,
)
from autocompress.search.study import hold_study, open_study
from tests.postgres import PostgresServer

MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /data rw,relatime shared:2 - nfs4 server:/export rw,vers=4.2
31 30 8:2 / /data/fast rw,relatime - xfs /dev/sdb1 rw
32 22 0:41 / /my\040share rw,relatime - cifs //server/share rw
33 22 0:42 / /mnt/work rw - fuse.sshfs ada@server:/ rw
34 22 0:43 / /scratch rw - ext4 /dev/sdc1 rw
35 22 0:44 / /scratch rw - lustre server@tcp:/scratch rw
""".strip()


@given(secret=st.text(min_size=1), in_query=st.booleans())
@example(secret="a@b:c/d?e#f%20", in_query=False)
@example(secret="@@", in_query=True)
def test_a_password_is_in_no_form_of_a_url(secret: str, in_query: bool) -> None:
    query = {"password": secret, "sslmode": "require"} if in_query else {}
    url = URL.create(
        "postgresql+psycopg",
        username="ada",
        password=None if in_query else secret,
        host="db.example",
        port=5432,
        database="studies",
        query=query,
    ).render_as_string(hide_password=False)

    bare = "postgresql+psycopg://ada@db.example:5432/studies" + "?sslmode=require" * in_query
    assert has_password(url)
    assert strip_password(url) == bare
    assert not has_password(bare)
    assert mask_url(bare) == strip_password(bare) == bare
    assert mask_url(url).replace(":***@", "@").replace("password=***&", "") == bare


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:one@two@db/studies",
        "postgresql://ada:one@two/three@db/studies",
        "postgresql://ada:one@two?three@db/studies",
        "postgresql://ada:two",
        "postgresql://ada:two/studies",
    ],
)
def test_where_a_password_may_end_anywhere_nothing_is_shown(url: str) -> None:
    assert mask_url(url) == "postgresql://***"
    with pytest.raises(StudyError) as caught:
        find_file(url)

    assert "two" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_message_does_not_repeat_a_password() -> None:
    url = "postgresql://ada:a%40b@db/studies?sslpassword=key"

    shown = hide_password(f"cannot read a@b, a%40b or key of {url}", url)

    assert (
        shown == "cannot read ***, *** or *** of postgresql://ada:***@db/studies?sslpassword=***"
    )


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_psycopg_3_speaks_to_postgresql(scheme: str) -> None:
    assert normalize_storage(f"{scheme}://ada@db/x") == "postgresql+psycopg://ada@db/x"
    assert normalize_storage(normalize_storage("a/b.db")) == "sqlite:///a/b.db"


@pytest.mark.parametrize("scheme", ["postgresql+psycopg2", "mysql", "mysql+pymysql", ""])
def test_other_databases_are_refused(scheme: str) -> None:
    with pytest.raises(StudyError, match="want sqlite:///FILE or postgresql://") as caught:
        normalize_storage(f"{scheme}://ada:secret@db/x")

    assert "secret" not in str(caught.value)


def test_odd_storages_are_refused() -> None:
    with pytest.raises(StudyError, match="survives the process"):
        find_file("sqlite://")
    assert find_file("postgresql+psycopg://host/db") is None


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/runs/study.db", "nfs4"),
        ("/data", "nfs4"),
        ("/database/study.db", ""),
        ("/data/fast/study.db", ""),
        ("/my share/study.db", "cifs"),
        ("/mnt/work/runs/study.db", "fuse.sshfs"),
        ("/scratch/study.db", "lustre"),
        ("/srv/study.db", ""),
    ],
)
def test_the_innermost_and_latest_mount_says_where_a_file_lies(path: str, kind: str) -> None:
    assert find_network(Path(path), MOUNTS) == kind


def test_the_mounts_of_this_machine_are_understood(tmp_path: Path) -> None:
    assert isinstance(find_network(tmp_path), str)


def test_sqlite_writes_ahead_and_syncs_fully(tmp_path: Path) -> None:
    storage = make_storage(f"sqlite:///{tmp_path}/study.db")

    with storage.engine.connect() as connection:
        mode = connection.execute(text("PRAGMA journal_mode")).scalar()
        synchronous = connection.execute(text("PRAGMA synchronous")).scalar()

    assert (mode, synchronous) == ("wal", 2)


def test_reading_a_file_changes_and_leaves_nothing(tmp_path: Path) -> None:
    with hold_study("one", str(tmp_path / "study.db"), {}):
        pass
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    study = open_study("one", str(tmp_path / "study.db"))
    with pytest.raises(Exception, match="commit") as caught:
        study.set_user_attr("mine", 1)
    vars(study._storage)["_backend"].engine.dispose()

    assert "readonly" in str(caught.value.__cause__)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_without_tables_gets_none_by_reading(tmp_path: Path) -> None:
    (tmp_path / "study.db").touch()

    with pytest.raises(StudyError, match="studies there: none"):
        open_study("one", str(tmp_path / "study.db"))

    assert (tmp_path / "study.db").stat().st_size == 0


def test_a_role_that_may_only_read_reads(postgres: PostgresServer) -> None:
    url = postgres.make_database()
    with hold_study("one", url, {"seed": 0}) as held:
        held.study.set_user_attr("known", "yes")
        reader = postgres.make_reader(url)

        study = open_study("one", reader)

        assert study.user_attrs["known"] == "yes"
    with (
        pytest.raises(StudyError, match="permission denied"),
        hold_study("one", reader, {"seed": 0}),
    ):
        pass


def test_a_database_that_keeps_bytes_holds_text_as_well(postgres: PostgresServer) -> None:
    postgres.execute("CREATE DATABASE bytes ENCODING 'SQL_ASCII' TEMPLATE template0")
    url = postgres.make_url("bytes")

    with hold_study("größe", url, {"seed": 0}) as held:
        held.study.set_user_attr("known", "ja, größer")

    assert open_study("größe", url).user_attrs["known"] == "ja, größer"


def test_an_administrator_who_reads_cannot_write(postgres: PostgresServer) -> None:
    url = postgres.make_database()
    with hold_study("one", url, {}):
        study = open_study("one", url)

        with pytest.raises(Exception, match="commit") as caught:
            study.set_user_attr("mine", 1)

    assert "read-only transaction" in str(caught.value.__cause__)


def test_reading_an_empty_database_makes_nothing(postgres: PostgresServer) -> None:
    url = postgres.make_database()

    with pytest.raises(StudyError, match="studies there: none"):
        open_study("one", url)

    name = url.rpartition("/")[2]
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert postgres.execute(tables, name) == ["0"]


@pytest.mark.parametrize(
    ("change", "kind", "sentence"),
    [
        (("battery", "cell"), StudyError, "authentication failed.*give the password by PGPASSW"),
        (("/postgres", "/nothing"), StudyError, 'database "nothing" does not exist; make it'),
        (("127.0.0.1", "no-such-host.invalid"), StudyLostError, "cannot be reached"),
    ],
)
def test_a_refusal_says_what_to_do_and_no_password(
    change: tuple[str, str], kind: type[StudyError], sentence: str, postgres: PostgresServer
) -> None:
    with pytest.raises(StudyError, match=sentence) as caught:
        open_study("one", postgres.url.replace(*change))

    assert type(caught.value) is kind
    assert "staple" not in str(caught.value)


def test_a_server_that_is_down_may_come_back(postgres: PostgresServer) -> None:
    postgres.stop(immediate=True)

    with pytest.raises(StudyLostError, match="cannot be reached: connection to server"):
        make_storage(postgres.url, Opening(study="one"))


def test_a_session_says_whose_it_is(postgres: PostgresServer) -> None:
    storage = make_storage(postgres.make_database(), Opening(study="one"))

    with storage.engine.connect() as connection:
        name = connection.execute(text("SHOW application_name")).scalar()

    assert json.dumps(name).count(" ") == 3
    assert str(name).startswith("autocompress ")
    assert str(name).endswith(" one")


@pytest.mark.parametrize("read_only", [True, False])
def test_the_server_soon_ends_the_session_of_a_machine_that_vanished(
    postgres: PostgresServer, read_only: bool
) -> None:
    url = postgres.make_database()
    make_storage(url)
    storage = make_storage(url, Opening(read_only=read_only))

    with storage.engine.connect() as connection:
        rows = connection.execute(text("SELECT name, setting FROM pg_settings"))
        found = {str(name): str(setting) for name, setting in rows}

    names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
    assert [found[name] for name in names] == ["10", "5", "3"]
    assert found["default_transaction_read_only"] == ("on" if read_only else "off")
