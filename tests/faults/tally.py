"""Faults and results counted over a test run, also over several processes of pytest."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from autocompress.search.study import open_study
from tests.acknowledged import count_acknowledged, find_lost
from tests.laws import Step, find_violations, read_trajectory
from tests.service import VIOLATIONS, Service

FAULT, ACKNOWLEDGED, LOST, FIGURE = "fault", "acknowledged", "lost", "figure"


class Tally:
    """What happened in one test; it travels in the test's report."""

    def __init__(self, properties: list[tuple[str, object]]) -> None:
        self._properties = properties

    def inject(self, fault: str, times: int = 1) -> None:
        """Count a fault that the search has to survive."""
        self._properties.extend([(FAULT, fault)] * times)

    def measure(self, what: str, figure: str) -> None:
        """Let a figure be shown."""
        self._properties.append((FIGURE, f"{what}: {figure}"))

    def check(self, service: Service, whole: list[Step] | None = None) -> None:
        """Check a search that has come to its end.

        Args:
            service: The search.
            whole: The trajectory of the same search without a fault, if it has to be the same.
        """
        settings, root = service.settings, Path(service.folder)
        study = open_study(settings.name, settings.storage)
        lost = list(find_lost(study, root))
        self._properties.append((ACKNOWLEDGED, count_acknowledged(root)))
        self._properties.append((LOST, len(lost)))
        noted = root / VIOLATIONS
        wrong = noted.read_text().splitlines() if noted.exists() else []
        wrong += find_violations(settings)
        assert not lost, lost  # Said here: pytest looks into no assert outside of tests.
        assert not wrong, wrong
        if whole is not None:
            assert read_trajectory(settings) == whole


def write_totals(reports: Iterable[pytest.TestReport]) -> list[str]:
    """Return the lines of a summary; empty without any fault."""
    injected: Counter[str] = Counter()
    survived: Counter[str] = Counter()
    results: Counter[str] = Counter()
    figures = []
    seconds = 0.0
    for report in reports:
        faults = Counter(str(value) for name, value in report.user_properties if name == FAULT)
        injected += faults
        survived += faults if report.passed else Counter()
        seconds += report.duration if faults else 0.0
        for name, value in report.user_properties:
            if name in {ACKNOWLEDGED, LOST}:
                results[name] += int(str(value))
            elif name == FIGURE:
                figures.append(str(value))
    if not injected:
        return []
    return [
        *(f"{survived[one]:5d} of {n:3d} survived  {one}" for one, n in sorted(injected.items())),
        *sorted(figures),
        f"{injected.total()} faults injected, {survived.total()} survived; "
        f"{results[ACKNOWLEDGED]} results acknowledged, {results[LOST]} lost; {seconds:.0f} s",
    ]
