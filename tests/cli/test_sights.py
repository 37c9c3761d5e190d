from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from autocompress.cli.find import find_study
from autocompress.cli.sights import View, describe_view, list_head, list_view, view_study
from autocompress.jobs import Candidate
from autocompress.search.lock import Holder, lock_study
from autocompress.search.records import Record
from autocompress.search.sight import Sight

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HOLDER = Holder(host="node7", process=42, since=NOW.timestamp() - 120)
MODEL = Record(
    seq=11,
    number=12,
    stage="full",
    round=1,
    candidate=Candidate(filters={}, columns={}),
    energy=-0.98,
    metrics={"val_metric": 0.98, "test_metric": 0.97, "weights": 1234.0},
)
SIGHT = Sight(
    todo="fast",
    round=1,
    rounds=3,
    decided=12,
    total=40,
    running=2,
    waiting=1,
    rejected=1,
    retried=2,
    lost=3,
    best=0.25,
    model=MODEL,
    last=NOW - timedelta(seconds=30),
    per_minute=7.5,
    left_s=600.0,
)
VIEW = View(sight=SIGHT, holder=HOLDER, now=NOW, metric="accuracy")


def test_a_view_says_all_that_a_sight_says() -> None:
    pairs = list_view(VIEW)

    assert pairs.pop("last decision").startswith("30 s ago (2026-01-0")
    assert pairs == {
        "controller": "process 42 on node7, for 2 min",
        "phase": "round 2 of 3, scoring candidates",
        "decided": "12 of 40, 7.5 per minute",
        "running now": "2, and 1 that wait for a worker",
        "repeated": "2 after failures, 3 lost with their worker or controller, 1 given up",
        "best energy": "0.25",
        "best model": "trial 12: validation accuracy 0.9800, test accuracy 0.9700, 1,234 weights",
        "time left": "about 10 min",
    }


def test_a_study_that_has_only_begun_says_so() -> None:
    pairs = list_view(View(sight=Sight(), holder=None, now=NOW))

    assert pairs == {
        "controller": "none",
        "phase": "round 1",
        "decided": "0",
        "last decision": "none yet",
        "running now": "0",
        "repeated": "none",
        "best energy": "-",
        "best model": "none yet",
        "time left": "-",
    }


def test_what_nobody_works_on_does_not_run() -> None:
    left = replace(VIEW, holder=None)

    assert list_view(left)["running now"].startswith("none; 2 begun by a controller that ended")
    assert list_view(left)["decided"] == "12 of 40"
    # A controller on another machine would not be seen.
    assert list_view(replace(left, is_file=True))["running now"].startswith("2")
    assert list_view(replace(left, is_file=True))["controller"] == "none on this machine"


def test_a_search_that_cannot_go_on_says_why() -> None:
    failed = replace(VIEW, sight=replace(SIGHT, todo="failed", error="round 1: all failed"))

    assert list_view(failed)["phase"] == "round 2 of 3, cannot go on: round 1: all failed"


@pytest.mark.parametrize(
    ("view", "line"),
    [
        (
            VIEW,
            "round 2 of 3, scoring candidates, 12 of 40, 7.5 per minute decided, 2 running, "
            "best energy 0.25, about 10 min left",
        ),
        (
            View(sight=Sight(), holder=None, now=NOW),
            "round 1, 0 decided, 0 running, controller: none",
        ),
        (
            View(sight=Sight(todo="done", rounds=1, decided=4, total=4), holder=None, now=NOW),
            "round 1 of 1, done, 4 of 4 decided",
        ),
    ],
)
def test_a_line_says_the_most_telling(view: View, line: str) -> None:
    assert describe_view(view).partition(" ")[2] == line


def test_a_stored_study_is_seen_with_its_controller(storage: str) -> None:
    found = find_study("synthetic", storage)
    with lock_study("synthetic", storage):
        seen = view_study(found, NOW)
    after = view_study(found, NOW)

    assert seen.holder is not None
    assert after.holder is None
    assert seen.is_file
    assert (seen.sight.decided, seen.metric) == (14, "accuracy")
    assert list_head(found)["storage"] == storage
