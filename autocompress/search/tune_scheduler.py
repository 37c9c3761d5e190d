"""Let a scheduler of Ray Tune compare only what can be compared."""

import copy
import math
from typing import Any

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from autocompress.errors import SettingError


class PerRound(FIFOScheduler):  # type: ignore[misc]
    """Gives the candidates of each round a scheduler of their own, and models none.

    A later round prunes more, so its energies are worse: a scheduler that saw all rounds would
    stop most of it. Models are never stopped: their energy is the metric and not a loss.
    """

    def __init__(self, scheduler: FIFOScheduler) -> None:
        """Take a pattern that is copied for every round.

        Args:
            scheduler: Unused so far; one that stops trials but does not choose which one runs,
                such as ``ASHAScheduler`` and ``MedianStoppingRule``.

        Raises:
            SettingError: It chooses, as HyperBand and population-based training do.
        """
        if type(scheduler).choose_trial_to_run is not FIFOScheduler.choose_trial_to_run:
            raise SettingError(
                "scheduler: want one that only stops trials, such as ASHAScheduler, got "
                f"{type(scheduler).__name__}"
            )
        super().__init__()
        self._pattern = scheduler
        self._rounds: dict[int, FIFOScheduler] = {}

    @property
    def metric(self) -> str | None:
        """Return what is compared."""
        return self._pattern.metric

    @property
    def supports_buffered_results(self) -> bool:
        """Return whether several reports may come at once."""
        return bool(self._pattern.supports_buffered_results)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Tell the pattern what is compared; return whether it had not been told before."""
        return bool(self._pattern.set_search_properties(metric, mode, **spec))

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Tell the scheduler of the trial's round."""
        self._find(trial).on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """Tell the scheduler of the trial's round."""
        self._find(trial).on_trial_error(tune_controller, trial)

    def on_trial_result(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]
    ) -> str:
        """Return what the scheduler of the trial's round wants."""
        if not math.isfinite(result["energy"]):
            return TrialScheduler.CONTINUE
        return str(self._find(trial).on_trial_result(tune_controller, trial, result))

    def on_trial_complete(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]
    ) -> None:
        """Tell the scheduler of the trial's round."""
        self._find(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: TuneController, trial: Trial) -> None:
        """Tell the scheduler of the trial's round."""
        self._find(trial).on_trial_remove(tune_controller, trial)

    def debug_string(self) -> str:
        """Return what all of them say."""
        said = [f"Round {key}: {one.debug_string()}" for key, one in self._rounds.items()]
        return "\n".join(said) or "No candidate yet."

    def _find(self, trial: Trial) -> FIFOScheduler:
        if trial.config["stage"] != "fast":
            return FIFOScheduler()
        number = trial.config["round"]
        if number not in self._rounds:
            self._rounds[number] = copy.deepcopy(self._pattern)
        return self._rounds[number]
