"""How models and outcomes travel between the driver of a search and the trials of Ray Tune.

Tune itself carries only figures from a trial to the driver. Models, and errors word for word,
travel through one actor of the search, so that no folder need be shared.
"""

import math
import uuid
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autocompress.errors import EvaluationError, SettingError
from autocompress.execute.base import make_failure
from autocompress.execute.ray_crew import Profile, has_others
from autocompress.execute.ray_ward import OF_A_MACHINE, Ward
from autocompress.execute.ray_worker import Maker
from autocompress.execute.worker import STOPPING, Reply
from autocompress.jobs import Job, Outcome
from autocompress.search.tune_exchange import Ending
from autocompress.store.freight import read_files, store_files
from autocompress.store.run_folder import RunFolder

MAKER = "maker"


class Mailbox:
    """Where the driver and the trials of one search leave things for each other."""

    def __init__(self) -> None:
        self._things: dict[str, Any] = {}

    def leave(self, name: str, thing: Any) -> None:
        """Keep ``thing``, in the place of what was called so before."""
        self._things[name] = thing

    def show(self, name: str) -> Any:
        """Return what is called ``name``; None when there is nothing."""
        return self._things.get(name)

    def take(self, name: str) -> Any:
        """Return what is called ``name`` and forget it; None when there is nothing."""
        return self._things.pop(name, None)


def name_base(key: str) -> str:
    """Return what the files of a base are called in a mailbox."""
    return f"base/{key}"


def name_place(key: str) -> str:
    """Return what the machine that works on a job is called in a mailbox."""
    return f"place/{key}"


def name_answer(key: str) -> str:
    """Return what the answer to a job is called in a mailbox."""
    return f"answer/{key}"


class Clerk:
    """The driver's side of a mailbox; works in the controller's thread.

    Attributes:
        name: Of the mailbox; unique, so that a trial of another search finds nothing.
    """

    def __init__(self, folder: RunFolder, maker: Maker, profile: Profile) -> None:
        """Open a mailbox beside this process.

        Args:
            folder: Where models lie; only this side knows it.
            maker: Makes the runner of a trial's process, given a scratch folder.
            profile: What a trial reserves.

        Raises:
            SettingError: Ray does not run: a call would start one with settings of its own.
        """
        if not ray.is_initialized():
            raise SettingError("Ray does not run in this process; want ray.init() before")
        self.name = f"autocompress-{uuid.uuid4().hex}"
        self._folder = folder
        self._ward = Ward()
        self._has_more = partial(has_others, profile)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"name": self.name, "num_cpus": 0, "scheduling_strategy": here}
        self._mailbox = ray.remote(Mailbox).options(**options).remote()
        self._kept: dict[str, Any] = {}  # References: what no one refers to is freed.
        self._offer(MAKER, maker)

    @property
    def shunned(self) -> list[str]:
        """Return the machines where no trial should run: sick ones, unless there are no others."""
        nodes = self._ward.shunned
        if nodes and not self._has_more(nodes):
            self._ward.discharge()
            nodes = frozenset()
        return sorted(nodes)

    def prepare(self, job: Job) -> None:
        """Offer the model that ``job`` starts from, once."""
        name = name_base(job.base)
        if job.base and name not in self._kept and self._holds(job.base):
            self._offer(name, read_files(self._folder.path(job.base)))

    def collect(self, key: str, ending: Ending) -> Outcome:
        """Return what came of a job whose trial has ended; its models are in the run folder.

        What no attempt can mend costs the machine where it was met and no attempt, see ``Ward``.

        Raises:
            SettingError: No attempt can succeed with these settings.
            DataError: No attempt can succeed with these files.
            ArtifactError: A model cannot be stored.
            EvaluationError: The mailbox is gone, and with it all that runs.
        """
        try:
            names = [name_answer(key), name_place(key)]
            answer, node = ray.get([self._mailbox.take.remote(name) for name in names])
        except RayError as error:
            raise EvaluationError(f"the actor that holds results is gone: {error}") from error
        if answer is None and not ending.stopped and was_lost(node):
            return replace(make_failure("the machine that it ran on was lost", 0.0), lost=True)
        if answer is None:
            return judge_silence(ending)
        for model, files in answer.models.items():
            store_files(self._folder, model, files)
        reply = Reply.from_bytes(answer.reply)
        if not reply.stop:
            return Outcome.from_json(reply.outcome)
        if reply.stop not in OF_A_MACHINE:
            raise STOPPING[reply.stop](reply.text)
        text = f"{name_machine(node)}: {reply.text}"
        if not self._ward.admit(node, key, reply.text, self._has_more):
            raise STOPPING[reply.stop](text)
        failure = make_failure(f"a machine is not used any further: {text}", 0.0)
        return replace(failure, lost=True)

    def close(self) -> None:
        """End the mailbox; trials that still run end in errors that no one hears."""
        self._kept.clear()
        if ray.is_initialized():  # Else it is gone, and a call would start another Ray.
            ray.kill(self._mailbox)

    def _holds(self, key: str) -> bool:
        try:
            return self._folder.has(key)
        except ValueError:  # No key of the run folder: the runner knows what it means.
            return False

    def _offer(self, name: str, thing: Any) -> None:
        self._kept[name] = ray.put(thing)
        # In a list, so that the actor gets the reference and not what it refers to.
        ray.get(self._mailbox.leave.remote(name, [self._kept[name]]))


def was_lost(node: str | None) -> bool:
    """Return whether a machine is gone; any will do for a trial that died before it said where."""
    return any(not one["Alive"] and node in (None, one["NodeID"]) for one in ray.nodes())


def name_machine(node: str) -> str:
    """Return a machine for people."""
    addresses = [one["NodeManagerAddress"] for one in ray.nodes() if one["NodeID"] == node]
    return f"the machine {addresses[0] if addresses else 'that is gone'} (node {node[:12]})"


def judge_silence(ending: Ending) -> Outcome:
    """Return the outcome of a job whose trial ended without an answer."""
    if not ending.stopped:
        return make_failure("the trial ended without an answer: its process died", 0.0)
    if ending.score is None:
        return Outcome(
            energy=math.nan, error="Ray Tune stopped it before it had a score", stopped=True
        )
    return Outcome(
        energy=math.nan,
        metrics={"one_shot_loss": ending.score},
        error=f"Ray Tune stopped it at its one-shot score of {ending.score:g}",
        stopped=True,
    )
