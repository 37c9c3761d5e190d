"""Run jobs in actors of a Ray cluster, which may grow, shrink and lose machines meanwhile."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError

import autocompress
from autocompress.errors import ArtifactError, SettingError
from autocompress.execute.base import make_failure, read_outcome
from autocompress.execute.ray_bases import Bases
from autocompress.execute.ray_cluster import Cluster, connect
from autocompress.execute.ray_crew import Crew, Member, Profile, has_others, make_profile
from autocompress.execute.ray_deaths import explain_death, name_failure_of_ray
from autocompress.execute.ray_ward import OF_A_MACHINE, Ward
from autocompress.execute.ray_watch import ClusterWatch
from autocompress.execute.ray_worker import PYTHON, Answer, Maker, Place
from autocompress.execute.settings import ExecuteSettings
from autocompress.execute.subprocess_pool import Run
from autocompress.execute.worker import STOPPING, Reply
from autocompress.jobs import Job, Outcome
from autocompress.store.freight import store_files
from autocompress.store.run_folder import RunFolder

logger = logging.getLogger(__name__)

START_S = 600.0  # A worker imports PyTorch and makes its runner before its first job.
LOOK_S = 1.0
PAUSE_S = 5.0  # Before another worker is asked for when one could not be made ready.


class RayPool:
    """An executor whose workers are actors; nothing but Ray connects them to this process.

    They are asked for at the first job, all at once, so that an autoscaler sees what is wanted.
    A worker that dies, hangs or is broken is replaced; its job has failed, or is lost with its
    machine. What no attempt can mend on one machine costs that machine and no attempt, see
    :class:`Ward`. Results come back through Ray and are stored here.
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
        self._watch: ClusterWatch | None = None
        self._crew = Crew(clock)
        self._ward = Ward()
        self._sent: Any = None  # Reference of the maker.
        self._bases = Bases(folder)
        self._waiting: deque[tuple[str, Job]] = deque()
        self._done: deque[tuple[str, Outcome | Exception]] = deque()
        self._told = self.slots
        self._paused_until_s = -math.inf
        self._last_start = ""  # Why a worker could not be made ready.

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
                assert self._watch is not None
                self._watch.check(self._crew)
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
        self._watch = ClusterWatch(self._cluster, self._clock)

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
        self._shun()
        self._begin_ready()
        if self._clock() >= self._paused_until_s:
            for profile, wanted in self._count_wanted().items():
                self._crew.resize(profile, wanted)

    def _shun(self) -> None:
        """Leave machines alone that are sick, unless there are no others."""
        if self._ward.is_sick and not self._crew.count("starting", "idle", "busy"):
            profile = make_profile(self._settings, "fast")
            if not has_others(profile, self._ward.shunned):
                self._ward.discharge()
        self._crew.shun(self._ward.shunned)

    def _count_wanted(self) -> dict[Profile, int]:
        """Return how many workers of each profile there should be.

        Those for candidates are asked for at once. When models want other places, both would
        wait for each other's: workers without jobs make room, whatever they are for.
        """
        workers = self._settings.workers
        fast, model = (make_profile(self._settings, stage) for stage in ("fast", "full"))
        if fast == model:
            return {fast: workers}
        models = sum(job.stage != "fast" for _, job in self._list_flying())
        others = len(self._list_flying()) - models
        wanted = min(workers, others) if models else workers
        return {fast: wanted, model: min(workers, models)}

    def _begin_ready(self) -> None:
        """Give jobs that wait to workers that are ready."""
        full: set[Profile] = set()  # A thousand jobs may wait for a thousand workers.
        for key, job in list(self._waiting):
            profile = make_profile(self._settings, job.stage)
            member = None if profile in full else self._crew.find_idle(profile)
            if member is not None:
                self._waiting.remove((key, job))
                self._begin(member, key, job)
            else:
                full.add(profile)

    def _begin(self, member: Member, key: str, job: Job) -> None:
        try:
            stored = read_outcome(self._folder, key)
            base = [] if stored else self._bases.send(job.base)
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
        if member.state == "asked" and not member.had_room:
            # There may be room at any time: it is late when it had some for all of a time.
            member.had_room, member.since_s = member.has_room(), self._clock()
            return
        self._crew.end(member)
        if member.run is not None:
            self._fail(member.run, member.run.lateness)
        else:
            self._fail_start(make_failure(f"a worker was not ready after {START_S:g} seconds", 0))

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
        if (place.version, place.python) == (autocompress.__version__, PYTHON):
            member.ref = member.handle.prepare.remote([self._sent])
            member.state = "starting"
            return
        self._crew.end(member)
        self._refuse(
            member,
            f"it has autocompress {place.version} and Python {place.python}, want "
            f"{autocompress.__version__} and {PYTHON} as here; install one version everywhere",
        )

    def _refuse(self, member: Member, cause: str) -> None:
        """Use a machine no further that cannot run our code.

        Raises:
            SettingError: There are no others.
        """
        is_new = member.node not in self._ward.unfit
        self._ward.unfit.add(member.node)
        if not has_others(member.profile, self._ward.shunned):
            raise SettingError(f"{member.machine} cannot be used: {cause}")
        if is_new:
            logger.warning("%s is not used: %s", member.machine, cause)

    def _start(self, member: Member, reply: Reply) -> None:
        if reply.stop or reply.outcome:
            self._crew.end(member)
            lost = self._blame_machine(member, reply, "")
            if lost is None:
                self._fail_start(_read_result(reply, member))
            return
        member.state = "idle"

    def _take(self, member: Member, answer: Answer) -> None:
        """Store what a job came to."""
        run, reply = member.run, Reply.from_bytes(answer.reply)
        assert run is not None
        member.state, member.run = "idle", None
        lost = self._blame_machine(member, reply, run.key)
        result = _read_result(reply, member) if lost is None else lost
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

    def _blame_machine(self, member: Member, reply: Reply, key: str) -> Outcome | None:
        """Return a lost outcome where an error is the trouble of one machine, which is left."""
        if reply.stop not in OF_A_MACHINE:
            return None
        has_more = partial(has_others, member.profile)
        if not self._ward.admit(member.node, key, reply.text, has_more):
            return None
        text = f"{member.machine} is not used any further, {member.place} says: {reply.text}"
        logger.warning("%s", text)
        return replace(make_failure(text, 0.0), lost=True)

    def _lose(self, member: Member, error: RayError) -> None:
        """Note the end of an actor."""
        self._crew.end(member)
        text, lost = explain_death(error, member.node, member.place)
        if member.run is not None:
            self._fail(member.run, text, lost=lost)
        elif getattr(error, "actor_init_failed", False) and member.find_machine():
            self._refuse(member, text)
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
    return member.since_s + START_S if member.state in ("asked", "starting") else math.inf


def _read_result(reply: Reply, member: Member) -> Outcome | Exception:
    """Return the outcome in a reply, or the error that it tells of."""
    where = f"{member.place}: " if reply.stop in OF_A_MACHINE else ""
    if reply.stop:
        return STOPPING[reply.stop](where + reply.text)
    return Outcome.from_json(reply.outcome)
