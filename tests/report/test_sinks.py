import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from autocompress.errors import SettingError
from autocompress.jobs import Candidate
from autocompress.report.sinks import (
    GuardedSink,
    Make,
    SeveralSinks,
    SinkSettings,
    make_sink_settings,
    open_sinks,
    watch_sinks,
)
from autocompress.report.trackers import make_run_id
from autocompress.search.progress import SearchProgress, ignore_progress
from autocompress.search.records import Record

FOLDER = Path("logs")


class KeptSink:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def start(self, name: str, settings: Mapping[str, Any]) -> None:
        self.runs.append(make_run_id(name, settings))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.logged.append((step, dict(figures)))

    def finish(self) -> None:
        self.finished += 1


class BrokenSink(KeptSink):
    """Raises in one of its methods; waits there before, when told to."""

    def __init__(self, where: str, gate: threading.Event | None = None) -> None:
        super().__init__()
        self.where = where
        self.gate = gate

    def start(self, name: str, settings: Mapping[str, Any]) -> None:
        self._break("start")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._break("log")

    def finish(self) -> None:
        self._break("finish")

    def _break(self, where: str) -> None:
        if where == self.where:
            if self.gate is not None:
                self.gate.wait()
            raise ConnectionError("no route")


def refuse(_: Path) -> KeptSink:
    raise ImportError("no such library")


def give(sink: KeptSink) -> Make:
    return lambda folder: sink


def run(sink: GuardedSink | SeveralSinks, steps: int = 3) -> None:
    sink.start("digits", {"seed": 0})
    for step in range(steps):
        sink.log(step, {"energy": float(step)})
    sink.finish()


def decided(seq: int, energy: float = 0.5) -> SearchProgress:
    record = Record(
        seq=seq,
        number=seq,
        key=str(seq),
        stage="fast",
        round=1,
        candidate=Candidate(filters={}, columns={}),
        energy=energy,
        metrics={"weights": 10.0},
    )
    return SearchProgress(phase="search", best=0.25, record=record)


def test_a_sink_gets_everything_in_order() -> None:
    sink = KeptSink()

    run(GuardedSink("kept", give(sink), FOLDER))

    assert sink.logged == [(step, {"energy": float(step)}) for step in range(3)]
    assert (len(sink.runs), sink.finished) == (1, 1)


@pytest.mark.parametrize("where", ["make", "start", "log", "finish"])
def test_a_failing_sink_is_switched_off_with_one_message(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    sink, other = BrokenSink(where), KeptSink()
    make = refuse if where == "make" else give(sink)

    with caplog.at_level(logging.WARNING):
        run(
            SeveralSinks(
                [GuardedSink("broken", make, FOLDER), GuardedSink("kept", give(other), FOLDER)]
            )
        )

    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("broken is switched off, the search goes on: ")
    assert ("no such library" if where == "make" else "no route") in message
    assert len(other.logged) == 3


def test_a_hanging_sink_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    gate = threading.Event()
    sink = GuardedSink("slow", give(BrokenSink("log", gate)), FOLDER, wait_s=0.01)

    run(sink)
    gate.set()

    (message,) = [record.getMessage() for record in caplog.records]
    assert "did not finish" in message


def test_a_decision_is_logged_once_with_its_finite_figures() -> None:
    sink = KeptSink()
    watch = watch_sinks(sink)

    watch(SearchProgress(phase="dense"))
    watch(decided(4))
    watch(decided(5, energy=float("nan")))

    assert [step for step, _ in sink.logged] == [4, 5]
    shared = {"fast/weights": 10.0, "search/round": 1.0, "search/best_energy": 0.25}
    assert sink.logged[0][1] == {**shared, "fast/energy": 0.5}
    assert sink.logged[1][1] == shared


def test_a_resumed_study_has_its_run_and_another_study_another() -> None:
    settings = {"seed": 0, "task.model": "lenet5"}

    same = make_run_id("my study", dict(reversed(settings.items())))

    assert make_run_id("my study", settings) == same
    assert make_run_id("my study", {**settings, "seed": 1}) != same
    assert same.startswith("my-study-")


def test_no_sink_is_no_watch() -> None:
    with open_sinks(SinkSettings(), "digits", {}) as watch:
        assert watch is ignore_progress


def test_an_unknown_sink_is_named() -> None:
    with pytest.raises(SettingError, match="want some of tensorboard, mlflow, wandb, got 'paper'"):
        make_sink_settings(["paper"], "logs")


def test_sinks_are_taken_once() -> None:
    assert make_sink_settings(["mlflow", "mlflow"], "logs").names == ("mlflow",)
