"""The command that frees what a run folder holds in vain."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from autocompress.cli.screen import open_console, print_table
from autocompress.errors import StudyError
from autocompress.store.places import fix_place
from autocompress.store.run_folder import RunFolder, open_folder

MEANINGS = {
    "dense": "dense models",
    "base": "bases of rounds",
    "finished": "finished models",
    "result": "results",
    "training": "interrupted trainings",
    "damaged": "damaged results",
    "draft": "drafts",
    "link": "links to models",
}
HEAD = ("what", "needed", "bytes", "not needed", "bytes")


def clean(
    where: Annotated[
        str, typer.Argument(metavar="STUDY", help="Run folder, name of a study, or its settings.")
    ],
    storage: Annotated[
        list[str] | None,
        typer.Option("--storage", help="URL of another study that uses it; may be repeated."),
    ] = None,
    *,
    delete: Annotated[bool, typer.Option("--delete", help="Free it; else it is shown.")] = False,
    results: Annotated[
        bool,
        typer.Option("--results", help="Also results that are decided; none can share them then."),
    ] = False,
) -> None:
    """Show what no study needs of a run folder, or free it; databases are left alone."""
    from autocompress.search.needed import clean_folder, plan_cleaning

    folder, urls = find_folder(where, storage or [])
    work = clean_folder if delete else plan_cleaning
    cleaning = work(folder, urls, results=results)
    needless = {one.path for one in cleaning.needless}
    kept = [(one.kind, one.size_bytes) for one in cleaning.items if one.path not in needless]
    freed = [(one.kind, one.size_bytes) for one in cleaning.needless]
    print_table(f"Run folder {cleaning.place}", HEAD, list_rows(kept, freed))
    size = f"{sum(size for _, size in freed):,} bytes"
    said = f"{size} freed" if delete else f"{size} can be freed; add --delete to do it"
    open_console().print(said if freed else "nothing can be freed", markup=False)


def find_folder(where: str, storages: list[str]) -> tuple[RunFolder, list[str]]:
    """Return a run folder, and the databases outside of it that count.

    Args:
        where: The folder, by path or URL, or a study that uses it, by name or settings file.
        storages: URLs or paths of databases, or else that of the environment; a study is looked
            for in the first.

    Raises:
        StudyError: There is no such folder and no such study.
    """
    import optuna

    from autocompress.cli.find import find_study
    from autocompress.cli.place import read_environment
    from autocompress.search.storage import normalize_storage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    urls = [normalize_storage(one) for one in storages or [read_environment()] if one]
    if "://" in where:
        return open_folder(where), urls
    path = Path(where)
    if (path / "objects").is_dir() or (path / "results").is_dir():
        return RunFolder(path.resolve()), urls
    if path.is_dir():
        raise StudyError(f"{path}: no run folder, it has neither objects nor results in it")
    found = find_study(where, urls[0] if storages else "")
    return open_folder(fix_place(found.folder.place)), [found.settings.storage, *urls]


def list_rows(
    kept: Iterable[tuple[str, int]], freed: Iterable[tuple[str, int]]
) -> list[tuple[str, ...]]:
    """Return number and bytes of what is needed and what is not, a row per kind."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for place, items in ((0, kept), (2, freed)):
        for kind, size_bytes in items:
            counts[kind][place] += 1
            counts[kind][place + 1] += size_bytes
    return [
        (meaning, *(f"{count:,}" for count in counts[kind]))
        for kind, meaning in MEANINGS.items()
        if kind in counts
    ]
