import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import EvaluationError
from autocompress.jobs import Job
from autocompress.search.budget import Budget
from autocompress.search.controller import Wiring, hold_controller
from autocompress.search.progress import SearchProgress
from autocompress.search.settings import SearchSettings
from autocompress.search.sight import LATELY, Sight, find_offset, list_ends, look, measure_speed
from autocompress.search.spec import Settings, read_study_settings
from autocompress.search.study import open_study
from tests.fakes import FakeEvaluator, fail_some, make_search
from tests.synthetic import make_study

Pair = tuple[SearchProgress, Sight]
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def search(folder: Path, evaluator: FakeEvaluator, budget: Budget) -> list[Pair]:
    """Return what a controller tells at each step, and what the study says at that moment."""
    short = SearchSettings(evaluations=3)
    settings = make_search(str(folder), budget=budget, search=short)
    seen: list[Pair] = []
    opened: list[optuna.Study] = []

    def watch(progress: SearchProgress) -> None:
        opened[:] = opened or [open_study(settings.name, settings.storage)]
        # Only what is stored: who watches may have neither the settings nor the model.
        stored = read_study_settings(opened[0], settings.storage)
        seen.append((progress, look(opened[0], stored, NOW)))

    with hold_controller(settings, Wiring(make_evaluator=lambda: evaluator, watch=watch)) as one:
        one.run()
    return seen


@pytest.mark.parametrize(
    ("budget", "evaluator"),
    [
        (Budget(weights=0.3), FakeEvaluator(fail=fail_some)),
        (Budget(worst_metric=0.955, minimize="macs"), FakeEvaluator(drop=0.01)),
    ],
    ids=["limit", "goal"],
)
def test_a_study_says_what_its_controller_says(
    tmp_path: Path, budget: Budget, evaluator: FakeEvaluator
) -> None:
    seen = search(tmp_path, evaluator, budget)

    for progress, sight in seen:
        assert (sight.round, sight.rounds) == (progress.round, progress.rounds)
        assert (sight.decided, sight.total) == (progress.done, progress.total)
        assert sight.best == progress.best
        assert sight.running == progress.running
    assert len(seen) >= 12
    assert (sight.todo, sight.left_s) == ("done", 0)
    assert sight.model is not None


def test_what_failed_is_counted(tmp_path: Path) -> None:
    seen = search(tmp_path, FakeEvaluator(fail=fail_some), Budget(weights=0.3))

    _, last = seen[-1]
    attempts = 3
    assert last.rejected > 0
    assert last.retried == last.rejected * (attempts - 1)
    assert last.lost == 0


def test_what_a_stopped_process_left_is_counted(tmp_path: Path) -> None:
    settings = make_search(str(tmp_path))

    def interrupt(_: Job) -> None:
        raise KeyboardInterrupt

    wiring = Wiring(make_evaluator=lambda: FakeEvaluator(fail=interrupt))
    for losses in (1, 2):
        with (
            hold_controller(settings, wiring) as controller,
            pytest.raises(KeyboardInterrupt),
        ):
            controller.run()

        sight = look(open_study("fake", settings.storage), settings, NOW)

        assert (sight.lost, sight.retried, sight.decided) == (losses, 0, 0)
        assert (sight.running, sight.waiting) == (0, 1)
        assert (sight.last, sight.per_minute, sight.best, sight.model) == (None,) * 4


def test_a_round_that_failed_whole_says_why(tmp_path: Path) -> None:
    def fail(_: Job) -> None:
        raise EvaluationError("nothing works")

    settings = make_search(str(tmp_path), search=SearchSettings(evaluations=2))
    wiring = Wiring(make_evaluator=lambda: FakeEvaluator(fail=fail))
    with hold_controller(settings, wiring) as controller, pytest.raises(EvaluationError):
        controller.run()

    sight = look(open_study("fake", settings.storage), settings, NOW)

    assert sight.todo == "failed"
    assert "no candidate could be evaluated" in sight.error
    assert sight.rounds is None


def test_a_study_of_an_older_version_says_what_it_knows() -> None:
    study = make_study(12)

    sight = look(study, Settings(name="synthetic"), NOW)

    assert (sight.todo, sight.rounds, sight.total, sight.left_s) == (None, None, None, None)
    assert (sight.decided, sight.round) == (14, 1)
    assert sight.model is not None
    assert sight.model.number == 12


@given(offset_s=st.integers(-12 * 3600, 14 * 3600).map(lambda one: one // 900 * 900))
def test_moments_are_those_of_the_machine_that_wrote_them(offset_s: int) -> None:
    study = make_study(3, finished=0)
    trials = study.get_trials()
    for place, trial in enumerate(trials):
        local = NOW + timedelta(minutes=place, seconds=offset_s)
        trial.datetime_complete = local.replace(tzinfo=None)

    ends = list_ends(trials[::-1], offset_s)

    assert ends == [NOW + timedelta(minutes=place) for place in range(3)]


def test_the_speed_is_that_of_the_latest_decisions_and_falls_while_none_comes() -> None:
    slow = [NOW + timedelta(hours=place) for place in range(5)]
    fast = [slow[-1] + timedelta(seconds=6 * place) for place in range(1, LATELY + 1)]

    assert measure_speed([], NOW) is None
    assert measure_speed(slow[:1], NOW) is None
    assert measure_speed(slow, slow[-1]) == pytest.approx(1 / 60)
    assert measure_speed(slow + fast, fast[-1]) == pytest.approx(10.0)
    later = fast[0] + 2 * (fast[-1] - fast[0])
    assert measure_speed(slow + fast, later) == pytest.approx(5.0)
    # The clock of this machine may be behind that of the controller's.
    assert measure_speed(slow, NOW) == pytest.approx(1 / 60)


@pytest.mark.parametrize(("zone", "offset_s"), [("UTC0", 0), ("XXX-05:45", 20_700)])
def test_the_offset_is_that_of_this_machine(
    zone: str, offset_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        found = find_offset(NOW)
    time.tzset()

    assert found == offset_s
