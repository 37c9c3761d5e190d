import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Engine, event, text

from autocompress.errors import StudyError
from autocompress.jobs import Candidate, Job, Outcome
from autocompress.search.entries import Request, Verdict
from autocompress.search.ledger import Ledger
from autocompress.search.rows import Rows
from autocompress.search.storage import make_storage
from autocompress.search.study import hold_study
from tests.postgres import PostgresServer

WIDE = {f"filters/{place}": (place + 1) / 40 for place in range(34)}
TABLES = {
    "trials": "number, state, datetime_start, datetime_complete",
    "trial_params": "param_name, param_value, distribution_json",
    "trial_user_attributes": '"key", value_json',
    "trial_system_attributes": '"key", value_json',
    "trial_values": "objective, value, value_type",
}


def make_trial(densities: dict[str, float] | None = None) -> FrozenTrial:
    densities = WIDE if densities is None else densities
    return create_trial(
        state=TrialState.WAITING,
        params=densities,
        distributions=dict.fromkeys(densities, FloatDistribution(0.0, 1.0)),
        user_attrs={"key": "é", "round": 3, "candidate": '{"a": 1}', "none": None},
        constraints={"weights": -0.25, "macs": 0.1},
    )


def make_rows(url: str, name: str = "one") -> tuple[optuna.Study, Rows]:
    study = optuna.create_study(study_name=name, storage=make_storage(url))
    return study, Rows(study, study.get_trials())


def dump(url: str) -> list[tuple[str, list[str]]]:
    """Return all that the database says of trials, but for keys that count rows."""
    storage = make_storage(url)  # Kept: it closes its connections when it goes.
    with storage.engine.connect() as connection:
        return [
            (name, sorted(map(repr, connection.execute(text(f"SELECT {columns} FROM {name}")))))
            for name, columns in TABLES.items()
        ]


def add_both_ways(one: str, other: str) -> None:
    study, _ = make_rows(one)
    _, rows = make_rows(other)
    for trial in (make_trial(), make_trial({"filters/0": 1.0}), make_trial({})):
        study.add_trial(trial)
        rows.add(trial)

    assert dump(one) == dump(other)
    assert len(dump(one)[1][1]) == len(WIDE) + 1


def test_a_trial_stands_in_the_database_as_optuna_would_write_it(tmp_path: Path) -> None:
    add_both_ways(f"sqlite:///{tmp_path}/one.db", f"sqlite:///{tmp_path}/other.db")


def test_so_it_does_in_postgresql(postgres: PostgresServer) -> None:
    add_both_ways(postgres.make_database(), postgres.make_database())


def test_trials_of_several_studies_are_numbered_apart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    studies = [make_rows(url, name) for name in ("one", "two")]

    numbers = [rows.add(make_trial({})) for _, (_, rows) in itertools.product(range(3), studies)]

    assert numbers == [0, 0, 1, 1, 2, 2]
    for study, _ in studies:
        assert [trial.number for trial in study.get_trials()] == [0, 1, 2]


def test_a_trial_that_another_process_added_is_noticed(tmp_path: Path) -> None:
    study, rows = make_rows(f"sqlite:///{tmp_path}/study.db")
    rows.add(make_trial())
    study.add_trial(make_trial())

    with pytest.raises(StudyError, match="another process writes to it"):
        rows.add(make_trial())

    assert len(study.get_trials()) == 2


@pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.COMPLETE, TrialState.FAIL])
def test_only_what_waits_is_started(tmp_path: Path, state: TrialState) -> None:
    study, rows = make_rows(f"sqlite:///{tmp_path}/study.db")
    rows.add(make_trial())
    trial = study.ask()
    if state is not TrialState.RUNNING:
        study.tell(trial, 0.5 if state is TrialState.COMPLETE else None, state=state)

    with pytest.raises(StudyError, match="another process writes to it"):
        rows.start(0)


def test_a_decision_takes_as_many_statements_whatever_flies_and_however_many_densities(
    tmp_path: Path,
) -> None:
    few = count_statements(tmp_path / "few", flying=1, densities={"filters/0": 0.5})
    many = count_statements(tmp_path / "many", flying=30, densities=WIDE)

    assert few == many
    assert 5 < few < 30


def count_statements(folder: Path, flying: int, densities: dict[str, float]) -> int:
    """Return the statements for a trial, from its creation to its end, while others fly."""
    with hold_study("one", str(folder / "study.db"), {}, objectives=1) as held:
        ledger = Ledger(held, 2)
        for keep in range(flying):
            ledger.create(make_request(keep + 1, densities))
            ledger.take()
        storage = held.study._storage._backend  # type: ignore[attr-defined]
        assert isinstance(storage, RDBStorage)
        with listen(storage.engine) as statements:
            ledger.create(make_request(flying + 1, densities))
            pending = ledger.take()
            assert pending is not None
            ledger.decide(pending, VERDICT)
        return len(statements)


@contextmanager
def listen(engine: Engine) -> Iterator[list[str]]:
    """Give the statements that ``engine`` executes meanwhile."""
    statements: list[str] = []

    def note(*told: object) -> None:
        statements.append(str(told[2]))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


VERDICT = Verdict(
    seq=0,
    outcome=Outcome(energy=0.5, metrics={"val_loss": 0.5}),
    accepted=True,
    temperature=0.1,
    cached=False,
    values=(0.5,),
    excess={},
)


def make_request(keep: int, densities: dict[str, float]) -> Request:
    kept = Candidate(filters={"a": keep}, columns={})
    job = Job(stage="fast", candidate=kept, round=0, base="", seed=0)
    return Request(job=job, key=kept.key(), densities=densities, excess={"weights": -0.1})
