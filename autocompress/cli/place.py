"""Which database a command works on, and how to speak of it without its password."""

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from autocompress.cli.screen import open_console
from autocompress.errors import SettingError

VARIABLE = "AUTOCOMPRESS_STORAGE"
FILE_VARIABLE = "AUTOCOMPRESS_STORAGE_FILE"
HIDDEN = f"give it by PGPASSWORD or PGPASSFILE, or the whole URL by {VARIABLE} or {FILE_VARIABLE}"
# Up to the last @ of a word: a password that is not quoted may hold one itself.
_USER = re.compile(r"(\w://[^\s:/@]*):\S*@")
_QUERY = re.compile(r"([?&]\w*(?:pass(?:word|wd)?|pwd|secret|token))=[^&\s'\"]*", re.IGNORECASE)


def choose_storage(
    option: str, setting: str = "", environment: Mapping[str, str] = os.environ
) -> str:
    """Return the database that is named first: by option, setting or environment.

    Args:
        option: What ``--storage`` says.
        setting: What the settings file says.
        environment: Of the process.

    Returns:
        A URL or path; empty when nothing names one, which means the file in the run folder.

    Raises:
        SettingError: The environment names a file that cannot be read or says nothing.
    """
    return option or setting or read_environment(environment)


def read_environment(environment: Mapping[str, str] = os.environ) -> str:
    """Return the database that the environment names; empty when it names none.

    Raises:
        SettingError: It names a file that cannot be read or says nothing.
    """
    if url := environment.get(VARIABLE, "").strip():
        return url
    file = environment.get(FILE_VARIABLE, "")
    if not file:
        return ""
    try:
        url = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{FILE_VARIABLE}: cannot read {file}: {error}") from error
    if not url:
        raise SettingError(f"{FILE_VARIABLE}: want the URL of a database in {file}, found nothing")
    return url


def name_storage(url: str) -> str:
    """Return the option that names a database again; empty when the environment does."""
    return "" if url == read_environment() else f" --storage {shlex.quote(url)}"


def make_again(command: str) -> str:
    """Return a command to be typed again: without passwords, but with a note when there were."""
    bare = _QUERY.sub("", _USER.sub(r"\1@", command))
    return bare if bare == command else f"{bare}\n(the password is not shown: {HIDDEN})"


def hide_passwords(text: str) -> str:
    """Return ``text`` with ``***`` for whatever may be the password of a URL in it."""
    return _QUERY.sub(r"\1=***", _USER.sub(r"\1:***@", text))


def warn_of_network(url: str, mounts: str | None = None) -> None:
    """Say so when the database is a file that several machines share.

    Args:
        url: Of the database.
        mounts: As for :func:`autocompress.search.storage.find_network`.
    """
    from autocompress.search.storage import find_file, find_network

    path = find_file(url)
    kind = "" if path is None else find_network(path, mounts)
    if kind:
        warn(
            f"{path} lies on a network file system ({kind}), where SQLite may be damaged when "
            "machines use it at the same time; want PostgreSQL there: "
            "--storage postgresql://USER@HOST/DATABASE"
        )


def warn(text: str) -> None:
    """Print a warning on standard error."""
    open_console(stderr=True).print(f"warning: {text}", markup=False)
