"""Run jobs in processes of this machine, one for each slot."""

import math
import pickle
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection

from autocompress.errors import ArtifactError
from autocompress.execute.base import Runner, make_failure, read_outcome
from autocompress.execute.process import WorkerProcess
from autocompress.execute.settings import ExecuteSettings
from autocompress.execute.threads import share_cores
from autocompress.execute.worker import STOPPING, Reply
from autocompress.jobs import Job, Outcome
from autocompress.store.places import fix_place
from autocompress.store.run_folder import RunFolder

START_S = 600.0  # A worker imports PyTorch and reads the data before its first job.
LOOK_S = 1.0  # A worker's own children can keep its socket open when it is gone.
CLOSE_S = 1.0
GROWTH_BYTES = 2**30  # oneDNN keeps kernels of every shape; a worker that grew so is replaced.


@dataclass(frozen=True, kw_only=True)
class Run:
    """A job in a slot.

    Attributes:
        key: Of its result.
        job: The job.
        begun_s: When it began, by the pool's clock.
        limit_s: Seconds after which it has failed; infinite for never.
        lateness: The error of a job that took longer.
    """

    key: str
    job: Job
    begun_s: float
    limit_s: float
    lateness: str

    @property
    def deadline_s(self) -> float:
        """Return when the job has failed, by the pool's clock."""
        return self.begun_s + self.limit_s


@dataclass
class Slot:
    """A place for one job.

    Attributes:
        worker: Its process; None before the first job and after a crash.
        run: Its job; None while it is free.
    """

    worker: WorkerProcess | None = None
    run: Run | None = None


