"""The meeting place of a controller and Tune's event loop, without Ray."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autocompress.execute.base import make_failure, try_job
from autocompress.jobs import Job, Outcome
from autocompress.search.controller import Wiring, hold_controller
from autocompress.search.loop import Controller
from autocompress.search.settings import SearchSettings
from autocompress.search.spec import Settings
from autocompress.search.tune_exchange import Ending, Exchange, ExchangeExecutor
from autocompress.search.tune_thread import SearchThread
from tests.fakes import FakeEvaluator, fail_some, make_search
from tests.laws import find_violations, read_trajectory
from tests.workers import make_job

FOREVER_S = 60.0  # What is never waited for; the test would time out.
DONE = Ending()


def start(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_jobs_are_taken_in_their_order_and_told_of_in_the_order_they_end() -> None:
    exchange = Exchange(slots=2)
    exchange.put("a", make_job(seed=0))
    exchange.put("b", make_job(seed=1))

    taken = [exchange.take(0.0), exchange.take(0.0), exchange.take(0.0)]
    assert [one and one[0] for one in taken] == ["a", "b", None]
    assert exchange.end("b", DONE)
    assert exchange.end("a", Ending(stopped=True, score=2.0))

    assert exchange.wait() == ("b", DONE)
    assert exchange.wait() == ("a", Ending(stopped=True, score=2.0))


def test_what_is_not_in_flight_ends_unheard() -> None:
    exchange = Exchange(slots=1)
    exchange.put("a", make_job())

    assert exchange.end("a", DONE)
    assert not exchange.end("a", DONE)
    assert not exchange.end("b", DONE)

    assert exchange.wait() == ("a", DONE)
    with pytest.raises(IndexError, match="no job is in flight"):
        exchange.wait()


def test_a_job_in_flight_is_not_offered_twice() -> None:
    exchange = Exchange(slots=2)
    exchange.put("a", make_job())

    with pytest.raises(ValueError, match="'a' is in flight already"):
        exchange.put("a", make_job())


def test_whoever_takes_waits_for_a_controller_that_is_busy() -> None:
    exchange = Exchange(slots=2)

    start(lambda: exchange.put("a", make_job()))

    taken = exchange.take(FOREVER_S)
    assert taken is not None
    assert taken[0] == "a"


def test_whoever_takes_does_not_wait_for_a_controller_that_waits() -> None:
    exchange = Exchange(slots=2)
    exchange.put("a", make_job())
    exchange.take(FOREVER_S)
    ended: list[object] = []

    thread = start(lambda: ended.append(exchange.wait()))

    assert exchange.take(FOREVER_S) is None
    exchange.end("a", DONE)
    thread.join()
    assert ended == [("a", DONE)]


def test_whoever_takes_waits_until_an_ending_was_heard() -> None:
    exchange = Exchange(slots=1)
    exchange.put("a", make_job())
    exchange.take(FOREVER_S)

    def control() -> None:
        exchange.wait()
        exchange.put("b", make_job())

    start(control)
    assert exchange.take(FOREVER_S) is None
    exchange.end("a", DONE)

    taken = exchange.take(FOREVER_S)
    assert taken is not None
    assert taken[0] == "b"


def test_a_controller_that_waits_hears_of_more_slots_and_of_a_stop() -> None:
    exchange = Exchange(slots=1)
    exchange.put("a", make_job())
    exchange.take(FOREVER_S)
    heard: list[object] = []

    def control() -> None:
        try:
            heard.append(exchange.wait())
        except KeyboardInterrupt:
            heard.append("stop")

    changes: list[Callable[[], None]] = [lambda: exchange.resize(3), exchange.stop]
    for change in changes:
        thread = start(control)
        assert exchange.take(FOREVER_S) is None  # It waits.
        exchange.resize(1)
        change()
        thread.join()

    assert heard == [None, "stop"]


def test_nothing_is_waited_for_once_it_is_closed() -> None:
    exchange = Exchange(slots=1)

    exchange.close()

    assert exchange.take(FOREVER_S) is None


class Tuner:
    """Runs jobs as Tune would: some at a time, and they end in a random order."""

    def __init__(self, seed: int, *, stops: bool = False) -> None:
        self.ran: list[str] = []
        self.stopped: list[str] = []
        self.places: list[int] = []  # Of what was stopped among all that ran.
        self._rng = random.Random(seed)
        self._stops = stops
        self._answers: dict[str, Outcome] = {}
        self._evaluator = FakeEvaluator(fail=fail_some)

    def prepare(self, job: Job) -> None:
        pass

    def collect(self, key: str, ending: Ending) -> Outcome:
        if ending.stopped:
            return Outcome(energy=float("nan"), error="it was stopped", stopped=True)
        return self._answers.pop(key, make_failure("it died", 0.0))

    def close(self) -> None:
        self._answers.clear()

    def run(self, search: SearchThread, exchange: Exchange, limit: int = 10_000) -> None:
        """Run until the search is over or so many jobs have ended."""
        running: dict[str, Job] = {}
        while not search.is_over and len(self.ran) < limit:
            taken = exchange.take(FOREVER_S)
            if taken is not None:
                running[taken[0]] = taken[1]
            assert len(running) <= exchange.slots
            if running and (taken is None or self._rng.random() < 0.3):
                key = self._rng.choice(list(running))
                self.ran.append(key)
                exchange.end(key, self._end(key, running.pop(key)))

    def _end(self, key: str, job: Job) -> Ending:
        fate = self._rng.random()
        if self._stops and job.stage == "fast" and fate < 0.5:
            self.stopped.append(key)
            self.places.append(len(self.ran) - 1)
            return Ending(stopped=True, score=1.0)
        if fate > 0.1:
            self._answers[key] = try_job(self._evaluator, key, job, lambda: 0.0)
        return DONE


def search(settings: Settings, tuner: Tuner, *, workers: int = 3, limit: int = 10_000) -> bool:
    """Search with a tuner; return whether it came to the end."""
    exchange = Exchange(workers)
    wiring = Wiring(
        make_evaluator=lambda: FakeEvaluator(fail=fail_some),
        make_executor=lambda _, folder: ExchangeExecutor(exchange, folder, tuner),
    )
    thread = SearchThread(lambda: hold_controller(settings, wiring), exchange)
    tuner.run(thread, exchange, limit)
    thread.stop()
    return thread.wait().done


def test_a_batch_search_is_that_of_one_process_whatever_ends_first(tmp_path: Path) -> None:
    settings = SearchSettings(evaluations=8, batch=3)
    alone = make_search(str(tmp_path / "alone"), search=settings)
    with hold_controller(
        alone, Wiring(make_evaluator=lambda: FakeEvaluator(fail=fail_some))
    ) as one:
        one.run()
    tuned = make_search(str(tmp_path / "tuned"), search=settings)

    assert search(tuned, Tuner(5))

    assert read_trajectory(tuned) == read_trajectory(alone)
    assert not find_violations(tuned)


@pytest.mark.parametrize("batch", [0, 4])
def test_a_search_that_is_stopped_often_comes_to_a_lawful_end(tmp_path: Path, batch: int) -> None:
    settings = make_search(str(tmp_path), search=SearchSettings(evaluations=8, batch=batch))
    is_done = False
    limit = 3

    while not is_done:
        is_done = search(settings, Tuner(limit, stops=True), limit=limit)
        limit += 4

    assert limit > 11
    assert not find_violations(settings)


def test_a_candidate_that_was_stopped_has_no_energy_and_is_tried_once(tmp_path: Path) -> None:
    settings = make_search(str(tmp_path), search=SearchSettings(evaluations=12))
    tuner = Tuner(1, stops=True)

    assert search(settings, tuner)

    energies = {key: energy for _, key, energy, _, _ in read_trajectory(settings)}
    assert len(tuner.stopped) > 6
    assert all(energies[key] is None for key in tuner.stopped)
    # Seen once among the stopped, and nothing was run after that.
    last = {key: place for place, key in enumerate(tuner.ran)}
    assert len({*tuner.stopped}) == len(tuner.stopped)
    assert sorted(last[key] for key in tuner.stopped) == sorted(tuner.places)


def test_what_ends_a_search_is_raised_where_it_is_asked_for() -> None:
    exchange = Exchange(1)

    @contextmanager
    def hold() -> Iterator[Controller]:
        raise OSError("no study today")
        yield

    thread = SearchThread(hold, exchange)

    with pytest.raises(OSError, match="no study today"):
        thread.wait_until_open()
    assert exchange.take(FOREVER_S) is None
    with pytest.raises(OSError, match="no study today"):
        _ = thread.is_over
    thread.stop()
