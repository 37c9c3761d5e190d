"""Where a running search may also write its figures: any number of experiment trackers.

A sink only listens. One that fails is switched off with one warning, and a slow one is fed from
a thread of its own, so that nothing here stops or slows a search.
"""

import importlib.util
import logging
import math
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from autocompress.errors import SettingError
from autocompress.report.trackers import MlflowSink, TensorBoardSink, WandbSink
from autocompress.search.progress import SearchProgress, Watch, ignore_progress
from autocompress.settings import flatten_settings

logger = logging.getLogger(__name__)

SinkName = Literal["tensorboard", "mlflow", "wandb"]  # Also packages, and extras of ours.
MOST_WAITING = 10_000  # Decisions that a sink may lag behind.
FINISH_WAIT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class SinkSettings:
    """Where else a search writes its figures; nothing of it changes the search.

    Attributes:
        names: Some of ``tensorboard``, ``mlflow`` and ``wandb``.
        folder: Where they write; ``mlflow`` and ``wandb`` may be pointed elsewhere by their own
            environment variables.
    """

    names: tuple[SinkName, ...] = ()
    folder: str = "logs"


def make_sink_settings(names: Sequence[str], folder: str) -> SinkSettings:
    """Return settings from names that a person gave.

    Raises:
        SettingError: A sink is unknown.
    """
    known: dict[str, SinkName] = {name: name for name in SINKS}
    for name in names:
        if name not in known:
            raise SettingError(f"sinks: want some of {', '.join(known)}, got {name!r}")
    return SinkSettings(names=tuple(known[name] for name in dict.fromkeys(names)), folder=folder)


class Sink(Protocol):
    """Takes the figures of one search."""

    def start(self, name: str, settings: Mapping[str, Any]) -> None:
        """Open the run of the study ``name``, or go on with it.

        Args:
            name: Of the study.
            settings: That decide what it finds, as flat plain values.
        """
        ...

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Take the finite ``figures`` of decision ``step``."""
        ...

    def finish(self) -> None:
        """Write what is left and close the run."""
        ...


Make = Callable[[Path], Sink]
SINKS: Mapping[SinkName, Make] = {
    "tensorboard": TensorBoardSink,
    "mlflow": MlflowSink,
    "wandb": WandbSink,
}


class GuardedSink:
    """Feeds a sink from a thread; the first failure switches it off.

    Args:
        name: For the message.
        make: Opens the sink, in the thread: imports may take seconds.
        folder: Where the sink writes.
        wait_s: How long ``finish`` waits for it.
    """

    def __init__(
        self, name: str, make: Make, folder: Path, *, wait_s: float = FINISH_WAIT_S
    ) -> None:
        self._name = name
        self._make = make
        self._folder = folder
        self._wait_s = wait_s
        self._waiting: queue.Queue[tuple[int, Mapping[str, float]] | None] = queue.Queue(
            MOST_WAITING
        )
        self._off = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, name: str, settings: Mapping[str, Any]) -> None:
        """Begin to feed the sink."""
        self._thread = threading.Thread(target=self._feed, args=(name, settings), daemon=True)
        self._thread.start()

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Leave ``figures`` for the thread."""
        self._put((step, figures))

    def finish(self) -> None:
        """Wait until the sink has written everything, but not for ever."""
        self._put(None)
        if self._thread is not None and not self._off.is_set():
            self._thread.join(self._wait_s)
            if self._thread.is_alive():
                self._switch_off(f"it did not finish within {self._wait_s:.0f} s")

    def _put(self, item: tuple[int, Mapping[str, float]] | None) -> None:
        if self._off.is_set():
            return
        try:
            self._waiting.put_nowait(item)
        except queue.Full:
            self._switch_off(f"it lags {MOST_WAITING} decisions behind")

    def _feed(self, name: str, settings: Mapping[str, Any]) -> None:
        try:
            sink = self._make(self._folder)
            sink.start(name, settings)
            while not self._off.is_set() and (item := self._waiting.get()) is not None:
                sink.log(*item)
            sink.finish()
        except Exception as error:  # noqa: BLE001 - the edge: no sink may stop a search
            self._switch_off(f"{type(error).__name__}: {error}")

    def _switch_off(self, reason: str) -> None:
        if not self._off.is_set():
            self._off.set()
            logger.error("%s is switched off, the search goes on: %s", self._name, reason)


class SeveralSinks:
    """Gives everything to each of several sinks."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = tuple(sinks)

    def start(self, name: str, settings: Mapping[str, Any]) -> None:
        """Start each."""
        for sink in self._sinks:
            sink.start(name, settings)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log to each."""
        for sink in self._sinks:
            sink.log(step, figures)

    def finish(self) -> None:
        """Finish each."""
        for sink in self._sinks:
            sink.finish()


def make_sinks(settings: SinkSettings, makers: Mapping[SinkName, Make] = SINKS) -> Sink:
    """Return the sinks of ``settings`` as one, which never raises and never waits for them.

    Raises:
        SettingError: A package is not installed.
    """
    for name in settings.names:
        if makers is SINKS and importlib.util.find_spec(name) is None:
            raise SettingError(
                f"sinks: {name} is not installed; install it with: "
                f"python -m pip install 'autocompress[{name}]'"
            )
    folder = Path(settings.folder)
    return SeveralSinks([GuardedSink(name, makers[name], folder) for name in settings.names])


def watch_sinks(sink: Sink) -> Watch:
    """Return what tells ``sink`` of every decision of a search."""

    def watch(now: SearchProgress) -> None:
        record = now.record
        if record is None:
            return
        figures = {f"{record.stage}/energy": record.energy, "search/round": float(record.round)}
        figures |= {f"{record.stage}/{name}": value for name, value in record.metrics.items()}
        if now.best is not None:
            figures["search/best_energy"] = now.best
        if now.accepted_share is not None:
            figures["search/accepted_share"] = now.accepted_share
        sink.log(record.seq, {name: one for name, one in figures.items() if math.isfinite(one)})

    return watch


@contextmanager
def open_sinks(settings: SinkSettings, name: str, spec: Mapping[str, Any]) -> Iterator[Watch]:
    """Give what tells the sinks of a search, and finish them in the end.

    Args:
        settings: Which sinks.
        name: Of the study.
        spec: What decides its result, as plain values.

    Raises:
        SettingError: A package is not installed.
    """
    if not settings.names:
        yield ignore_progress
        return
    sink = make_sinks(settings)
    sink.start(name, flatten_settings(spec))
    try:
        yield watch_sinks(sink)
    finally:
        sink.finish()
