"""Commands that work: train, space, search, resume, finalize."""

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from autocompress.cli.execution import Address, Execution, Executor, StopAfter, Workers
from autocompress.cli.study import Storage, Study
from autocompress.errors import SettingError

SettingsFile = Annotated[Path, typer.Argument(metavar="SETTINGS", help="Settings file, TOML.")]
Override = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a setting: search.evaluations=40; may be repeated."),
]

Source = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="STUDY",
        help="Start from another study's evaluations: its name, or URL#NAME.",
    ),
]
Log = Annotated[
    str, typer.Option("--log", help="Also write figures to: tensorboard,mlflow,wandb.")
]


def train(settings: SettingsFile, override: Override = None) -> None:
    """Train the dense model; done already when the settings are the same."""
    from autocompress.cli.work import train_task
    from autocompress.search.spec import Settings
    from autocompress.settings import read_settings

    train_task(read_settings(Settings, settings, override or ()))


def space(
    settings: SettingsFile,
    override: Override = None,
    output: Annotated[
        Path | None, typer.Option(help="File to write; search_spaces/MODEL.toml if empty.")
    ] = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write the search space of a model, to be edited, and show what it can reach."""
    from autocompress.cli.work import write_task_space
    from autocompress.search.spec import Settings
    from autocompress.settings import read_settings

    write_task_space(read_settings(Settings, settings, override or ()), output, force=force)


def search(
    settings: SettingsFile,
    override: Override = None,
    workers: Workers = 0,
    stop_after: StopAfter = 0.0,
    executor: Executor = "",
    address: Address = "",
    log: Log = "",
    source: Source = "",
    storage: Storage = "",
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it would take; store nothing.")
    ] = False,
) -> None:
    """Search, finish the best candidate and report; the same again resumes or is done."""
    from autocompress.cli.place import choose_storage, make_again, warn_of_network
    from autocompress.cli.plan import print_plan
    from autocompress.cli.work import search_study
    from autocompress.search.spec import Settings, resolve_settings
    from autocompress.settings import read_settings

    execution = Execution(
        workers=workers, stop_after_s=stop_after, executor=executor, address=address
    )
    changes = [*(override or ()), *execution.list_changes()]
    chosen = read_settings(Settings, settings, changes)
    chosen = replace(chosen, storage=choose_storage(storage, chosen.storage))
    warn_of_network(resolve_settings(chosen).storage)
    if dry_run:
        print_plan(chosen, source)
        return
    options = "".join(f" --set {shlex.quote(text)}" for text in override or ())
    options += f" --storage {shlex.quote(storage)}" if storage else ""
    options += execution.name_options()
    options += f" --log {log}" if log else ""
    options += f" --from {shlex.quote(source)}" if source else ""
    again = f"autocompress search {shlex.quote(str(settings))}{options}"
    search_study(chosen, again=make_again(again), sinks=log, source=source)


def resume(
    study: Study,
    storage: Storage = "",
    workers: Workers = 0,
    stop_after: StopAfter = 0.0,
    executor: Executor = "",
    address: Address = "",
    log: Log = "",
    evaluations: Annotated[
        str, typer.Option("--evaluations", metavar="+N", help="N more in the last round.")
    ] = "",
    finalize_top: Annotated[
        int, typer.Option("--finalize-top", help="Finished models wanted in all.")
    ] = 0,
) -> None:
    """Go on with a stored search; by its name, it has one worker unless told otherwise."""
    from autocompress.cli.find import find_study
    from autocompress.cli.place import make_again, name_storage
    from autocompress.cli.work import search_study
    from autocompress.search.controller import Extension

    found = find_study(study, storage)
    execution = Execution(
        workers=workers, stop_after_s=stop_after, executor=executor, address=address
    )
    url = found.settings.storage
    again = f"autocompress resume {shlex.quote(study)}{name_storage(url)}"
    again += execution.name_options()
    again += f" --log {log}" if log else ""
    extension = Extension(evaluations=read_more(evaluations), finalize_top=finalize_top)
    settings = replace(found.settings, execute=execution.change(found.settings.execute))
    search_study(settings, again=make_again(again), sinks=log, extension=extension)


def finalize(
    study: Study,
    storage: Storage = "",
    trial: Annotated[
        list[int] | None, typer.Option("--trial", help="Number of a trial; may be repeated.")
    ] = None,
    top: Annotated[int, typer.Option("--top", help="The best so many of the last round.")] = 0,
    workers: Workers = 0,
    executor: Executor = "",
    address: Address = "",
) -> None:
    """Make finished models of candidates: full ADMM, purification, compaction, one test."""
    from autocompress.cli.find import find_study
    from autocompress.cli.place import make_again, name_storage
    from autocompress.cli.work import finalize_study

    if bool(trial) == bool(top):
        raise SettingError("finalize: want either --trial N or --top K")
    found = find_study(study, storage)
    execution = Execution(workers=workers, executor=executor, address=address)
    settings = replace(found.settings, execute=execution.change(found.settings.execute))
    wanted = f"--top {top}" if top else " ".join(f"--trial {number}" for number in trial or [])
    url = found.settings.storage
    again = f"autocompress finalize {found.settings.name}{name_storage(url)} {wanted}"
    again += execution.name_options()
    finalize_study(
        replace(found, settings=settings), trials=trial or [], top=top, again=make_again(again)
    )


def read_more(text: str) -> int:
    """Return the number in ``+N``; 0 when ``text`` is empty.

    Raises:
        SettingError: It is something else, such as a number in all.
    """
    if not text:
        return 0
    if not re.fullmatch(r"\+[1-9][0-9]*", text):
        raise SettingError(f"--evaluations: want +N, which is N more than so far, got {text}")
    return int(text)
