"""The entrances to a search: open everything it needs, run it, close it again."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from autocompress.errors import SettingError, StudyError, StudyLostError
from autocompress.evaluate.evaluator import Evaluator as TaskEvaluator
from autocompress.evaluate.factory import EvaluatorFactory
from autocompress.evaluate.task import key_dense, open_task
from autocompress.execute.base import Executor
from autocompress.execute.choose import open_executor
from autocompress.execute.in_process import InProcess
from autocompress.graph.trace import trace_graph
from autocompress.search.desk import Desk
from autocompress.search.forecast import find_worst_energy
from autocompress.search.ledger import Checkpoint, Ledger, ignore_checkpoint
from autocompress.search.loop import Controller
from autocompress.search.outage import name_outage, outlast
from autocompress.search.progress import SearchProgress, Watch, ignore_progress
from autocompress.search.records import Record
from autocompress.search.requests import Evaluator
from autocompress.search.settings import LEAST_PER_CHAIN, MOST_CHAINS
from autocompress.search.site import check_dense, check_reachable
from autocompress.search.source import find_source_again, settle_source
from autocompress.search.spec import (
    Settings,
    check_device,
    check_lasting,
    make_spec,
    resolve_settings,
)
from autocompress.search.study import hold_study, open_study, read_spec
from autocompress.search.warm import Source, fetch_object
from autocompress.store.run_folder import RunFolder, open_folder

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search came to.

    Attributes:
        settings: Its settings with places and search space filled in.
        evaluated: Evaluations decided now; 0 when the search had been finished before.
        records: All decisions of the study.
        done: Whether there is nothing left to do; False when the time was over.
        missed: Why no finished model holds ``budget.worst_metric``, once that is clear.
        finished: Finished models, the best first; their ``artifact`` names them in the run
            folder.
    """

    settings: Settings
    evaluated: int
    records: tuple[Record, ...]
    done: bool
    missed: str = ""

    @property
    def finished(self) -> list[Record]:
        """Return the finished models, the best first.

        Where a resource is minimised these are the smallest of those that hold the metric.
        """
        resource, worst = self.settings.budget.minimize, find_worst_energy(self.settings)

        def rank(record: Record) -> tuple[bool, float]:
            if worst is None or record.energy > worst:
                return True, record.energy
            return False, record.metrics[resource]

        full = [one for one in self.records if one.stage == "full"]
        return sorted((one for one in full if math.isfinite(one.energy)), key=rank)


@dataclass(frozen=True, kw_only=True)
class Extension:
    """More of a search than its settings ask for.

    Attributes:
        evaluations: Further fast evaluations in the last round, at the last temperature.
        finalize_top: Finished models wanted in all; 0 leaves their number.
    """

    evaluations: int = 0
    finalize_top: int = 0

    def __post_init__(self) -> None:
        for name in ("evaluations", "finalize_top"):
            if getattr(self, name) < 0:
                raise SettingError(f"{name}: want 0 or more, got {getattr(self, name)}")


NO_EXTENSION = Extension()
MakeExecutor = Callable[[Evaluator, RunFolder], Executor]


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """What a controller is made of.

    Attributes:
        make_evaluator: Called once the study is held.
        make_executor: Called with the evaluator and the run folder.
        watch: Told of every step.
        checkpoint: Called between any two writes.
        clock: Seconds; only their differences count.
    """

    make_evaluator: Callable[[], Evaluator]
    make_executor: MakeExecutor = InProcess
    watch: Watch = ignore_progress
    checkpoint: Checkpoint = ignore_checkpoint
    clock: Callable[[], float] = time.monotonic


def run_search(
    settings: Settings,
    *,
    source: str = "",
    extension: Extension = NO_EXTENSION,
    progress: Watch = ignore_progress,
) -> SearchResult:
    """Search, or go on with a search that was stopped; a finished one evaluates nothing.

    Args:
        settings: The study; the same settings go on with the same study.
        source: A study to start from, which has the same task and evaluations: ``NAME`` in the
            same storage or in ``runs/NAME``, or ``URL#NAME``. What it evaluated is not evaluated
            again; its best candidates within the new limits come first, and a model of one of
            its rounds takes the dense one's place if it lies on the way. Its seed, budget, space
            and search settings may be others.
        extension: What to do beyond what the study was begun for.
        progress: Called before each evaluation, after each decision and at the end.

    Raises:
        BudgetError: The budget cannot be reached.
        EvaluationError: Evaluations fail again and again.
        SpecMismatchError: The study was begun with other settings.
        StudyBusyError: Another process holds the study.
        KeyboardInterrupt: Someone stopped it; call again to go on.
    """
    with open_controller(
        settings, source=source, extension=extension, progress=progress
    ) as controller:
        return run_controller(controller)


