"""A search of the small graph by a process that may be killed."""

import json
import multiprocessing
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Literal

from autocompress.errors import StudyLostError
from autocompress.execute.base import Executor, Runner
from autocompress.execute.choose import open_executor
from autocompress.execute.in_process import InProcess
from autocompress.execute.settings import ExecuteSettings
from autocompress.execute.subprocess_pool import SubprocessPool
from autocompress.jobs import hash_json
from autocompress.report.frames import pareto_frame, trials_frame
from autocompress.search.budget import Budget
from autocompress.search.controller import NO_EXTENSION, Extension, Wiring, hold_controller
from autocompress.search.ledger import Checkpoint, ignore_checkpoint
from autocompress.search.loop import Controller
from autocompress.search.outage import name_outage
from autocompress.search.progress import SearchProgress
from autocompress.search.requests import Evaluator
from autocompress.search.settings import SearchSettings
from autocompress.search.space import SpaceSettings
from autocompress.search.spec import Settings
from autocompress.search.study import open_study
from autocompress.settings import settings_to_json
from autocompress.store.run_folder import RunFolder
from tests.acknowledged import acknowledge, acknowledge_decision
from tests.fake_pool import FakePool, Fault, run_smoothly
from tests.fakes import FakeEvaluator, make_search
from tests.formula import RUNS, FormulaRunner, keep_runner
from tests.laws import compare_memory

VIOLATIONS = "violations.txt"
PLACE = "place.txt"
CRASH = 9
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["tests.service"])


@dataclass(frozen=True, kw_only=True)
class Service:
    """One search.

    Attributes:
        folder: Where it works, and what it does is noted.
        name: Of the study.
        storage: The database; empty for a file of the folder.
        run_dir: The run folder; empty for the folder.
        search: How it searches.
        budget: What the model may cost; the default takes two rounds.
        space: What may be chosen.
        workers: Jobs at the same time.
        pool: Where they run; ``fake`` is the pool of one process.
        order: Seed of the order in which jobs of the fake pool finish.
        late: Whether the fake pool tells outcomes twice.
        fault: What goes wrong in the fake pool.
        delay_s: Longest time of an evaluation.
        stop_after_s: See ``ExecuteSettings``.
        wrap: What goes wrong in the evaluations.
        execute: The settings of the executor beside the workers.
        environment: Variables of the process.
        is_watched: Whether memory is compared with a replay at every decision.
    """

    folder: str
    name: str = "fake"
    storage: str = ""
    run_dir: str = ""
    search: SearchSettings = field(default_factory=lambda: SearchSettings(evaluations=5))
    budget: Budget = field(default_factory=lambda: Budget(weights=0.3))
    space: SpaceSettings = field(default_factory=SpaceSettings)
    workers: int = 1
    pool: Literal["in_process", "fake", "subprocess", "ray"] = "fake"
    order: int = 0
    late: bool = False
    fault: Callable[[str, int], Fault] = run_smoothly
    delay_s: float = 0.0
    stop_after_s: float = 0.0
    wrap: Callable[[FormulaRunner], Runner] = keep_runner
    execute: ExecuteSettings = field(default_factory=ExecuteSettings)
    environment: Mapping[str, str] = field(default_factory=dict)
    is_watched: bool = True

    @property
    def settings(self) -> Settings:
        """Return the settings of the study."""
        execute = replace(self.execute, workers=self.workers, stop_after_s=self.stop_after_s)
        return make_search(
            self.run_dir or self.folder,
            name=self.name,
            storage=self.storage,
            search=self.search,
            budget=self.budget,
            space=self.space,
            execute=execute,
        )

    def make_executor(self, _: Evaluator, folder: RunFolder) -> Executor:
        """Return the executor."""
        how = settings_to_json(self.settings.evaluate)
        runner = FormulaRunner(
            root=self.folder,
            evaluation_hash=hash_json({"dense": FakeEvaluator().dense_key, "evaluate": how}),
            delay_s=self.delay_s,
        )
        make_runner = partial(self.wrap, runner)
        if self.pool == "subprocess":
            return SubprocessPool(make_runner, folder, self.settings.execute)
        if self.pool == "ray":
            settings = replace(self.settings.execute, executor="ray")
            return open_executor(settings, make_runner(), make_runner, folder)
        if self.pool == "in_process":
            return InProcess(make_runner(), folder)
        return FakePool(
            make_runner(),
            folder,
            slots=self.workers,
            seed=self.order,
            late=self.late,
            fault=self.fault,
        )


