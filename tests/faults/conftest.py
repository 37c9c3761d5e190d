"""What the tests of faults share, and the totals at the end of a run."""

import pytest

from tests.faults.tally import Tally, write_totals


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Count what happens in this test."""
    return Tally(request.node.user_properties)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the totals."""
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if isinstance(report, pytest.TestReport) and report.when == "call"
    ]
    lines = write_totals(reports)
    if lines:
        terminalreporter.section("faults")
        for line in lines:
            terminalreporter.write_line(line)
