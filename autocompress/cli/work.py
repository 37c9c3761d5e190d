"""What the working commands do; loads torch and Optuna."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import NoReturn

import optuna
import typer

from autocompress.cli.find import Found, has_study, open_found
from autocompress.cli.plan import print_feasibility
from autocompress.cli.progress import show_progress
from autocompress.cli.results import print_results
from autocompress.cli.screen import open_console, print_pairs
from autocompress.cli.tables import rank_candidates
from autocompress.errors import SettingError
from autocompress.evaluate.task import open_task, train_dense
from autocompress.graph.layers import LayerGraph
from autocompress.graph.trace import trace_graph
from autocompress.report.sinks import make_sink_settings, open_sinks
from autocompress.search.controller import (
    NO_EXTENSION,
    Extension,
    finalize_trials,
    run_search,
)
from autocompress.search.preview import preview_source
from autocompress.search.progress import SearchProgress, Watch
from autocompress.search.space import write_space
from autocompress.search.spec import Settings, find_outputs, make_spec, resolve_settings
from autocompress.settings import flatten_settings
from autocompress.store.run_folder import open_folder

INTERRUPTED = 130
MISSED = 3  # The search is done, but no model holds the metric that was wanted.


def train_task(settings: Settings) -> None:
    """Train the dense model of ``settings`` and say where it lies."""
    places = resolve_settings(settings)
    folder = open_folder(places.run_dir)
    _, key, metrics = train_dense(open_task(settings.task), folder)
    print_pairs(
        {
            f"validation {settings.task.metric}": f"{metrics['val_metric']:.4f}",
            "validation loss": f"{metrics['val_loss']:.4f}",
            "parameters": f"{metrics['params']:,.0f}",
            "model": str(folder.path(key)),
        }
    )


def write_task_space(settings: Settings, output: Path | None, *, force: bool) -> None:
    """Write the search space of ``settings`` and show what it reaches.

    Raises:
        SettingError: The file exists and ``force`` is not set.
    """
    name = settings.task.model.name
    path = Path("search_spaces") / f"{name.replace(':', '.')}.toml" if output is None else output
    if path.exists() and not force:
        raise SettingError(f"{path}: exists already; add --force to replace it, or --output FILE")
    graph = trace_task(settings)
    write_space(path, graph, resolve_settings(settings).space, title=f"Search space of {name}.")
    print_feasibility(settings, graph)
    open_console().print(f"written: {path}", markup=False)


def trace_task(settings: Settings) -> LayerGraph:
    """Return the graph of the dense model."""
    task = open_task(settings.task)
    return trace_graph(task.make_model().eval(), task.example())


def search_study(
    settings: Settings,
    *,
    again: str,
    sinks: str = "",
    source: str = "",
    extension: Extension = NO_EXTENSION,
) -> None:
    """Search until done and show the results.

    Args:
        settings: Of the study.
        again: The command that goes on after Ctrl-C.
        sinks: Where else to write figures, with commas between.
        source: The study that a new one starts from, if it does.
        extension: What to do beyond what the study was begun for.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if not has_study(settings):
            graph = trace_task(settings)
            print_feasibility(settings, graph)
            if source:
                taken = preview_source(resolve_settings(settings), graph, source)
                print_pairs({f"from {taken.name}": taken.describe()})
        with show_progress() as update, log_figures(settings, sinks) as log:
            tell = partial(_tell, (update, log))
            result = run_search(settings, source=source, extension=extension, progress=tell)
    except KeyboardInterrupt:
        _say_stopped(again)
    name = result.settings.name
    if not result.done:
        text = f"The time is over after {result.evaluated} evaluations; go on with: {again}"
        open_console().print(text, markup=False)
    elif not result.evaluated:
        text = f"The search of {name} is done: all {len(result.records)} evaluations were there."
        open_console().print(text, markup=False)
    print_results(open_found(result.settings))
    if result.missed:
        open_console(stderr=True).print(result.missed, markup=False)
        raise typer.Exit(MISSED)


def log_figures(settings: Settings, sinks: str) -> AbstractContextManager[Watch]:
    """Return what tells ``sinks`` of a search; they write to ``logs`` beside its report.

    Raises:
        SettingError: One is unknown or not installed.
    """
    places = resolve_settings(settings)
    names = tuple(name.strip() for name in sinks.split(",") if name.strip())
    chosen = make_sink_settings(names, str(find_outputs(places) / "logs"))
    spec = flatten_settings(make_spec(places))
    del spec["search.chains"]  # Settled by the first start: a resumed search has the same run.
    return open_sinks(chosen, places.name, spec)


def _tell(watches: Sequence[Watch], now: SearchProgress) -> None:
    for watch in watches:
        watch(now)


def finalize_study(found: Found, *, trials: Sequence[int], top: int, again: str) -> None:
    """Make finished models of ``trials``, or of the ``top`` best, and show the results.

    Raises:
        StudyError: A trial is not there.
    """
    numbers = rank_candidates(found.study)[:top] if top else trials
    try:
        with show_progress() as update:
            finalize_trials(found.settings, numbers, progress=update)
    except KeyboardInterrupt:
        _say_stopped(again)
    print_results(found)


def _say_stopped(again: str) -> NoReturn:
    text = f"stopped; every finished evaluation is stored; go on with: {again}"
    open_console(stderr=True).print(text, markup=False)
    raise typer.Exit(INTERRUPTED)
