"""Searches of the small graph whose evaluations are trials of Ray Tune."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ray import tune

from autocompress.execute.ray_cluster import connect
from autocompress.execute.settings import ExecuteSettings
from autocompress.jobs import hash_json
from autocompress.search.budget import Budget
from autocompress.search.controller import (
    Extension,
    MakeExecutor,
    SearchResult,
    Wiring,
    hold_controller,
)
from autocompress.search.loop import Controller
from autocompress.search.progress import Watch
from autocompress.search.settings import SearchSettings
from autocompress.search.spec import Settings
from autocompress.search.tune import StudySearcher, make_trainable
from autocompress.settings import settings_to_json
from tests.fakes import FakeEvaluator, make_search
from tests.formula import FormulaRunner
from tests.tuned_runner import TunedMaker, TunedRunner

TUNE = "tune"  # The folder with Tune's own files, and the name of the run in it.


@dataclass
class PortableEvaluator(FakeEvaluator):
    """A stand-in that can be sent to trials.

    Attributes:
        runner: What runs there.
    """

    runner: TunedRunner = field(kw_only=True)

    def pack(self) -> Callable[[str], TunedRunner]:
        """Return what makes the runner."""
        return TunedMaker(self.runner)


@dataclass(frozen=True, kw_only=True)
class Opener:
    """Opens studies of the small graph for a ``StudySearcher``; survives pickle.

    Attributes:
        delay_s: Longest time of an evaluation.
        dies: See ``TunedRunner``.
        hangs: See ``TunedRunner``.
        refuses: See ``TunedRunner``.
    """

    delay_s: float = 0.0
    dies: str = ""
    hangs: str = ""
    refuses: str = ""

    @contextmanager
    def __call__(
        self,
        settings: Settings,
        *,
        source: str,
        extension: Extension,
        progress: Watch,
        make_executor: MakeExecutor,
    ) -> Iterator[Controller]:
        """Give a controller."""
        assert not source
        wiring = Wiring(
            make_evaluator=lambda: PortableEvaluator(runner=self.make_runner(settings)),
            make_executor=make_executor,
            watch=progress,
        )
        with hold_controller(settings, wiring, extension=extension) as controller:
            yield controller

    def make_runner(self, settings: Settings) -> TunedRunner:
        """Return what runs in trials."""
        how = settings_to_json(settings.evaluate)
        formula = FormulaRunner(
            root=settings.run_dir,
            evaluation_hash=hash_json({"dense": FakeEvaluator.dense_key, "evaluate": how}),
            delay_s=self.delay_s,
        )
        return TunedRunner(formula, dies=self.dies, hangs=self.hangs, refuses=self.refuses)


def make_tuned(folder: Path, *, weights: float = 0.3, **changes: Any) -> Settings:
    """Return settings of a search of the small graph by two trials at a time.

    Args:
        folder: The run folder.
        weights: The budget; one round reaches 0.52, and one candidate of four then is bad.
        changes: Of the settings of the search and of execution.
    """
    names = {one.name for one in fields(SearchSettings)}
    search = {"evaluations": 4, **{key: one for key, one in changes.items() if key in names}}
    execute = {key: one for key, one in changes.items() if key not in names}
    where = {"workers": 2, "executor": "ray", "address": "local", **execute}
    return make_search(
        str(folder),
        budget=Budget(weights=weights),
        search=SearchSettings(**search),
        execute=ExecuteSettings(**where),
    )


def make_tuner(
    searcher: StudySearcher, settings: Settings, *, glances: bool = False, **changes: Any
) -> tune.Tuner:
    """Return the tuner that a user of Tune would make; ``changes`` of its ``TuneConfig``."""
    how = {"num_samples": -1, "max_concurrent_trials": 2, "reuse_actors": True, **changes}
    return tune.Tuner(
        make_trainable(settings.execute, glances=glances),
        tune_config=tune.TuneConfig(search_alg=searcher, **how),
        run_config=tune.RunConfig(
            name=TUNE,
            storage_path=settings.run_dir,
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )


def run_tuned(
    settings: Settings, opener: Opener | None = None, **changes: Any
) -> tuple[SearchResult, tune.ResultGrid]:
    """Search by a tuner; return what the study and what Tune say; ``changes`` of the tuner."""
    with StudySearcher(settings, open_study=opener or Opener()) as searcher:
        grid = make_tuner(searcher, settings, **changes).fit()
    return searcher.result(), grid


def main(folder: str, way: str) -> None:
    """Search in a process of its own, which may be killed.

    Args:
        folder: The run folder.
        way: ``begin``, or ``restore`` Tune's run.
    """
    settings = make_tuned(Path(folder), batch=2)
    opener = Opener(delay_s=0.2)
    cluster = connect(settings.execute)
    if way == "restore":
        path = str(Path(folder).absolute() / TUNE)
        tune.Tuner.restore(path, make_trainable(settings.execute)).fit()
    else:
        run_tuned(settings, opener)
    cluster.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
