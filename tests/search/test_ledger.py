import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from autocompress.errors import StudyError
from autocompress.jobs import Candidate, Job, Outcome
from autocompress.search.entries import Pending, Request, Verdict
from autocompress.search.ledger import MOST_LOSSES, Ledger, read_records
from autocompress.search.study import HeldStudy, hold_study

ATTEMPTS = 2
PLACES = ("created", "asked", "excused", "cloned", "failed", "written", "constrained", "told")


class Stopped(BaseException):
    """Stands for a kill inside one process."""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[HeldStudy]:
    with hold_study("one", str(tmp_path / "study.db"), {}, objectives=2) as held:
        yield held


@pytest.fixture
def study(held: HeldStudy) -> optuna.Study:
    return held.study


@pytest.fixture
def ledger(held: HeldStudy) -> Ledger:
    return Ledger(held, ATTEMPTS)


def make_request(keep: int = 3, source: str = "") -> Request:
    kept = Candidate(filters={"a": keep}, columns={})
    return Request(
        job=Job(stage="fast", candidate=kept, round=1, base="base", seed=7),
        key=kept.key(),
        chain=2,
        index=5,
        parent=4,
        after=3,
        source=source,
        densities={"filters/a": keep / 12},
        excess={"weights": -0.25},
    )


def make_verdict(seq: int, energy: float = 0.5, error: str = "") -> Verdict:
    metrics = {"val_loss": energy, "seconds": 1.0, "odd": math.inf}
    return Verdict(
        seq=seq,
        outcome=Outcome(energy=energy, metrics=metrics, artifact="model", error=error),
        accepted=True,
        temperature=0.1,
        cached=False,
        values=(energy, 100.0),
        excess={"macs": -0.5},
    )


def take(ledger: Ledger) -> Pending:
    pending = ledger.take()
    assert pending is not None
    return pending


def list_states(study: optuna.Study) -> list[TrialState]:
    return [trial.state for trial in study.get_trials(deepcopy=False)]


def test_a_request_comes_back_as_it_was_made(ledger: Ledger) -> None:
    request = make_request(source="other/3")
    ledger.create(request)

    pending = take(ledger)

    assert (pending.number, pending.origin, pending.key) == (0, 0, request.key)
    assert pending.job == request.job
    names = ("chain", "index", "parent", "after", "source")
    assert [pending.attrs[name] for name in names] == [2, 5, 4, 3, "other/3"]
    assert ledger.take() is None


def test_what_is_asked_for_first_is_taken_first_also_by_the_next_process(
    held: HeldStudy, ledger: Ledger
) -> None:
    for keep in (3, 1, 2):
        ledger.create(make_request(keep))
    first = take(ledger)

    later = Ledger(held, ATTEMPTS)

    assert first.job.candidate.filters == {"a": 3}
    assert [one.number for one in later.find_waiting()] == [1, 2]
    assert [take(later).job.candidate.filters["a"] for _ in range(2)] == [1, 2]


def test_a_decision_is_read_as_it_was_written(study: optuna.Study, ledger: Ledger) -> None:
    for keep in (3, 4):
        ledger.create(make_request(keep))
    ledger.decide(take(ledger), make_verdict(0))
    ledger.decide(take(ledger), make_verdict(1, math.nan))

    good, bad = read_records(study)

    trials = study.get_trials()
    assert (good.energy, good.artifact, good.chain, good.index) == (0.5, "model", 2, 5)
    assert good.metrics == {"val_loss": 0.5, "seconds": 1.0}
    assert math.isnan(bad.energy)
    assert json.loads(trials[1].user_attrs["verdict"])["error"] == "the energy is not finite"
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.FAIL]
    assert trials[0].values == [0.5, 100.0]
    assert trials[0].constraints == {"weights": -0.25, "macs": -0.5}


def test_a_missing_decision_is_named(ledger: Ledger) -> None:
    ledger.create(make_request())
    ledger.decide(take(ledger), make_verdict(1))

    with pytest.raises(StudyError, match="decision 0 is missing, found 1"):
        ledger.read_records()


def test_attempts_and_losses_are_counted_apart(study: optuna.Study, ledger: Ledger) -> None:
    ledger.create(make_request(source="other/3"))
    first = take(ledger)

    ledger.requeue(first, "lost")
    second = take(ledger)
    ledger.retry(second, "failed")
    third = take(ledger)

    assert [one.origin for one in (first, second, third)] == [0, 0, 0]
    assert [(one.attrs["attempt"], one.attrs["losses"]) for one in (first, second, third)] == [
        (1, 0), (1, 1), (2, 1)
    ]  # fmt: skip
    assert [ledger.may_retry(one) for one in (first, second, third)] == [True, True, False]
    changed = {"attempt", "losses", "origin"}
    kept = [{k: v for k, v in one.attrs.items() if k not in changed} for one in (first, third)]
    assert kept[0] == kept[1]
    trials = study.get_trials()
    assert trials[2].params == trials[0].params == {"filters/a": 0.25}
    assert trials[2].constraints == {"weights": -0.25}
    assert [trial.user_attrs.get("error") for trial in trials] == ["lost", "failed", None]


def test_an_evaluation_may_be_lost_so_often(ledger: Ledger) -> None:
    ledger.create(make_request())
    pending = take(ledger)

    lost = replace(pending, attrs={**pending.attrs, "losses": MOST_LOSSES})

    assert ledger.may_requeue(replace(pending, attrs={**lost.attrs, "losses": MOST_LOSSES - 1}))
    assert not ledger.may_requeue(lost)


@pytest.mark.parametrize("place", PLACES)
def test_what_follows_a_stop_between_two_writes_is_what_would_have_been(
    held: HeldStudy, study: optuna.Study, place: str
) -> None:
    """One evaluation fails once and then succeeds; whoever recovers does the rest."""

    def stop(name: str) -> None:
        if name == place:
            raise Stopped

    with pytest.raises(Stopped):
        work(Ledger(held, ATTEMPTS, stop))
    work(Ledger(held, ATTEMPTS))

    records = read_records(study)
    last = study.get_trials()[records[0].number]
    assert [record.seq for record in records] == [0]
    assert set(list_states(study)) <= {TrialState.COMPLETE, TrialState.FAIL}
    assert (last.state, last.values) == (TrialState.COMPLETE, [0.5, 100.0])
    assert last.constraints == {"weights": -0.25, "macs": -0.5}
    assert last.user_attrs["attempt"] == 2


def work(ledger: Ledger) -> None:
    """Do the work of a controller with one evaluation: its first attempt fails."""
    if not ledger.study.get_trials(deepcopy=False):
        ledger.create(make_request())
    for left in ledger.find_running():
        ledger.requeue(left, "lost")
    for _ in itertools.count():
        pending = ledger.take()
        if pending is None:
            return
        if ledger.may_retry(pending):
            ledger.retry(pending, "failed")
        else:
            ledger.decide(pending, make_verdict(len(ledger.read_records())))


def test_extensions_add_up_and_the_last_number_of_models_counts(ledger: Ledger) -> None:
    for evaluations, models in ((6, 0), (2, 3), (0, 2)):
        ledger.describe_study(ledger.plan_extension(evaluations, models))

    attrs = ledger.study.user_attrs
    assert (attrs["extra_evaluations"], attrs["finalize_top"]) == (8, 2)