class SubprocessPool:
    """An executor whose workers can crash, hang or use up their memory one by one.

    A worker starts at the first job of its slot. One that dies or is ended is replaced at the
    next job; its job has failed, unless its result is on the disk. One that has grown too large
    or may be broken leaves after its answer.
    """

    def __init__(
        self,
        make_runner: Callable[[], Runner],
        folder: RunFolder,
        settings: ExecuteSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start nothing yet.

        Args:
            make_runner: Called once in every worker; can be pickled.
            folder: Where results are stored.
            settings: Workers, threads and time limits.
            clock: In seconds; decides on time limits.
        """
        self._maker = pickle.dumps(make_runner)
        self._folder = folder
        self._settings = settings
        self._clock = clock
        threads = settings.threads or share_cores(settings.workers)
        self._start = {
            "folder": fix_place(folder.place),
            "threads": threads,
            "growth_bytes": GROWTH_BYTES,
        }
        self._slots = [Slot() for _ in range(settings.workers)]
        self._waiting: deque[tuple[str, Job]] = deque()
        self._done: deque[tuple[str, Outcome | Exception]] = deque()

    @property
    def slots(self) -> int:
        """Return how many jobs run at the same time."""
        return len(self._slots)

    @property
    def pids(self) -> list[int]:
        """Return the processes of the workers that were started and not ended."""
        return [slot.worker.pid for slot in self._slots if slot.worker is not None]

    def submit(self, key: str, job: Job) -> None:
        """Take a job, now or once a slot is free; its result will be stored under ``key``.

        Raises:
            ValueError: A job of this key is in flight.
        """
        if key in self._list_keys():
            raise ValueError(f"a job of the key {key!r} is in flight already")
        self._waiting.append((key, job))
        self._fill()

    def wait(self) -> tuple[str, Outcome]:
        """Return the key and outcome of a job that finished, see ``Executor``.

        Raises:
            IndexError: No job is in flight.
        """
        if not self._list_keys():
            raise IndexError("no job is in flight")
        while not self._done:
            self._look()
            self._fill()
        key, result = self._done.popleft()
        if isinstance(result, Exception):
            raise result
        return key, result

    def find(self, key: str) -> Outcome | None:
        """Return the outcome stored under ``key`` by an earlier process; None without any."""
        return read_outcome(self._folder, key)

    def close(self) -> None:
        """End every worker and forget all jobs."""
        self._waiting.clear()
        self._done.clear()
        workers = [slot.worker for slot in self._slots if slot.worker is not None]
        for worker in workers:
            worker.terminate()
        end = time.monotonic() + CLOSE_S
        for worker in workers:
            worker.kill(max(0.0, end - time.monotonic()))
        self._slots = [Slot() for _ in self._slots]

    def _list_keys(self) -> set[str]:
        running = [slot.run.key for slot in self._slots if slot.run]
        return {*running, *(key for key, _ in self._waiting), *(key for key, _ in self._done)}

    def _fill(self) -> None:
        """Give jobs that wait to slots that are free."""
        for slot in self._slots:
            if self._waiting and not slot.run:
                self._begin(slot, *self._waiting.popleft())

    def _begin(self, slot: Slot, key: str, job: Job) -> None:
        if slot.worker is not None and slot.worker.has_ended():
            self._end_worker(slot)
        if slot.worker is None:
            try:
                slot.worker = WorkerProcess(self._start, self._maker)
            except OSError as error:
                self._done.append((key, make_failure(f"cannot start a worker: {error}", 0.0)))
                return
        slot.run = self._time(key, job, ready=slot.worker.ready)  # Its time begins before it does.
        slot.worker.send({"key": key, "job": job.to_json()})

    def _time(self, key: str, job: Job, *, ready: bool) -> Run:
        """Return a run that begins now; the start of a worker has a limit of its own."""
        setting = "timeout_s" if job.stage == "fast" else "model_timeout_s"
        limit_s = getattr(self._settings, setting) or math.inf
        lateness = f"the evaluation took longer than execute.{setting} = {limit_s:g} seconds"
        if not ready:
            limit_s = max(limit_s, START_S)
            lateness = f"the worker was not ready after {limit_s:g} seconds"
        return Run(key=key, job=job, begun_s=self._clock(), limit_s=limit_s, lateness=lateness)

    def _look(self) -> None:
        """Wait for some time for a reply, an end or a deadline, and note what it means."""
        busy = [(one, one.worker, one.run) for one in self._slots if one.worker and one.run]
        nearest_s = min((run.deadline_s for _, _, run in busy), default=math.inf)
        patience_s = min(LOOK_S, max(0.0, nearest_s - self._clock()))
        ready = connection.wait([worker.connection for _, worker, _ in busy], patience_s)
        for slot, worker, run in busy:
            if worker.connection in ready:
                self._hear(slot, worker, run)
            elif worker.has_ended():
                if not worker.connection.poll():  # What it said last comes first.
                    self._fail(slot, run)
            elif self._clock() >= run.deadline_s:
                self._fail(slot, run, run.lateness)

    def _hear(self, slot: Slot, worker: WorkerProcess, run: Run) -> None:
        reply = worker.receive()
        if reply is None:
            self._fail(slot, run)
        elif reply.outcome or reply.stop:
            if reply.leaving:
                self._end_worker(slot)
            self._settle(slot, run, _read_result(reply))
        else:
            slot.run = self._time(run.key, run.job, ready=True)

    def _fail(self, slot: Slot, run: Run, error: str = "") -> None:
        """End a worker that gives no answer; a result that it has stored counts all the same."""
        worker = self._end_worker(slot, CLOSE_S if not error else 0.0)
        failure = make_failure(error or worker.describe_end(), self._clock() - run.begun_s)
        try:
            self._settle(slot, run, read_outcome(self._folder, run.key) or failure)
        except ArtifactError as damage:
            self._settle(slot, run, damage)

    def _settle(self, slot: Slot, run: Run, result: Outcome | Exception) -> None:
        self._done.append((run.key, result))
        slot.run = None

    def _end_worker(self, slot: Slot, grace_s: float = 0.0) -> WorkerProcess:
        worker, slot.worker = slot.worker, None
        assert worker is not None
        worker.kill(grace_s)
        return worker


def _read_result(reply: Reply) -> Outcome | Exception:
    """Return the outcome in a reply, or the error that it tells of."""
    return STOPPING[reply.stop](reply.text) if reply.stop else Outcome.from_json(reply.outcome)
