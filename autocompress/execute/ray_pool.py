"""Run jobs in actors of a Ray cluster, which may grow, shrink and lose machines meanwhile."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError

import autocompress
from autocompress.errors import ArtifactError, ClusterError, SettingError
from autocompress.execute.base import make_failure, read_outcome
from autocompress.execute.ray_cluster import Cluster, connect
from autocompress.execute.ray_crew import Crew, Member, Profile, describe_shortage, make_profile
from autocompress.execute.ray_deaths import explain_death, name_failure_of_ray
from autocompress.execute.ray_worker import Answer, Maker, Place
from autocompress.execute.settings import ExecuteSettings
from autocompress.execute.subprocess_pool import Run
from autocompress.execute.worker import STOPPING, Reply
from autocompress.jobs import Job, Outcome
from autocompress.store.files import name_failure
from autocompress.store.freight import read_files, store_files
from autocompress.store.run_folder import RunFolder

logger = logging.getLogger(__name__)

START_S = 600.0  # A worker imports PyTorch and makes its runner before its first job.
LOOK_S = 1.0
PLACE_S = 60.0  # An autoscaler may need minutes, but who waits wants to know.
PROBE_S = 5.0
HEAD_S = 45.0  # Ray itself ends this process after a minute without its head.
BASES = 4  # Models that Ray holds; a round has one.
PAUSE_S = 5.0  # Before another worker is asked for when one could not be made ready.


class RayPool:
    """An executor whose workers are actors; nothing but Ray connects them to this process.

    They are asked for at the first job, all at once, so that an autoscaler sees what is wanted.
    A worker that dies, hangs or is broken is replaced; its job has failed, or is lost with its
    machine. Results come back through Ray and are stored here.
    """

    def __init__(
        self,
        pack: Callable[[], Maker],
        folder: RunFolder,
        settings: ExecuteSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect to nothing yet.

        Args:
            pack: Called once, at the first job: returns what makes the runner of a worker,
                given an empty folder; it is pickled.
            folder: Where results are stored.
            settings: The cluster, workers, what they ask for, and time limits.
            clock: In seconds; decides on time limits.
        """
        self._pack = pack
        self._folder = folder
        self._settings = settings
        self._clock = clock
        self._cluster: Cluster | None = None
        self._crew = Crew(clock)
        self._sent: Any = None  # Reference of the maker.
        self._bases: dict[str, Any] = {}  # References of models, by key.
        self._waiting: deque[tuple[str, Job]] = deque()
        self._done: deque[tuple[str, Outcome | Exception]] = deque()
        self._told = self.slots
        self._paused_until_s = -math.inf
        self._last_start = ""  # Why a worker could not be made ready.
        self._full_since_s = math.inf
        self._is_warned = False
        self._heard_s = self._probed_s = -math.inf

    @property
    def slots(self) -> int:
        """Return how many jobs it takes: its ready workers', and those ahead.

        Models of a round do not follow from each other: as many as workers may wait for a place.
        """
        ready = self._crew.count("idle", "busy") + self._settings.ahead
        flying = self._list_flying()
        if flying and all(job.stage != "fast" for _, job in flying):
            ready = max(ready, self._settings.workers)
        return max(1, ready)

    @property
    def pids(self) -> list[int]:
        """Return the processes of the workers that have a place."""
        return [one.pid for one in self._crew.members if one.pid]

    def submit(self, key: str, job: Job) -> None:
        """Take a job, now or once a worker is free; its result will be stored under ``key``.

        Raises:
            ValueError: A job of this key is in flight.
            SettingError: There is no such cluster.
            ClusterError: It failed.
        """
        if key in self._list_keys():
            raise ValueError(f"a job of the key {key!r} is in flight already")
        if self._cluster is None:
            self._open()
        self._waiting.append((key, job))
        with name_failure_of_ray():
            self._tend()

    def wait(self) -> tuple[str, Outcome] | None:
        """Return the key and outcome of a job that finished, see ``Executor``.

        Raises:
            IndexError: No job is in flight.
            ClusterError: The cluster failed, or is lost.
        """
        if not self._list_keys():
            raise IndexError("no job is in flight")
        while not self._done:
            with name_failure_of_ray():
                self._look()
                self._check_cluster()
                self._tend()
            if self._has_grown() and not self._done:
                return None
        self._has_grown()
        key, result = self._done.popleft()
        if isinstance(result, Exception):
            raise result
        return key, result

    def find(self, key: str) -> Outcome | None:
        """Return the outcome stored under ``key`` by an earlier process; None without any."""
        return read_outcome(self._folder, key)

    def close(self) -> None:
        """End every worker and forget all jobs; leave the cluster."""
        self._waiting.clear()
        self._done.clear()
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            self._crew.dismiss(list(self._crew.members))
            self._bases.clear()
            self._sent = None
            cluster.close()

    def _open(self) -> None:
        self._cluster = connect(self._settings)
        self._crew = Crew(self._clock, self._cluster.home)
        parcel = self._pack()
        with name_failure_of_ray():
            self._sent = ray.put(parcel)
            found = ray.cluster_resources().get("GPU", 0)
        if found and not (self._settings.gpus or self._settings.model_gpus):
            logger.warning(
                "the Ray cluster has %g GPUs, and workers see none of them while execute.gpus "
                "is 0; set it to the GPUs, or the part of one, that each worker gets",
                found,
            )
        self._heard_s = self._probed_s = self._full_since_s = self._clock()

    def _has_grown(self) -> bool:
        """Return whether there are more slots than when it was last asked."""
        before, self._told = self._told, self.slots
        return self._told > before

    def _list_flying(self) -> list[tuple[str, Job]]:
        running = [one.run for one in self._crew.members if one.run]
        return [*((run.key, run.job) for run in running), *self._waiting]

    def _list_keys(self) -> set[str]:
        return {key for key, _ in [*self._list_flying(), *self._done]}

    def _tend(self) -> None:
        """Have the workers that are wanted, and give them jobs."""
        self._begin_ready()
        if self._clock() >= self._paused_until_s:
            for profile, wanted in self._count_wanted().items():
                self._crew.resize(profile, wanted)

    def _count_wanted(self) -> dict[Profile, int]:
        """Return how many workers of each profile there should be.

        Those for candidates are asked for at once. When models want other places, both would
        wait for each other's: workers without jobs make room.
        """
        workers = self._settings.workers
        fast, model = (make_profile(self._settings, stage) for stage in ("fast", "full"))
        if fast == model:
            return {fast: workers}
        models = sum(job.stage != "fast" for _, job in self._list_flying())
        others = len(self._list_flying()) - models
        return {fast: workers if others or not models else 0, model: min(workers, models)}

    def _begin_ready(self) -> None:
        """Give jobs that wait to workers that are ready."""
        for key, job in list(self._waiting):
            member = self._crew.find_idle(make_profile(self._settings, job.stage))
            if member is not None:
                self._waiting.remove((key, job))
                self._begin(member, key, job)

    def _begin(self, member: Member, key: str, job: Job) -> None:
        try:
            stored = read_outcome(self._folder, key)
            base = [] if stored else self._send_base(job.base)
        except ArtifactError as error:
            self._done.append((key, error))
            return
        if stored is not None:
            self._done.append((key, stored))
            return
        setting = "timeout_s" if job.stage == "fast" else "model_timeout_s"
        limit_s = getattr(self._settings, setting) or math.inf
        member.run = Run(
            key=key,
            job=job,
            begun_s=self._clock(),
            limit_s=limit_s,
            lateness=f"the evaluation took longer than execute.{setting} = {limit_s:g} seconds",
        )
        member.ref = member.handle.run.remote(key, job.to_json(), base)
        member.state, member.since_s = "busy", self._clock()

    def _send_base(self, key: str) -> list[Any]:
        """Return the reference of a model, in a list; an empty one where none is needed."""
        if not key or not self._holds(key):
            return []
        if key not in self._bases:
            path = self._folder.path(key)
            with name_failure(path, "read"):
                self._bases[key] = ray.put(read_files(path))
        while len(self._bases) > BASES:
            del self._bases[next(iter(self._bases))]  # Jobs that need it hold it themselves.
        return [self._bases[key]]

    def _holds(self, key: str) -> bool:
        try:
            return self._folder.has(key)
        except ValueError:  # No key of the run folder: the runner knows what it means.
            return False

    def _look(self) -> None:
        """Wait for some time for an answer, a death or a deadline, and note what it means."""
        self._crew.ping()
        asked = {one.ref: one for one in self._crew.members if one.ref is not None}
        nearest_s = min((_find_deadline(one) for one in asked.values()), default=math.inf)
        patience_s = min(LOOK_S, max(0.0, nearest_s - self._clock()))
        if not asked:
            time.sleep(patience_s)
            return
        ready, _ = ray.wait(list(asked), timeout=patience_s)
        if ready:  # All that are ready: one at a time would look at a thousand each time.
            ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=0)
        for ref in ready:
            self._hear(asked[ref], ref)
        for one in list(self._crew.members):
            if self._clock() >= _find_deadline(one):
                self._end_late(one)

    def _end_late(self, member: Member) -> None:
        self._crew.end(member)
        if member.run is not None:
            self._fail(member.run, member.run.lateness)
        else:
            self._fail_start(make_failure(f"a worker was not ready after {START_S:g} seconds", 0))

    def _check_cluster(self) -> None:
        """Say when fewer workers have a place than were asked for, or the head is silent.

        Raises:
            ClusterError: It has been silent for too long.
        """
        assert self._cluster is not None
        now_s, asked = self._clock(), self._crew.count("asked")
        if not asked:
            self._full_since_s, self._is_warned = now_s, False
        elif now_s - self._full_since_s >= PLACE_S and not self._is_warned:
            self._is_warned = True
            logger.warning("%s", describe_shortage(self._crew.members))
        if now_s - self._probed_s < PROBE_S:
            return
        self._probed_s = now_s
        if self._cluster.has_head():
            self._heard_s = now_s
        elif now_s - self._heard_s >= HEAD_S:
            raise ClusterError(f"its head {self._cluster.address} does not answer")

    def _hear(self, member: Member, ref: Any) -> None:
        """Take in what an actor says."""
        try:
            said = ray.get(ref)
        except RayError as error:
            self._lose(member, error)
            return
        member.ref, member.since_s = None, self._clock()
        if member.state == "asked":
            self._place(member, said)
        elif member.state == "starting":
            self._start(member, Reply.from_bytes(said))
        elif member.state == "busy":
            self._take(member, said)

    def _place(self, member: Member, place: Place) -> None:
        member.node, member.pid, member.address = place.node, place.pid, place.address
        if place.version != autocompress.__version__:
            raise SettingError(
                f"{member.place} has autocompress {place.version}, want "
                f"{autocompress.__version__} as here; install one version everywhere"
            )
        member.ref = member.handle.prepare.remote([self._sent])
        member.state = "starting"

    def _start(self, member: Member, reply: Reply) -> None:
        if reply.stop or reply.outcome:
            self._crew.end(member)
            self._fail_start(_read_result(reply))
            return
        member.state = "idle"

    def _take(self, member: Member, answer: Answer) -> None:
        """Store what a job came to."""
        run, reply = member.run, Reply.from_bytes(answer.reply)
        assert run is not None
        member.state, member.run = "idle", None
        result = _read_result(reply)
        try:
            for key, files in answer.models.items():
                store_files(self._folder, key, files)
            if isinstance(result, Outcome) and not result.failed:
                self._folder.write_json(run.key, result.to_json())
        except ArtifactError as error:
            result = error
        self._done.append((run.key, result))
        if reply.leaving:
            self._crew.dismiss([member])

    def _lose(self, member: Member, error: RayError) -> None:
        """Note the end of an actor."""
        self._crew.end(member)
        text, lost = explain_death(error, member.node, member.place)
        if member.run is not None:
            self._fail(member.run, text, lost=lost)
        elif member.state == "idle" or lost:
            logger.info("%s", text)
        else:
            self._fail_start(make_failure(text, 0))

    def _fail(self, run: Run, error: str, *, lost: bool = False) -> None:
        failure = make_failure(error, self._clock() - run.begun_s)
        self._done.append((run.key, replace(failure, lost=lost)))

    def _fail_start(self, result: Outcome | Exception) -> None:
        """Note that a worker could not be made ready; when no other is, a job has failed."""
        self._paused_until_s = self._clock() + PAUSE_S
        if self._waiting and not self._crew.count("idle", "busy"):
            self._done.append((self._waiting.popleft()[0], result))
            return
        text = result.error if isinstance(result, Outcome) else str(result)
        level = logging.DEBUG if text == self._last_start else logging.WARNING
        self._last_start = text
        logger.log(level, "a worker could not be made ready, and is asked for again: %s", text)


def _find_deadline(member: Member) -> float:
    """Return when an actor has taken too long, by the pool's clock."""
    if member.run is not None:
        return member.run.deadline_s
    return member.since_s + START_S if member.state == "starting" else math.inf


def _read_result(reply: Reply) -> Outcome | Exception:
    """Return the outcome in a reply, or the error that it tells of."""
    return STOPPING[reply.stop](reply.text) if reply.stop else Outcome.from_json(reply.outcome)
