import subprocess
import sys

SCRIPT = """
import logging, sys
from autocompress.cli import main
try:
    main([{options}"--version"])
except SystemExit:
    logging.getLogger("autocompress.execute").warning("2 of 8 workers have a place")
    logging.getLogger("autocompress.search").warning("at postgresql+psycopg://me:open@db/x")
    logging.getLogger("somebody.else").warning("deprecated")
"""


def show(options: str = "") -> list[str]:
    """Return the lines on standard error of a process that warns after a command."""
    script = SCRIPT.format(options=options)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return done.stderr.splitlines()


def test_people_see_our_warnings_and_not_those_of_libraries() -> None:
    assert show() == [
        "note: 2 of 8 workers have a place",
        "note: at postgresql+psycopg://me:***@db/x",
    ]


def test_debug_shows_who_warns() -> None:
    assert show('"--debug", ') == [
        "WARNING:autocompress.execute:2 of 8 workers have a place",
        "WARNING:autocompress.search:at postgresql+psycopg://me:***@db/x",
        "WARNING:somebody.else:deprecated",
    ]
