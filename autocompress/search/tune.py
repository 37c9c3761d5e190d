"""Drive a search by Ray Tune: its schedulers, loggers and callbacks; the study stays the truth.

Tune's trials are the workers of an ordinary controller, which runs in a thread of this process.
What Tune remembers of a run is never read back: a new run goes on with the study.
"""

import json
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from autocompress.errors import SettingError, StudyError
from autocompress.execute.base import Executor, Portable
from autocompress.execute.ray_cluster import Cluster, connect
from autocompress.execute.ray_crew import make_profile
from autocompress.search.controller import (
    NO_EXTENSION,
    Extension,
    SearchResult,
    open_controller,
)
from autocompress.search.loop import Controller
from autocompress.search.progress import Watch, ignore_progress
from autocompress.search.requests import Evaluator
from autocompress.search.spec import Settings, resolve_settings
from autocompress.search.storage import strip_password
from autocompress.search.tune_exchange import Ending, Exchange, ExchangeExecutor
from autocompress.search.tune_mailbox import Clerk
from autocompress.search.tune_scheduler import PerRound
from autocompress.search.tune_thread import SearchThread
from autocompress.search.tune_trials import GlanceMaker, StudyTrial, make_trainable
from autocompress.store.run_folder import RunFolder

__all__ = ["PerRound", "StudySearcher", "StudyTrial", "make_trainable", "search_with_tune"]

PATIENCE_S = 0.5  # Tune's event loop stands still while it is asked for a trial.
VERSION = 1

Open = Callable[..., AbstractContextManager[Controller]]


class StudySearcher(Searcher):  # type: ignore[misc]
    """The ``search_alg`` of a ``tune.Tuner`` whose trials are evaluations of a study.

    Its trainable is that of :func:`make_trainable`. A trial that errors is a failed attempt, and
    the study asks for another until ``search.attempts``. A candidate that a scheduler stops early
    is decided against: it has no energy in the study and is not tried again. ``num_samples``
    counts trials, attempts included; want -1, and the study says when it is done.

    As a context it opens the study at once, so that what is wrong with the settings is said before
    Tune starts, and ends the search when it is left; otherwise the first trial opens it.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        source: str = "",
        extension: Extension = NO_EXTENSION,
        progress: Watch = ignore_progress,
        open_study: Open = open_controller,
    ) -> None:
        """Open nothing yet.

        Args:
            settings: The study; ``execute.workers`` evaluations run at the same time unless
                ``tune.TuneConfig.max_concurrent_trials`` says otherwise.
            source: As for ``run_search``.
            extension: As for ``run_search``.
            progress: As for ``run_search``; called in another thread.
            open_study: Gives the controller, as ``open_controller`` does.
        """
        super().__init__(metric="energy", mode="min")
        self._settings = settings
        self._kept: dict[str, Any] = {
            "source": source,
            "extension": extension,
            "open_study": open_study,
        }
        self._open_study = partial(
            open_study, source=source, extension=extension, progress=progress
        )
        self._exchange = Exchange(settings.execute.workers)
        self._search: SearchThread | None = None
        self._cluster: Cluster | None = None
        self._clerk: Clerk | None = None
        self._given: dict[str, tuple[str, str]] = {}  # Key and stage, by trial of Tune.

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how ``Tuner.restore`` makes one that goes on with the same study.

        Tune writes it to files: a password has to come from elsewhere then, as from PGPASSWORD.
        """
        bare = replace(self._settings, storage=strip_password(self._settings.storage))
        kept = {**self._kept, "source": strip_password(self._kept["source"])}
        return partial(StudySearcher, bare, **kept), ()

    def __enter__(self) -> "StudySearcher":
        """Open the study.

        Raises:
            AutoCompressError: As ``run_search``.
        """
        self._cluster = connect(self._settings.execute)
        try:
            self._start().wait_until_open()
        except BaseException:
            self._cluster.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the search; what runs is queued for the next one."""
        self.close()

    def close(self) -> None:
        """End the search; what runs is queued for the next one. May be called again."""
        if self._search is not None:
            self._search.stop()
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.close()

    def result(self) -> SearchResult:
        """Return what the search came to; one that is not over is ended.

        Raises:
            AutoCompressError: As ``run_search``.
            StudyError: No tuner has run.
        """
        if self._search is None:
            raise StudyError(f"study {self._settings.name!r}: no tune.Tuner has run")
        self._search.stop()
        return self._search.wait()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next job as the configuration of a trial.

        Raises:
            AutoCompressError: The search has ended with it, as ``run_search``.
        """
        search = self._start()
        job_of_key = self._exchange.take(PATIENCE_S)
        if job_of_key is None:
            return str(Searcher.FINISHED) if search.is_over else None
        key, job = job_of_key
        assert self._clerk is not None
        self._given[trial_id] = key, job.stage
        shunned = self._clerk.shunned
        avoid = {"avoid": shunned} if shunned else {}
        return {"mailbox": self._clerk.name, "key": key, **job.to_json(), **avoid}

    def on_trial_complete(
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,
        error: bool = False,  # noqa: FBT001, FBT002 - Tune's
    ) -> None:
        """Tell the controller that a trial has ended."""
        key, stage = self._given.pop(trial_id, ("", ""))
        if not key:
            return  # One of an earlier search, which Tune restored: its job was given out anew.
        figures = result or {}
        stopped = stage == "fast" and not error and not figures.get("complete")
        self._exchange.end(key, Ending(stopped=stopped, score=figures.get("energy")))

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Run so many evaluations at the same time; return True: it is heeded here."""
        self._exchange.resize(max_concurrent)
        return True

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """Return True: the study has its own space and energy."""
        return True

    def save(self, checkpoint_path: str) -> None:
        """Write the name of the study, which is all that a search needs to go on."""
        record = {"version": VERSION, "study": self._settings.name}
        Path(checkpoint_path).write_text(json.dumps(record), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Check that a run to go on with was of this study.

        Raises:
            StudyError: It was of another one.
        """
        record = json.loads(Path(checkpoint_path).read_text(encoding="utf-8"))
        if record != {"version": VERSION, "study": self._settings.name}:
            raise StudyError(
                f"want a run of the study {self._settings.name!r}, got {record}; "
                "start a new tune.Tuner: it goes on with the study"
            )

    def _start(self) -> SearchThread:
        if self._search is None:
            self._search = SearchThread(self._open, self._exchange)
        return self._search

    def _open(self) -> AbstractContextManager[Controller]:
        return self._open_study(self._settings, make_executor=self._make_executor)

    def _make_executor(self, evaluator: Evaluator, folder: RunFolder) -> Executor:
        if not isinstance(evaluator, Portable):
            raise SettingError(f"{type(evaluator).__name__} cannot be sent to the trials of Tune")
        profile = make_profile(self._settings.execute, "fast")
        self._clerk = Clerk(folder, GlanceMaker(evaluator.pack()), profile)
        return ExchangeExecutor(self._exchange, folder, self._clerk)


