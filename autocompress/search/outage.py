"""What is wrong when the database refuses: it is away for now, or it needs a person."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, PendingRollbackError, SQLAlchemyError

from autocompress.errors import StudyError, StudyLostError

Result = TypeVar("Result")

# SQLSTATE of PostgreSQL: connections; shutting down or starting; too many of them, or too little
# memory; a statement that took too long, or stood in another's way.
_AWAY = re.compile(r"08...|57P0[1-5]|53[23]00|57014|40001|40P01|55P03")
_FULL = re.compile(r"disk is full|disk I/O error|No space left", re.IGNORECASE)
_READ_ONLY = re.compile(r"readonly database|read-only|permission denied", re.IGNORECASE)


@contextmanager
def name_outage(study: str) -> Iterator[None]:
    """Turn an error of the database inside into one sentence.

    Args:
        study: Name of the study that is read or written.

    Raises:
        StudyLostError: A server cannot be reached, or is not ready; waiting may help.
        StudyError: Waiting does not help: the disk is full, the file may not be written to.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error if isinstance(error, SQLAlchemyError) else error.__cause__
        if isinstance(cause, PendingRollbackError):  # Optuna went on after it had been away.
            raise StudyLostError(study, "the connection was lost in a transaction") from error
        if isinstance(cause, DBAPIError) and is_away(cause):
            raise StudyLostError(study, describe_cause(cause)) from error
        raise StudyError(
            f"study {study!r}: the database cannot be written or read: {explain(cause or error)}; "
            "what was decided is stored, start again to go on"
        ) from error


def outlast(
    work: Callable[[], Result],
    reopen: Callable[[], None],
    *,
    patience_s: float,
    count_writes: Callable[[], int] = lambda: 0,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Return what ``work`` returns; when its database goes away, wait and begin it anew.

    Args:
        work: May be begun again after any of its writes.
        reopen: Waits until the database is back.
        patience_s: Seconds after which a database that comes back each time, and goes away
            before anything is written, is given up.
        count_writes: Returns how many writes there were.
        clock: Seconds; only their differences count.

    Raises:
        StudyError: The database stayed away, or another process took the study.
    """
    before, since_s = -1, 0.0
    while True:
        try:
            return work()
        except StudyLostError as error:
            written, now_s = count_writes(), clock()
            if written != before:
                before, since_s = written, now_s
            elif now_s - since_s > patience_s:
                raise StudyError(f"{error}; given up after {patience_s:.0f} s") from error
            reopen()


def is_away(error: DBAPIError) -> bool:
    """Return whether the error is that of a server which may come back."""
    state = getattr(error.orig, "sqlstate", "")
    if state == "":
        return False  # A file: only servers tell an SQLSTATE.
    if state is None:  # The driver's own word: there is no connection.
        kinds = {kind.__name__ for kind in type(error.orig).__mro__}  # Also a ConnectionTimeout.
        return not kinds.isdisjoint(("OperationalError", "InterfaceError"))
    return _AWAY.fullmatch(state) is not None


def explain(error: BaseException) -> str:
    """Return what a person can do something about."""
    text = describe_cause(error)
    if _FULL.search(text):
        return f"{text}; make room"
    if _READ_ONLY.search(text):
        return f"{text}; allow writing"
    return text


def describe_cause(error: BaseException) -> str:
    """Return the first line of what the driver says; it holds no password."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig else error
    lines = str(original).splitlines()
    return lines[0].removeprefix("connection failed: ") if lines else type(original).__name__