def run_controller(controller: Controller) -> SearchResult:
    """Return what the search of an open controller comes to; raises as :func:`run_search`."""
    before = len(controller.records)
    plan = controller.run()
    records = tuple(controller.records)
    return SearchResult(
        settings=controller.settings,
        evaluated=len(records) - before,
        records=records,
        done=plan.todo == "done",
        missed=plan.missed,
    )


def finalize_trials(
    settings: Settings, numbers: Sequence[int], *, progress: Watch = ignore_progress
) -> list[Record]:
    """Return the finished models of decided trials, made now unless they exist.

    Args:
        settings: The study.
        numbers: Of the trials; as many models are made at the same time as there are workers.
        progress: Called before each evaluation and at the end.

    Raises:
        EvaluationError: A model could not be finished.
        StudyError: There is no such trial.
    """
    with open_controller(settings, progress=progress) as controller:
        return controller.finalize(numbers)


@contextmanager
def open_controller(
    settings: Settings,
    *,
    source: str = "",
    extension: Extension = NO_EXTENSION,
    progress: Watch = ignore_progress,
    make_executor: MakeExecutor | None = None,
) -> Iterator[Controller]:
    """Give the controller of a study; the dense model is trained first when there is none.

    Arguments as for :func:`run_search`; ``make_executor`` takes the place of the executor that
    the settings ask for.
    """
    settings = settle_chains(resolve_settings(settings))
    check_lasting(settings)
    check_device(settings)
    found = find_source_again(source, settings) if source else None
    task = open_task(settings.task)
    check_reachable(settings, trace_graph(task.make_model().eval(), task.example()))
    folder = open_folder(settings.run_dir)

    def make_evaluator() -> Evaluator:
        if found is not None:
            fetch_object(key_dense(settings.task), open_folder(found.run_dir), folder)
        progress(SearchProgress(phase="dense"))
        return TaskEvaluator(task, settings.evaluate, folder)

    def open_own(evaluator: Evaluator, folder: RunFolder) -> Executor:
        factory = EvaluatorFactory(
            task=settings.task, evaluate=settings.evaluate, run_dir=settings.run_dir
        )
        return open_executor(settings.execute, evaluator, factory, folder)

    wiring = Wiring(
        make_evaluator=make_evaluator, make_executor=make_executor or open_own, watch=progress
    )
    with hold_controller(settings, wiring, source=found, extension=extension) as controller:
        yield controller


@contextmanager
def hold_controller(
    settings: Settings,
    wiring: Wiring,
    *,
    source: Source | None = None,
    extension: Extension = NO_EXTENSION,
) -> Iterator[Controller]:
    """Give the controller of a study while no other process writes to it.

    Args:
        settings: Resolved settings.
        wiring: What it works with.
        source: The study that a new one starts from.
        extension: What to do beyond what the study was begun for.
    """
    folder = open_folder(settings.run_dir)
    folder.prepare()
    objectives = len(settings.search.objectives)
    spec = make_spec(settings)
    with hold_study(settings.name, settings.storage, spec, objectives) as held:
        evaluator = wiring.make_evaluator()  # It may train for hours, and the database go away.
        executor = wiring.make_executor(evaluator, folder)

        def survive(work: Callable[[], Result]) -> Result:
            def name() -> Result:
                with name_outage(settings.name):
                    return work()

            patience_s = settings.execute.storage_patience_s
            reopen = partial(held.reopen, patience_s)
            return outlast(name, reopen, patience_s=patience_s, clock=wiring.clock)

        def make_ledger() -> Ledger:
            return Ledger(held, settings.search.attempts, wiring.checkpoint)

        # Once: what more is wanted is counted from what the study has now.
        wanted = survive(
            lambda: make_ledger().plan_extension(extension.evaluations, extension.finalize_top)
        )

        def make_controller() -> Controller:
            check_dense(held.study, evaluator.dense_key)  # Before anything is written.
            stock = settle_source(held.study, source, folder, settings, evaluator.dense_key)
            ledger = make_ledger()
            ledger.describe_study(wanted)
            desk = Desk(
                ledger=ledger,
                evaluator=evaluator,
                executor=executor,
                watch=wiring.watch,
                stock=stock,
                clock=wiring.clock,
            )
            return Controller(settings, desk)

        yield survive(make_controller)


def settle_chains(settings: Settings) -> Settings:
    """Return resolved settings with a number of chains: that of the study, or one per worker."""
    if settings.search.chains:
        return settings
    affordable = max(1, settings.search.evaluations // LEAST_PER_CHAIN)
    chains = min(MOST_CHAINS, affordable, settings.execute.workers)
    try:
        study = open_study(settings.name, settings.storage)
        chains = read_spec(study)["search"]["chains"]
    except StudyLostError:
        raise  # Who guesses now may begin it in another way than it was.
    except (StudyError, KeyError):
        pass  # There is none yet, or opening it for writing will say what is wrong with it.
    return replace(settings, search=replace(settings.search, chains=chains))