def serve(
    service: Service,
    checkpoint: Checkpoint = ignore_checkpoint,
    extension: Extension = NO_EXTENSION,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Search until the end or the stop; what breaks a law is noted in a file of the folder.

    So is every write that was acknowledged.
    """
    os.environ.update(service.environment)
    held: list[Controller] = []
    root = Path(service.folder)

    def pass_checkpoint(name: str) -> None:
        acknowledge(root, name)
        checkpoint(name)

    def watch(progress: SearchProgress) -> None:
        if progress.record is None:
            return
        acknowledge_decision(root, progress.record)
        if not service.is_watched:
            return
        with suppress(StudyLostError), name_outage(service.name):  # It may be away just now.
            for violation in compare_memory(held[0], study, progress.record):
                with (root / VIOLATIONS).open("a") as file:
                    file.write(f"{violation}\n")

    wiring = Wiring(
        make_evaluator=FakeEvaluator,
        make_executor=service.make_executor,
        watch=watch,
        checkpoint=pass_checkpoint,
        clock=clock,
    )
    with hold_controller(service.settings, wiring, extension=extension) as controller:
        study = open_study(service.settings.name, service.settings.storage)
        held.append(controller)
        controller.run()


def serve_and_crash(service: Service, name: str, occurrence: int) -> None:
    """Search until checkpoint ``name`` is passed for that time, from 0; then end at once."""
    passed = 0

    def checkpoint(here: str) -> None:
        nonlocal passed
        if here == name and passed == occurrence:
            os._exit(CRASH)
        passed += here == name

    serve(service, checkpoint)


def serve_and_tell(service: Service) -> None:
    """Search; a file always holds the name of the last checkpoint."""
    handle = os.open(Path(service.folder) / PLACE, os.O_WRONLY)

    def checkpoint(name: str) -> None:
        os.pwrite(handle, f"{name:<12}".encode(), 0)

    serve(service, checkpoint)


def serve_elsewhere(service: Service, zone: str, name: str, occurrence: int) -> None:
    """Do the same as :func:`serve_and_crash`, in another time zone."""
    os.environ["TZ"] = zone
    time.tzset()
    serve_and_crash(service, name, occurrence)


def read_meanwhile(service: Service) -> None:
    """Read the study again and again until a file ``done`` is there; note what was seen."""
    root, settings = Path(service.folder), service.settings
    seen: list[tuple[int, int, int]] = []
    is_done = False
    while not is_done:
        is_done = (root / "done").exists()
        study = open_study(settings.name, settings.storage)
        frame, front = trials_frame(study), pareto_frame(study, ("energy", "weights"))
        with closing(sqlite3.connect(f"file:{root}/study.db?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT COUNT(*) FROM trials").fetchone()[0]
        seen.append((int(frame["seq"].notna().sum()), len(front), rows))
        time.sleep(0.05)
    (root / "seen.json").write_text(json.dumps(seen))


def start(target: Callable[..., None], *args: object) -> ForkServerProcess:
    """Return a started process."""
    process = FORKSERVER.Process(target=target, args=args)
    process.start()
    return process


def run(target: Callable[..., None], *args: object) -> int | None:
    """Return the exit status of a process that has ended."""
    process = start(target, *args)
    process.join()
    return process.exitcode


def kill_often(service: Service, moments_s: Iterable[float]) -> list[str]:
    """Search in processes that are killed after so many seconds; return where they were.

    The seconds count in turns from the start and from the first checkpoint, so that busy
    machines get beyond the opening of the study. The last process comes to the end.
    """
    places: list[str] = []
    for number, moment_s in enumerate(moments_s):
        Path(service.folder).mkdir(parents=True, exist_ok=True)
        (Path(service.folder) / PLACE).write_text("")
        process = start(serve_and_tell, service)
        while number % 2 and process.is_alive() and find_place(service, 0) == "opening":
            time.sleep(0.01)
        process.join(moment_s)
        process.kill()
        process.join()
        if process.exitcode == 0:
            return places
        assert process.exitcode == -signal.SIGKILL
        places.append(find_place(service, process.pid or 0))
    assert run(serve, service) == 0
    return places


def find_place(service: Service, pid: int) -> str:
    """Return where a killed process was: in an evaluation, or after which checkpoint."""
    root = Path(service.folder)
    path = root / RUNS
    last = path.read_text().splitlines()[-1].split() if path.exists() else []
    if last and last[0] == "begin" and last[2] == str(pid):
        return "evaluation"
    return (root / PLACE).read_text().strip() or "opening"
