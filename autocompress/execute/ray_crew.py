"""The actors of a Ray pool: asked for, placed, made ready, given jobs, replaced."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray._private.state import state
from ray.exceptions import RayError

from autocompress.execute.ray_worker import RayWorker
from autocompress.execute.settings import ExecuteSettings
from autocompress.execute.subprocess_pool import GROWTH_BYTES, Run
from autocompress.jobs import Stage

SILENCE_S = 1.0  # An idle worker whose machine died says nothing.
CLEAR_S = 2.0  # A worker that is let go removes its files in this time, or the next one does.

REMOTE: Any = ray.remote(RayWorker)  # Once: its code is sent to the cluster with each of these.

# asked: the cluster may have no room; starting: it makes its runner; idle; busy: it has a job.
State = Literal["asked", "starting", "idle", "busy"]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What Ray reserves for an actor.

    Attributes:
        cpus: Cores.
        gpus: GPUs; a fraction lets several share one.
        threads: That PyTorch computes with.
    """

    cpus: float
    gpus: float
    threads: int


def make_profile(settings: ExecuteSettings, stage: Stage) -> Profile:
    """Return what a job of a stage asks for."""
    cpus, gpus = settings.cpus, settings.gpus
    if stage != "fast":
        cpus, gpus = settings.model_cpus or cpus, settings.model_gpus or gpus
    return Profile(cpus=cpus, gpus=gpus, threads=settings.threads or max(1, int(cpus)))


@dataclass(eq=False, kw_only=True)
class Member:
    """One actor as its driver sees it.

    Attributes:
        profile: What it was asked for with.
        handle: Ray's.
        ref: Of the answer that is waited for; None while it has nothing to say.
        state: How far it is.
        since_s: Since when, by the pool's clock.
        node: Ray's name of its machine; empty before it has a place.
        address: Network address of its machine.
        pid: Its process; 0 before it has a place.
        run: Its job while it is busy.
        had_room: Whether it had a process, and had not answered, when it was looked at last.
    """

    profile: Profile
    handle: Any
    ref: Any
    state: State
    since_s: float
    node: str = ""
    address: str = ""
    pid: int = 0
    run: Run | None = None
    had_room: bool = False

    @property
    def place(self) -> str:
        """Return where it is, for people."""
        return f"the worker {self.pid} on {self.address}" if self.pid else "a worker"

    def has_room(self) -> bool:
        """Return whether the cluster has given it a process, which may not have answered yet."""
        return bool(self._ask_ray().get("Pid"))

    def find_machine(self) -> bool:
        """Note where it is, or was, without its answer; return whether that is known."""
        place = self._ask_ray().get("Address", {})
        self.node, self.address = place.get("NodeID", ""), place.get("IPAddress", "")
        return bool(self.node)

    def _ask_ray(self) -> dict[str, Any]:
        return dict(state.actor_table(self.handle._actor_id.hex()))

    @property
    def machine(self) -> str:
        """Return which machine it is on, for people."""
        return f"the machine {self.address} (node {self.node[:12]})"


