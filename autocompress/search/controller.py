"""The entrances to a search: open everything it needs, run it, close it again."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from autocompress.evaluate.evaluator import Evaluator as TaskEvaluator
from autocompress.evaluate.task import open_task
from autocompress.execute.in_process import InProcess
from autocompress.graph.trace import trace_graph
from autocompress.search.ledger import Checkpoint, Ledger, ignore_checkpoint
from autocompress.search.loop import Controller, Evaluator
from autocompress.search.progress import SearchProgress, Watch, ignore_progress
from autocompress.search.records import Record
from autocompress.search.site import check_reachable
from autocompress.search.spec import Settings, make_spec, resolve_settings
from autocompress.search.study import hold_study
from autocompress.store.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search came to.

    Attributes:
        settings: Its settings with places and search space filled in.
        evaluated: Evaluations decided now; 0 when the search had been finished before.
        records: All decisions of the study.
        finished: Finished models, the best first; their ``artifact`` names them in the run
            folder.
    """

    settings: Settings
    evaluated: int
    records: tuple[Record, ...]

    @property
    def finished(self) -> list[Record]:
        """Return the finished models, the best first."""
        full = [one for one in self.records if one.stage == "full"]
        return sorted((one for one in full if math.isfinite(one.energy)), key=_rank)


def run_search(settings: Settings, *, progress: Watch = ignore_progress) -> SearchResult:
    """Search, or go on with a search that was stopped; a finished one evaluates nothing.

    Args:
        settings: The study; the same settings go on with the same study.
        progress: Called before each evaluation and at the end.

    Raises:
        BudgetError: The budget cannot be reached.
        EvaluationError: Evaluations fail again and again.
        SpecMismatchError: The study was begun with other settings.
        StudyBusyError: Another process holds the study.
        KeyboardInterrupt: Someone stopped it; call again to go on.
    """
    with open_controller(settings, progress=progress) as controller:
        before = len(controller.records)
        controller.run()
        records = tuple(controller.records)
        return SearchResult(
            settings=controller.settings, evaluated=len(records) - before, records=records
        )


def finalize_trial(
    settings: Settings, number: int, *, progress: Watch = ignore_progress
) -> Record:
    """Return the finished model of any decided trial, made now unless it exists.

    Args:
        settings: The study.
        number: Number of the trial.
        progress: Called before each evaluation and at the end.

    Raises:
        EvaluationError: The model could not be finished.
        StudyError: There is no such trial.
    """
    with open_controller(settings, progress=progress) as controller:
        return controller.finalize(number)


@contextmanager
def open_controller(
    settings: Settings, *, progress: Watch = ignore_progress
) -> Iterator[Controller]:
    """Give the controller of a study; the dense model is trained first when there is none."""
    settings = resolve_settings(settings)
    task = open_task(settings.task)
    check_reachable(settings, trace_graph(task.make_model().eval(), task.example()))
    folder = RunFolder(Path(settings.run_dir))

    def make_evaluator() -> Evaluator:
        progress(SearchProgress(phase="dense"))
        return TaskEvaluator(task, settings.evaluate, folder)

    with hold_controller(settings, make_evaluator, progress=progress) as controller:
        yield controller


@contextmanager
def hold_controller(
    settings: Settings,
    make_evaluator: Callable[[], Evaluator],
    *,
    progress: Watch = ignore_progress,
    checkpoint: Checkpoint = ignore_checkpoint,
) -> Iterator[Controller]:
    """Give the controller of a study while no other process writes to it.

    Args:
        settings: Resolved settings.
        make_evaluator: Called once the study is held.
        progress: Called before each evaluation and at the end.
        checkpoint: Called between any two writes.
    """
    run_dir = Path(settings.run_dir)
    with hold_study(settings.name, settings.storage, make_spec(settings), run_dir) as study:
        evaluator = make_evaluator()
        ledger = Ledger(study, settings.search.attempts, checkpoint)
        executor = InProcess(evaluator, RunFolder(run_dir))
        yield Controller(settings, ledger, evaluator, executor, progress)


def _rank(record: Record) -> float:
    return record.energy
