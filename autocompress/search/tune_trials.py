"""What runs in the processes of Ray Tune's trials. It imports little, so that they start fast."""

import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, cast

import ray
from ray import tune

from autocompress.errors import EvaluationError
from autocompress.execute.base import Runner, make_failure
from autocompress.execute.ray_crew import avoid_nodes
from autocompress.execute.ray_worker import Answer, Maker, RayWorker
from autocompress.execute.settings import ExecuteSettings
from autocompress.execute.worker import Reply
from autocompress.jobs import Job, Outcome
from autocompress.search.tune_mailbox import MAKER, name_answer, name_base, name_place

GLANCE = "glance"  # The stage of a candidate's one-shot score; the study knows no such jobs.
NO_LIMIT = 2**62  # Tune would call it an error of the next trial when a grown process left.


class Glancer(Runner, Protocol):
    """What can also give a candidate's one-shot score."""

    def glance(self, job: Job) -> Outcome:
        """Return the score of the one-shot projection of a fast job; may raise."""
        ...


@dataclass(frozen=True)
class Glancing:
    """A runner that knows one stage more.

    Attributes:
        runner: Runs the others.
    """

    runner: Glancer

    def run(self, job: Job) -> Outcome:
        """Return what came of ``job``; may raise."""
        if str(job.stage) == GLANCE:
            return self.runner.glance(replace(job, stage="fast"))
        return self.runner.run(job)


@dataclass(frozen=True)
class GlanceMaker:
    """Makes a runner that knows one stage more; survives pickle.

    Attributes:
        make: Makes a runner that knows the others, a ``Glancer``.
    """

    make: Maker

    def __call__(self, folder: str) -> Glancing:
        """Return a new runner, given a scratch folder."""
        return Glancing(cast(Glancer, self.make(folder)))


class StudyTrial(tune.Trainable):  # type: ignore[misc]
    """One evaluation as a trial of Ray Tune; :func:`make_trainable` fills in the attributes.

    A candidate reports its ``energy``, after that of the one-shot projection if ``glances``:
    a scheduler may stop it there. Models report once. What fails is an error of its trial.

    Attributes:
        execute: Resources, threads and time limits.
        glances: Whether candidates report the score of the one-shot projection first.
    """

    execute: ClassVar[ExecuteSettings]
    glances: ClassVar[bool]

    @classmethod
    def default_resource_request(cls, config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
        """Return what a trial reserves: models may take more than candidates."""
        settings = cls.execute
        wanted = {"CPU": settings.cpus, "GPU": settings.gpus}
        if config.get("stage") in ("round", "full"):
            wanted["CPU"] = settings.model_cpus or settings.cpus
            wanted["GPU"] = settings.model_gpus or settings.gpus
        bundles = [{name: one for name, one in wanted.items() if one}]
        if not config.get("avoid"):
            return tune.PlacementGroupFactory(bundles)
        elsewhere = [avoid_nodes(frozenset(config["avoid"]))]
        return tune.PlacementGroupFactory(bundles, bundle_label_selector=elsewhere)

    def setup(self, config: dict[str, Any]) -> None:
        """Take the first job; the evaluator is made in the first step."""
        self._order = config
        self._worker: RayWorker | None = None
        self._mailbox: Any = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another job; the evaluator stays."""
        self._order = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Return the figures of the next report.

        Raises:
            EvaluationError: The evaluation failed.
        """
        if not self._enter():
            # Tune restored the trial of a search that is over: its job was given out anew.
            return {"energy": math.nan, "complete": False, "done": True}
        stage = self._order["stage"]
        is_glance = self.glances and stage == "fast" and self.iteration == 0
        answer = self._evaluate(GLANCE if is_glance else stage)
        reply = Reply.from_bytes(answer.reply)
        outcome = Outcome.from_json(reply.outcome) if reply.outcome else None
        if not is_glance or outcome is None or outcome.failed:
            self._hand_in(answer)
        if outcome is None or outcome.failed:
            raise EvaluationError(outcome.error if outcome else reply.text)
        figures = {**outcome.metrics, "energy": outcome.energy, "complete": not is_glance}
        return {**figures, "done": not is_glance}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Return nothing: Tune itself remembers which report was the last."""
        return {}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Do nothing, see :meth:`save_checkpoint`."""

    def cleanup(self) -> None:
        """Remove the scratch folder."""
        if self._worker is not None:
            self._worker.clear()

    def _enter(self) -> bool:
        """Say where this is and make the evaluator; return whether the search is alive."""
        try:
            self._mailbox = ray.get_actor(self._order["mailbox"])
        except ValueError:
            return False
        place = ray.get_runtime_context().get_node_id()
        ray.get(self._mailbox.leave.remote(name_place(self._order["key"]), place))
        if self._worker is None:
            self._worker = self._make_worker()
        return True

    def _make_worker(self) -> RayWorker:
        reserved = self.default_resource_request(self._order).required_resources
        threads = self.execute.threads or max(1, int(reserved.get("CPU", 1.0)))
        worker = RayWorker(threads, NO_LIMIT, has_gpus="GPU" in reserved)
        reply = Reply.from_bytes(worker.prepare(ray.get(self._mailbox.show.remote(MAKER))))
        if reply.outcome or reply.stop:
            worker.clear()
            self._hand_in(Answer(reply=reply.to_bytes(), models={}))
            raise EvaluationError(reply.text or reply.outcome["error"])
        return worker

    def _evaluate(self, stage: str) -> Answer:
        order = self._order
        job = {name: order[name] for name in ("candidate", "round", "base", "seed")}
        base = ray.get(self._mailbox.show.remote(name_base(order["base"])))
        assert self._worker is not None
        with self._limit_time():
            return self._worker.run(order["key"], {**job, "stage": stage}, base or [])

    def _hand_in(self, answer: Answer) -> None:
        ray.get(self._mailbox.leave.remote(name_answer(self._order["key"]), answer))

    @contextmanager
    def _limit_time(self) -> Iterator[None]:
        """End the process when the job takes too long: nothing else ends a job that hangs."""
        name = "timeout_s" if self._order["stage"] == "fast" else "model_timeout_s"
        limit_s = getattr(self.execute, name)
        begun = time.monotonic()

        def give_up() -> None:
            text = f"the evaluation took longer than execute.{name} = {limit_s:g} seconds"
            failure = make_failure(text, time.monotonic() - begun)
            self._hand_in(Answer(reply=Reply(outcome=failure.to_json()).to_bytes(), models={}))
            os._exit(1)

        timer = threading.Timer(limit_s or threading.TIMEOUT_MAX, give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def make_trainable(execute: ExecuteSettings, *, glances: bool = False) -> type[StudyTrial]:
    """Return the trainable of a ``tune.Tuner`` whose ``search_alg`` is a ``StudySearcher``.

    Args:
        execute: Cores and GPUs of a trial, ``model_cpus`` and ``model_gpus`` of one that prunes
            to a candidate or finishes a model; threads and time limits.
        glances: Whether candidates report the one-shot score first, see :class:`StudyTrial`.
    """
    # Made here and not in the module, so that Ray sends its attributes along.
    return type("StudyTrial", (StudyTrial,), {"execute": execute, "glances": glances})
