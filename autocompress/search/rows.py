"""The rows of a held study's trials, written without reading those of other trials.

Optuna means for many processes to write at once. Its ``Study.ask`` reads every trial that is not
finished, with all parameters, before it takes one: seconds, with a thousand in flight. And it
adds a trial by four statements per parameter, each a round trip to the database. Who alone
writes to a study needs neither; what stands in the database afterwards is the same.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, cast

import optuna
from optuna.distributions import distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Column, Enum, Float, Integer, MetaData, String, Table, insert, select

from autocompress.errors import StudyError

# As far as a new trial needs them; Optuna makes and upgrades these tables.
_SCHEMA = MetaData()
_TRIALS = Table(
    "trials",
    _SCHEMA,
    Column("trial_id", Integer, primary_key=True),
    Column("number", Integer),
    Column("study_id", Integer),
    Column("state", Enum(TrialState)),
)
_PARAMS = Table(
    "trial_params",
    _SCHEMA,
    Column("param_id", Integer, primary_key=True),
    Column("trial_id", Integer),
    Column("param_name", String),
    Column("param_value", Float(53)),
    Column("distribution_json", String),
)
_USER_ATTRS, _SYSTEM_ATTRS = (
    Table(
        f"trial_{kind}_attributes",
        _SCHEMA,
        Column(f"trial_{kind}_attribute_id", Integer, primary_key=True),
        Column("trial_id", Integer),
        Column("key", String),
        Column("value_json", String),
    )
    for kind in ("user", "system")
)


class Rows:
    """The trials of a study by their number; no other process writes them."""

    def __init__(self, study: optuna.Study, trials: Iterable[FrozenTrial]) -> None:
        """Write nothing yet.

        Args:
            study: In an SQL database.
            trials: All that it holds.
        """
        self._study = study
        self._storage: RDBStorage = cast(Any, study)._storage._backend
        self._ids = {one.number: one._trial_id for one in trials}

    def __len__(self) -> int:
        """Return the number of trials, which is the next one's number."""
        return len(self._ids)

    def add(self, trial: FrozenTrial) -> int:
        """Return the number of a new trial that waits, written as a whole or not at all.

        Args:
            trial: Its parameters and attributes.

        Raises:
            StudyError: Another process added one.
        """
        number, study = len(self), self._study._study_id
        new = {"number": number, "study_id": study, "state": TrialState.WAITING}
        with self._storage.engine.begin() as connection:
            key = connection.execute(insert(_TRIALS), new).inserted_primary_key
            assert key is not None
            place = key[0]
            earlier = (_TRIALS.c.study_id == study) & (_TRIALS.c.trial_id < place)
            query = select(_TRIALS.c.number).where(earlier).order_by(_TRIALS.c.trial_id.desc())
            if connection.execute(query.limit(1)).scalar() != (number - 1 if number else None):
                self._refuse()
            for table, rows in _list_rows(trial):
                if rows:
                    connection.execute(insert(table), [{"trial_id": place, **row} for row in rows])
        self._ids[number] = place
        return number

    def read(self, number: int) -> FrozenTrial:
        """Return a trial as it is stored."""
        return self._storage.get_trial(self._ids[number])

    def start(self, number: int) -> None:
        """Let a waiting trial run.

        Raises:
            StudyError: It does not wait.
        """
        try:
            is_started = self._storage.set_trial_state_values(
                self._ids[number], TrialState.RUNNING
            )
        except UpdateFinishedTrialError:
            is_started = False
        if not is_started:
            self._refuse()

    def note(self, number: int, name: str, value: object) -> None:
        """Write a user attribute of a running trial."""
        self._storage.set_trial_user_attr(self._ids[number], name, value)

    def constrain(self, number: int, name: str, value: float) -> None:
        """Write a constraint of a running trial, which has none of this name."""
        optuna.Trial(self._study, self._ids[number]).set_constraint(name, value)

    def finish(self, number: int, values: Sequence[float] | None) -> None:
        """End a running trial; without ``values``, which are numbers, it has failed."""
        state = TrialState.FAIL if values is None else TrialState.COMPLETE
        self._storage.set_trial_state_values(self._ids[number], state, values)

    def _refuse(self) -> None:
        raise StudyError(
            f"study {self._study.study_name!r}: another process writes to it; stop that one, then "
            "start again to go on"
        )


def _list_rows(trial: FrozenTrial) -> list[tuple[Table, list[dict[str, Any]]]]:
    """Return what a trial's parameters and attributes are in the database."""
    written: dict[int, str] = {}  # Most parameters share one distribution.
    params = []
    for name, value in trial.params.items():
        kind = trial.distributions[name]
        text = written.get(id(kind)) or distribution_to_json(kind)
        written[id(kind)] = text
        inner = kind.to_internal_repr(value)
        params.append({"param_name": name, "param_value": inner, "distribution_json": text})
    attrs = [
        [{"key": name, "value_json": json.dumps(value)} for name, value in one.items()]
        for one in (trial.user_attrs, trial.system_attrs)
    ]
    return [(_PARAMS, params), (_USER_ATTRS, attrs[0]), (_SYSTEM_ATTRS, attrs[1])]
