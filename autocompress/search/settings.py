"""How candidates are searched."""

from dataclasses import dataclass
from typing import Literal

from autocompress.errors import SettingError

MOST_PROBES = 20
MOST_CHAINS = 8
LEAST_PER_CHAIN = 50  # At 24 to 60 evaluations, four chains found less than one.

SearcherName = Literal["annealing", "random", "tpe", "nsga2", "uniform", "global"]
Objective = Literal["energy", "macs", "params", "weights", "bytes", "coded_bytes", "latency"]


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How candidates are searched in each round.

    Attributes:
        searcher: ``annealing``; for comparison ``random`` densities, Optuna's ``tpe`` and
            ``nsga2``, ``uniform`` densities with different splits between filters and columns,
            and ``global``, densities from one ranking of the weights of all layers. All of them
            propose only candidates that meet the budget.
        evaluations: Fast evaluations per round, starting points and probes included.
        chains: Annealing chains on a ladder of temperatures; 0 takes one per worker, but no more
            than 8 and no more than one per 50 evaluations; the study keeps that number.
        batch: Candidates proposed from the same state and decided in the order of proposals,
            so that the search is the same however many workers there are and whichever
            finishes first; 0 decides whatever finishes first, which keeps all workers busy.
        ladder: Temperature of the hottest chain over that of the coldest.
        objectives: What is traded against each other: the energy and resources. With the
            energy alone, every candidate uses the budget up.
        trade: How many typical bad moves a halving of a resource among the objectives is
            worth, where one number must decide.
        penalty: How many typical bad moves an excess of 100 % over a limit costs.
        step: Standard deviation of the first moves, in logits of densities.
        last_step: The same at the end of a round.
        prior: How much larger layers are expected to stand lower densities: the logit falls by
            this per e-fold of a layer's cost. 0 switches the prior off.
        drafts: Moves drafted for each proposal; the one that the round's scores so far speak for
            most is evaluated. 1 evaluates what is drawn.
        accept_first: Chance that a typical bad move is accepted when annealing begins.
        accept_last: The same at the end of a round.
        attempts: Attempts at an evaluation that fails, before it is given up.
        finalize_top: Best candidates of the last round that become finished models.
    """

    searcher: SearcherName = "annealing"
    evaluations: int = 40
    chains: int = 0
    batch: int = 0
    ladder: float = 4.0
    objectives: tuple[Objective, ...] = ("energy",)
    trade: float = 1.0
    penalty: float = 10.0
    step: float = 1.2
    last_step: float = 0.3
    prior: float = 0.3
    drafts: int = 32
    accept_first: float = 0.2
    accept_last: float = 0.01
    attempts: int = 3
    finalize_top: int = 1

    def __post_init__(self) -> None:
        for key in ("evaluations", "drafts", "attempts", "finalize_top"):
            if getattr(self, key) < 1:
                raise SettingError(f"search.{key}: want 1 or more, got {getattr(self, key)}")
        for key in ("chains", "batch", "prior", "trade", "penalty"):
            if not getattr(self, key) >= 0:
                raise SettingError(f"search.{key}: want 0 or more, got {getattr(self, key)}")
        if not self.ladder >= 1:
            raise SettingError(f"search.ladder: want 1 or more, got {self.ladder}")
        if self.objectives[:1] != ("energy",) or len({*self.objectives}) < len(self.objectives):
            raise SettingError(
                "search.objectives: want energy first, then resources, each once, got "
                f"{', '.join(self.objectives) or 'none'}"
            )
        if not 0 < self.last_step <= self.step:
            raise SettingError(
                f"search.last_step: want above 0 and at most step {self.step}, "
                f"got {self.last_step}"
            )
        if not 0 < self.accept_last <= self.accept_first < 1:
            raise SettingError(
                "search.accept_first: want 0 < accept_last <= accept_first < 1, got "
                f"{self.accept_first} and accept_last {self.accept_last}"
            )

    @property
    def probes(self) -> int:
        """Return the number of moves that calibrate the temperature."""
        return max(1, min(MOST_PROBES, self.evaluations // 10))

    @property
    def resources(self) -> tuple[str, ...]:
        """Return the resources among the objectives."""
        return self.objectives[1:]