def search_with_tune(
    settings: Settings,
    *,
    tune_config: tune.TuneConfig | None = None,
    run_config: tune.RunConfig | None = None,
    source: str = "",
    extension: Extension = NO_EXTENSION,
    progress: Watch = ignore_progress,
) -> SearchResult:
    """Search as ``run_search`` does, with the trials, loggers and schedulers of Ray Tune.

    Ray is the one that runs; without one, what ``execute.address`` names or starts. Tune's own
    files lie in the run folder under ``tune``, in a temporary folder when that is a URL.

    Args:
        settings: The study; the same settings go on with the same study.
        tune_config: Its ``scheduler`` may stop candidates at their one-shot score; every round has
            its own, see :class:`PerRound`. ``num_samples = 1``, Tune's default, is no limit.
        run_config: Its callbacks, stop conditions and place.
        source: As for ``run_search``.
        extension: As for ``run_search``.
        progress: As for ``run_search``; called in another thread.

    Returns:
        As ``run_search``; not ``done`` when Ctrl-C or a limit of Tune's ended it before.

    Raises:
        SettingError: ``tune_config`` has a search algorithm.
        AutoCompressError: As ``run_search``.
    """
    settings = resolve_settings(settings)
    tuned = tune_config or tune.TuneConfig()
    if tuned.search_alg is not None:
        raise SettingError("tune_config.search_alg: the study is the search algorithm; want None")
    scheduler = tuned.scheduler
    if scheduler is not None and not isinstance(scheduler, PerRound):
        scheduler = PerRound(scheduler)
    glances = scheduler is not None and settings.evaluate.fast.fidelity != "one_shot"
    with StudySearcher(
        settings, source=source, extension=extension, progress=progress
    ) as searcher:
        tuned = replace(
            tuned,
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1 if tuned.num_samples == 1 else tuned.num_samples,
            max_concurrent_trials=tuned.max_concurrent_trials or settings.execute.workers,
            reuse_actors=True,
            trial_name_creator=tuned.trial_name_creator or name_trial,
            trial_dirname_creator=tuned.trial_dirname_creator or name_trial,
        )
        trainable = make_trainable(settings.execute, glances=glances)
        place = _place_run(run_config or tune.RunConfig(), settings.run_dir)
        with _keep_signals():
            tune.Tuner(trainable, tune_config=tuned, run_config=place).fit()
    return searcher.result()


def name_trial(trial: Trial) -> str:
    """Return a name for a trial that says what it evaluates, such as ``fast-0-2f61a04b``."""
    return f"{trial.config['stage']}-{trial.config['round']}-{trial.trial_id}"


@contextmanager
def _keep_signals() -> Iterator[None]:
    """Put back what Ctrl-C and SIGUSR1 do: Tune would swallow the first one after a run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _place_run(given: tune.RunConfig, run_dir: str) -> tune.RunConfig:
    """Return ``given`` with a place for Tune's files, and without checkpoints of nothing."""
    place = given.storage_path
    if place == tune.RunConfig().storage_path:  # No one has chosen it.
        is_url = "://" in run_dir
        temporary = tempfile.mkdtemp(prefix="autocompress-tune-") if is_url else ""
        place = temporary or str(Path(run_dir).absolute() / "tune")
    checkpoints = replace(given.checkpoint_config, checkpoint_at_end=False)
    return replace(given, storage_path=place, checkpoint_config=checkpoints)
