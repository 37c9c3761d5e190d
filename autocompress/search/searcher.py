"""What proposes the candidates of one round. Its state is a fold over decisions."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from autocompress.jobs import Candidate
from autocompress.search.records import Record


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A candidate to be scored.

    Attributes:
        candidate: Counts that meet the round's limits.
        chain: Which chain asked for it.
        parent: Trial whose candidate was moved; -1 without any.
    """

    candidate: Candidate
    chain: int = 0
    parent: int = -1


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What became of a scored candidate.

    Attributes:
        accepted: Whether a chain moved there; outside annealing, whether it is the best so far.
        temperature: At the decision, in units of energy; None outside annealing.
    """

    accepted: bool
    temperature: float | None = None


class Searcher(Protocol):
    """Proposes the candidates of one round.

    A searcher that was given the same decisions in the same order proposes the same: nothing
    else may count, neither the clock nor how often it was asked.
    """

    @property
    def state(self) -> object:
        """Return all that future proposals and decisions follow from; equal states compare so."""
        ...

    @property
    def best(self) -> Record | None:
        """Return the record of lowest energy; None before the first success."""
        ...

    @property
    def accepted_share(self) -> float | None:
        """Return the share of annealing moves that were accepted; None before the first."""
        ...

    def propose(self, index: int, known: Collection[str]) -> Proposal:
        """Return what the round's evaluation ``index`` scores.

        Args:
            index: Place in the order of the round's proposals, from 0.
            known: Keys of candidates to avoid, decided ones and pending ones; one of them is
                given only when no other was found.
        """
        ...

    def decide(self, record: Record) -> Decision:
        """Take up the next decided evaluation of the round, in the order of decisions."""
        ...
