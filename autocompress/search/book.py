"""All decisions of a study, found by round and by key without reading them all again."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from autocompress.jobs import Outcome, Stage
from autocompress.search.records import Record


class Book:
    """The decisions of a study in their order; grows at its end only."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._records: list[Record] = []
        self._places: dict[tuple[int, Stage], list[Record]] = defaultdict(list)
        self._asked: dict[int, int] = defaultdict(int)
        self._known: dict[int, set[str]] = defaultdict(set)
        self._results: dict[str, Record] = {}
        self._failures: dict[str, Record] = {}
        self._seconds: dict[Stage, tuple[int, float]] = {}
        for record in records:
            self.add(record)

    def __len__(self) -> int:
        """Return the number of decisions."""
        return len(self._records)

    @property
    def records(self) -> Sequence[Record]:
        """Return all decisions in their order."""
        return self._records

    def add(self, record: Record) -> None:
        """Take up the next decision."""
        self._records.append(record)
        self._places[record.round, record.stage].append(record)
        if record.stage == "fast":
            self._known[record.round].add(record.candidate.key())
            self._asked[record.round] += not record.source
        if math.isfinite(record.energy):
            self._results.setdefault(record.key, record)
        elif record.stage == "fast":
            self._failures.setdefault(record.key, record)
        seconds = record.metrics.get("seconds", math.nan)
        if math.isfinite(seconds):
            count, total = self._seconds.get(record.stage, (0, 0.0))
            self._seconds[record.stage] = count + 1, total + seconds

    def find(self, number: int, stage: Stage) -> Sequence[Record]:
        """Return the decisions of one stage in round ``number``, in their order."""
        return self._places.get((number, stage), ())

    def count_asked(self, number: int) -> int:
        """Return how many candidates round ``number`` scored, those from elsewhere apart."""
        return self._asked.get(number, 0)

    def list_known(self, number: int) -> set[str]:
        """Return the keys of the candidates scored in round ``number``."""
        return self._known[number]

    def find_result(self, key: str) -> Outcome | None:
        """Return the outcome of the first successful decision on the result called ``key``."""
        known = self._results.get(key)
        if known is None:
            return None
        return Outcome(energy=known.energy, metrics=known.metrics, artifact=known.artifact)

    def find_failure(self, key: str) -> Outcome | None:
        """Return the outcome of a candidate that was given up; None for any other result.

        Models that were given up are tried again when they are asked for again: by a person who
        has made room, mostly.
        """
        known = self._failures.get(key)
        if known is None:
            return None
        return Outcome(energy=math.nan, error=f"it was given up before, as trial {known.number}")

    def measure_seconds(self, stage: Stage) -> float | None:
        """Return the mean time of an evaluation; None when none was timed."""
        count, total = self._seconds.get(stage, (0, 0.0))
        return total / count if count else None