class Crew:
    """Asks Ray for actors, and lets them go.

    Attributes:
        members: Those that were asked for and have not ended.
        shunned: Machines on which no more of them are wanted.
    """

    def __init__(self, clock: Callable[[], float], parent: str = "") -> None:
        """Ask for none yet.

        Args:
            clock: In seconds.
            parent: Folder for the scratch folders of actors; that of their system when empty.
        """
        self.members: list[Member] = []
        self.shunned: frozenset[str] = frozenset()
        self._clock = clock
        self._parent = parent

    def resize(self, profile: Profile, wanted: int) -> None:
        """Have so many actors of a profile; those with a job stay."""
        have = [one for one in self.members if one.profile == profile]
        for _ in range(wanted - len(have)):
            self._ask(profile)
        spare = sorted((one for one in have if one.state != "busy"), key=_measure_worth)
        self.dismiss(spare[: max(0, len(have) - wanted)])

    def count(self, *states: State) -> int:
        """Return how many actors are in one of ``states``."""
        return sum(one.state in states for one in self.members)

    def find_idle(self, profile: Profile) -> Member | None:
        """Return an actor of a profile that waits for a job and was heard of just now."""
        for one in self.members:
            if one.state == "idle" and one.profile == profile and not self._is_silent(one):
                return one
        return None

    def shun(self, nodes: frozenset[str]) -> None:
        """Want actors on all machines but these; those with a job on them may end it."""
        if nodes != self.shunned:  # Who waits for a place was asked for with other machines.
            self.dismiss([one for one in self.members if one.state == "asked"])
        self.shunned = nodes
        self.dismiss([o for o in self.members if o.node in nodes and o.state != "busy"])

    def dismiss(self, members: list[Member]) -> None:
        """Let idle actors remove their files, then end them."""
        cleared = [one.handle.clear.remote() for one in members if one.state == "idle"]
        if cleared:
            ray.wait(cleared, num_returns=len(cleared), timeout=CLEAR_S)
        for one in members:
            self.end(one)

    def end(self, member: Member) -> None:
        """End an actor at once, whatever it does."""
        self.forget(member)
        with suppress(RayError, ValueError):
            ray.kill(member.handle, no_restart=True)

    def forget(self, member: Member) -> None:
        """Drop an actor that has ended."""
        self.members.remove(member)

    def ping(self) -> None:
        """Ask idle actors that were silent for a while whether they live."""
        for one in self.members:
            if one.ref is None and self._is_silent(one):
                one.ref = one.handle.locate.remote()

    def _is_silent(self, member: Member) -> bool:
        return self._clock() >= member.since_s + SILENCE_S

    def _ask(self, profile: Profile) -> None:
        handle = REMOTE.options(
            num_cpus=profile.cpus,
            num_gpus=profile.gpus,
            max_restarts=0,
            max_task_retries=0,
            label_selector=avoid_nodes(self.shunned),
        ).remote(profile.threads, GROWTH_BYTES, self._parent, has_gpus=profile.gpus > 0)
        member = Member(
            profile=profile,
            handle=handle,
            ref=handle.locate.remote(),
            state="asked",
            since_s=self._clock(),
        )
        self.members.append(member)


def has_others(profile: Profile, nodes: frozenset[str]) -> bool:
    """Return whether actors of a profile fit on machines that are not among ``nodes``."""
    alive = (one for one in ray.nodes() if one["Alive"] and one["NodeID"] not in nodes)
    return any(_fits(profile, one["Resources"]) for one in alive)


def avoid_nodes(nodes: frozenset[str]) -> dict[str, str]:
    """Return Ray's ``label_selector`` for all machines but these."""
    return {"ray.io/node-id": f"!in({','.join(sorted(nodes))})"} if nodes else {}


def _measure_worth(member: Member) -> int:
    """Return a number that is greater the nearer an actor is to its first job."""
    return ("asked", "starting", "idle", "busy").index(member.state)


def describe_shortage(members: list[Member]) -> str:
    """Return a sentence on how many actors the cluster has room for."""
    asked = [one.profile for one in members if one.state == "asked"]
    wants = " or ".join(sorted({f"{one.cpus:g} CPUs and {one.gpus:g} GPUs" for one in asked}))
    placed = len(members) - len(asked)
    totals = [one["Resources"] for one in ray.nodes() if one["Alive"]]
    if not any(_fits(profile, total) for profile in asked for total in totals):
        rest = f"no machine of the cluster has {wants}, which each of them asks for"
    else:
        rest = f"each of them asks for {wants}"
    then = "goes on, and takes more" if placed else "waits until there is room,"
    return (
        f"Ray has a place for {placed} of {len(members)} workers: {rest}; the search {then} "
        "as machines join or get free"
    )


def _fits(profile: Profile, total: dict[str, float]) -> bool:
    return total.get("CPU", 0) >= profile.cpus and total.get("GPU", 0) >= profile.gpus
