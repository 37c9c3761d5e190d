"""A study as optuna-dashboard understands it: copied into memory, never written back.

optuna-dashboard 0.21 reads constraints only where Optuna kept them before version 5, shows a
front only of a study whose trials all have several objectives, and would mix estimates with
finished models. So one study of ours becomes three: the search by its energy, the front of the
models, and the front of the estimates.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from autocompress.report.frames import (
    FIGURE_COLUMNS,
    OBJECTIVES,
    VERDICT,
    Direction,
    read_direction,
    read_trial,
)

ENDED = (TrialState.COMPLETE, TrialState.FAIL)
# What older versions of Optuna called the constraints of a trial.
CONSTRAINTS = "constraints"
SHOWN = (
    *("stage", "round", "chain", "parent", "accepted", "temperature", "error"),
    *(column.name for column in FIGURE_COLUMNS),
)


class Mirror:
    """The copy of one study, kept up to date.

    Attributes:
        storage: In memory; for ``optuna_dashboard``.
        name: Name of the study, and of the copy of its search.
    """

    def __init__(self, study: optuna.Study) -> None:
        self.storage: BaseStorage = InMemoryStorage()
        self.name = study.study_name
        self._study = study
        self._next = 0
        self._seen: set[int] = set()
        fronts: tuple[Direction, ...] = (read_direction(study), "minimize")
        self._search = self._make(self.name, ("energy",), ("minimize",))
        self._models = self._make(f"{self.name} front", OBJECTIVES, fronts)
        self._estimates = self._make(f"{self.name} front of estimates", OBJECTIVES, fronts)

    def refresh(self) -> int:
        """Copy what was decided since the last time, in that order; return how much it was."""
        found = {}
        for trial in self._study.get_trials(deepcopy=False, states=ENDED):
            if trial.number not in self._seen and VERDICT in trial.user_attrs:
                row = read_trial(trial.user_attrs)
                found[int(row["seq"])] = (trial, row)
        before = self._next
        # A decision that is not told yet is waited for, so that the order stays.
        while self._next in found:
            trial, row = found[self._next]
            self._copy(trial, row)
            self._seen.add(trial.number)
            self._next += 1
        return self._next - before

    def _copy(self, trial: FrozenTrial, row: Mapping[str, Any]) -> None:
        """Add ``trial`` to the search or to the models; an estimate also to its front."""
        values = [row.get(name) for name in OBJECTIVES]
        is_estimate = row.get("stage") == "fast"
        if is_estimate:
            self._search.add_trial(_translate(trial, row, [row["energy"]], trial.params))
        if None not in values and trial.state is TrialState.COMPLETE:
            # Densities of estimates are there once: in memory they are the most of a study.
            params = {} if is_estimate else trial.params
            front = self._estimates if is_estimate else self._models
            front.add_trial(_translate(trial, row, values, params))

    def _make(
        self, name: str, objectives: tuple[str, ...], directions: tuple[Direction, ...]
    ) -> optuna.Study:
        study = optuna.create_study(
            study_name=name, storage=self.storage, directions=list(directions)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(objectives))
        return study


def _translate(
    trial: FrozenTrial, row: Mapping[str, Any], values: list[Any], params: dict[str, float]
) -> FrozenTrial:
    """Return a copy of ``trial`` with these values and its constraints in the old way."""
    attrs = {"trial": trial.number, **{name: row[name] for name in SHOWN if name in row}}
    copied = create_trial(
        state=trial.state,
        values=values if trial.state is TrialState.COMPLETE else None,
        params=params,
        distributions={name: trial.distributions[name] for name in params},
        user_attrs={name: value for name, value in attrs.items() if value not in {None, ""}},
        system_attrs={CONSTRAINTS: [*trial.constraints.values()]},
    )
    copied.datetime_start = trial.datetime_start
    copied.datetime_complete = trial.datetime_complete
    return copied
