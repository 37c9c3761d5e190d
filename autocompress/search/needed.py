"""What the studies of a run folder need of it, and cleaning it of the rest."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from autocompress.errors import StudyError
from autocompress.search.lock import lock_study
from autocompress.search.storage import Opening, find_file, make_storage
from autocompress.search.study import open_study
from autocompress.store.cleaning import Item, Needed, find_needless, free_items, list_items
from autocompress.store.run_folder import RunFolder
from autocompress.store.stored import free_stored, list_stored


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """What lies in a run folder.

    Attributes:
        place: Path or URL of the run folder.
        items: Everything of ours in it.
        needless: What of it no study needs.
    """

    place: str
    items: Sequence[Item]
    needless: Sequence[Item]


def plan_cleaning(folder: RunFolder, urls: Iterable[str], *, results: bool = False) -> Cleaning:
    """Return what lies in a run folder and what no study needs; changes nothing.

    Args:
        folder: The run folder.
        urls: Databases that count besides those that lie in it.
        results: Whether the results of decided trials may go. Their study holds what they say,
            but another study could not share them any more.

    Raises:
        ArtifactError: A store cannot be reached.
        StudyError: No study says what is needed, or one cannot be read.
    """
    place, inside = folder.place, list_inside(folder)
    items = list_items(folder.root) if folder.depot is None else list_stored(folder.depot)
    # After the items: what a search begun meanwhile writes is not among them.
    studies = [open_study(name, url) for name, url in find_studies([*inside, *urls])]
    ours = [study for study in studies if "spec" in study.user_attrs]
    if not ours:
        raise StudyError(
            f"{place}: no study says what is needed here, so nothing is freed; name its database "
            "with --storage URL, or delete the folder yourself if all of it may go"
        )
    needed = list_needed(ours, folder, results=results)
    needless = find_needless(items, needed)
    if needless and not any(one.key in needed.objects | needed.results for one in items):
        names = ", ".join(study.study_name for study in ours)
        raise StudyError(
            f"{place}: nothing here belongs to the studies found ({names}), so nothing is freed; "
            "name the database of its own studies with --storage URL"
        )
    return Cleaning(place=place, items=items, needless=needless)


def clean_folder(folder: RunFolder, urls: Sequence[str], *, results: bool = False) -> Cleaning:
    """Free what :func:`plan_cleaning` finds, while no search goes on, and return what it was.

    Raises:
        ArtifactError: The file system refuses.
        StudyBusyError: A search holds a study of this folder.
        StudyError: As for :func:`plan_cleaning`.
    """
    with _hold_all([*list_inside(folder), *urls]):
        cleaning = plan_cleaning(folder, urls, results=results)
        if folder.depot is None:
            free_items(folder.root, cleaning.needless)
        else:
            free_stored(folder.depot, cleaning.needless)
    return cleaning


def list_needed(
    studies: Iterable[optuna.Study], folder: RunFolder, *, results: bool = False
) -> Needed:
    """Return what ``studies`` need: models, results, and trainings that were interrupted.

    Args:
        studies: Of this package.
        folder: Holds results that a stopped search has not taken up yet.
        results: Whether the results of decided trials may go.
    """
    objects: set[str] = set()
    answers: set[str] = set()
    trainings: set[str] = set()
    all_dense = False
    for study in studies:
        attrs = study.user_attrs
        dense = attrs.get("dense_key", "")
        all_dense |= not dense
        objects |= {dense, attrs.get("start", {}).get("base", "")}
        answers.add(attrs.get("source", {}).get("record", ""))  # What it took from another study.
        for trial in study.get_trials(deepcopy=False):
            if "key" not in trial.user_attrs:
                continue
            objects |= _list_models(trial, folder)
            if _is_open(trial):
                trainings.add(trial.user_attrs["key"])
            if not results or _is_open(trial):
                answers.add(trial.user_attrs["key"])
    return Needed(
        objects=frozenset(objects - {""}),
        results=frozenset(answers - {""}),
        trainings=frozenset(trainings),
        all_dense=all_dense,
    )


def list_inside(folder: RunFolder) -> list[str]:
    """Return the URLs of the databases in a run folder; there are none in a store."""
    return find_databases(folder.root) if folder.depot is None else []


def find_databases(root: Path) -> list[str]:
    """Return the URLs of the SQLite files with studies that lie in ``root`` itself."""
    files = sorted(path for path in root.iterdir() if path.is_file())
    return [f"sqlite:///{path}" for path in files if _holds_studies(path)]


def find_studies(urls: Iterable[str]) -> list[tuple[str, str]]:
    """Return name and URL of every study in the databases at ``urls``, each once.

    Raises:
        StudyError: A database is missing or cannot be opened.
    """
    known: dict[object, str] = {}
    for url in urls:
        file = find_file(url)
        if file is not None and not file.is_file():
            raise StudyError(f"storage: no database at {file}")
        known.setdefault(url if file is None else file.resolve(), url)
    return [
        (name, url)
        for url in known.values()
        for name in optuna.get_all_study_names(make_storage(url, Opening(read_only=True)))
    ]


@contextmanager
def _hold_all(urls: Iterable[str]) -> Iterator[None]:
    """Hold every study at ``urls``.

    Raises:
        StudyBusyError: A search holds one of them.
    """
    with ExitStack() as locks:
        for name, url in find_studies(urls):
            locks.enter_context(lock_study(name, url))
        yield


def _list_models(trial: FrozenTrial, folder: RunFolder) -> set[str]:
    """Return the keys of the models that a trial started from and made."""
    attrs = trial.user_attrs
    if _is_open(trial):
        record = folder.read_json(attrs["key"]) or {}
        return {attrs["base"], str(record.get("artifact", ""))}
    return {attrs["base"], json.loads(attrs.get("verdict", "{}")).get("artifact", "")}


def _is_open(trial: FrozenTrial) -> bool:
    """Return whether ``trial`` waits for a decision."""
    return not trial.state.is_finished() and "verdict" not in trial.user_attrs


def _holds_studies(path: Path) -> bool:
    """Return whether a file is an Optuna database; opening any other would change it."""
    with path.open("rb") as file:
        if file.read(16) != b"SQLite format 3\0":
            return False
    uri = f"{path.resolve().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            query = "SELECT count(*) FROM sqlite_master WHERE name = 'trial_user_attributes'"
            return bool(connection.execute(query).fetchone()[0])
    except sqlite3.Error as error:
        raise StudyError(f"{path}: cannot be read as a database: {error}") from error
