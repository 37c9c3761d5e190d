import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import URL

from autocompress.cli import main
from autocompress.cli.place import (
    FILE_VARIABLE,
    VARIABLE,
    choose_storage,
    hide_passwords,
    make_again,
    name_storage,
    read_environment,
    warn_of_network,
)
from autocompress.errors import SettingError, StudyError
from tests.cli.conftest import Commands
from tests.cli.test_search import SETTINGS
from tests.postgres import PASSWORD, PostgresServer

QUOTED = PASSWORD.replace("/", "%2F").replace("@", "%40")
# Any part of the password that says most of it, however it is quoted.
TELLING = ("correct-horse", "staple", "battery")


def test_the_first_to_name_a_database_is_followed(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql://file\n")
    by_file = {FILE_VARIABLE: str(secret)}
    by_both = {VARIABLE: "postgresql://variable", **by_file}

    assert choose_storage("a.db", "b.db", by_both) == "a.db"
    assert choose_storage("", "b.db", by_both) == "b.db"
    assert choose_storage("", "", by_both) == "postgresql://variable"
    assert choose_storage("", "", by_file) == "postgresql://file"
    assert choose_storage("", "", {}) == ""


def test_a_file_of_a_secret_that_says_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "url").touch()

    with pytest.raises(SettingError, match="found nothing"):
        read_environment({FILE_VARIABLE: str(tmp_path / "url")})
    with pytest.raises(SettingError, match=f"{FILE_VARIABLE}: cannot read"):
        read_environment({FILE_VARIABLE: str(tmp_path / "absent")})


@given(st.text(st.characters(codec="ascii", exclude_categories=("C", "Z")), min_size=1))
def test_a_password_is_hidden_wherever_a_url_is_written(secret: str) -> None:
    url = URL.create("postgresql", username="ada", password=secret, host="db", database="x")
    written = url.render_as_string(hide_password=False)

    for text in (f"cannot open {written}: no", f"--storage={written}#name"):
        hidden = hide_passwords(text)
        assert hidden == text.replace(written, "postgresql://ada:***@db/x")
        assert hide_passwords(hidden) == hidden
        command, note = make_again(text).split("\n")
        assert command == text.replace(written, "postgresql://ada@db/x")
        assert VARIABLE in note


def test_a_password_that_was_not_quoted_is_hidden_too() -> None:
    text = "postgresql://ada:a@b/c@db/x?sslmode=require&sslpassword=key and more"

    shown = "postgresql://ada:***@db/x?sslmode=require&sslpassword=*** and more"
    assert hide_passwords(text) == shown


@pytest.mark.parametrize(
    "text", ["autocompress resume a --storage sqlite:///a.db", "see https://x.org/a?b=c, @me", ""]
)
def test_what_holds_no_password_stays(text: str) -> None:
    assert hide_passwords(text) == make_again(text) == text


def test_the_environment_names_a_database_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "postgresql://ada:secret@db/x")

    assert name_storage("postgresql://ada:secret@db/x") == ""
    assert name_storage("a b.db") == " --storage 'a b.db'"


def test_a_file_on_a_network_file_system_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = "22 1 8:1 / / rw - ext4 /dev/sda1 rw"
    warn_of_network(str(tmp_path / "study.db"), local)
    warn_of_network("postgresql://db/x", local.replace("ext4", "nfs4"))
    silent = capsys.readouterr().err
    warn_of_network(str(tmp_path / "study.db"), local.replace("ext4", "nfs4"))

    assert silent == ""
    said = capsys.readouterr().err
    assert said.startswith("warning: ")
    assert "lies on a network file system (nfs4)" in said
    assert "want PostgreSQL" in said


def test_commands_find_a_study_by_the_environment(
    commands: Commands, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, storage)
    by_variable = commands.run("status", "synthetic")
    monkeypatch.delenv(VARIABLE)
    (tmp_path / "url").write_text(storage)
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "url"))
    by_file = commands.run("pareto", "synthetic")
    monkeypatch.delenv(FILE_VARIABLE)

    lost = commands.run("status", "synthetic")

    assert (by_variable.code, by_file.code, lost.code) == (0, 0, 1), by_variable.err + by_file.err
    assert "no database at runs/synthetic/study.db" in lost.err


def test_a_password_in_a_command_is_warned_of_and_hidden(commands: Commands) -> None:
    shown = commands.run("status", "one", "--storage", f"mysql://ada:{QUOTED}@127.0.0.1:1/x")

    assert shown.code == 1
    assert shown.err.startswith(
        "warning: others on this machine, and who sees Ray's jobs, can read a password"
    )
    assert find_secrets(shown.out + shown.err) == []


def test_a_traceback_hides_a_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # Put back afterwards.
    where = f"mysql://ada:{QUOTED}@127.0.0.1:1/x"
    with pytest.raises(StudyError) as caught:
        main(["--debug", "status", "one", "--storage", where])

    sys.excepthook(ValueError, ValueError(f"in {where}"), caught.tb)

    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "ValueError: in mysql://ada:***@127.0.0.1:1/x" in shown
    assert find_secrets(shown) == []


def find_secrets(text: str) -> list[str]:
    return [part for part in (*TELLING, QUOTED) if part in text]


def read_all(folder: Path) -> str:
    """Return every name and every file below a folder, as far as it is text."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    contents = [path.read_bytes().decode("latin-1") for path in files]
    return "\n".join([*(str(path) for path in files), *contents])


@pytest.mark.slow  # Three searches, each in a process of its own.
@pytest.mark.timeout(600)
def test_a_search_writes_its_password_nowhere(
    postgres: PostgresServer, commands: Commands, tmp_path: Path
) -> None:
    url = postgres.make_database()
    (tmp_path / "tiny.toml").write_text(SETTINGS)
    (tmp_path / "next.toml").write_text(SETTINGS.replace('"tiny"', '"next"'))
    environment = {**os.environ, "PYTHONWARNINGS": "default"}

    def run(*arguments: str, **variables: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "autocompress", *arguments],
            cwd=tmp_path,
            env=environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    by_option = ("--storage", url)
    said = [
        run("search", "tiny.toml", *by_option, "--stop-after", "1e-3", "--debug"),
        run("search", "tiny.toml", "--workers", "2", **{VARIABLE: url}),
        run("search", "next.toml", "--from", f"{url}#tiny", *by_option, "--stop-after", "1e-3"),
    ]
    for command in (("status", "next"), ("select", "next", "--stage", "fast")):
        shown = commands.run(*command, *by_option)
        said.append(shown.out + shown.err)
    stored = postgres.dump(url)

    assert "go on with: autocompress search tiny.toml --storage postgresql+psycopg://c" in said[0]
    assert "the password is not shown: give it by PGPASSWORD" in said[0]
    assert "postgresql+psycopg://controller@127.0.0.1" in stored  # Where the second came from.
    everything = {"output": "\n".join(said), "database": stored, "files": read_all(tmp_path)}
    assert "postgresql+psycopg://controller@127.0.0.1" in everything["files"]
    assert {where: find_secrets(text) for where, text in everything.items() if text} == {
        where: [] for where in everything
    }
