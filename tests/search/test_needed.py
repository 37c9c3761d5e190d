import hashlib
import json
import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from autocompress.errors import StudyBusyError, StudyError
from autocompress.evaluate import full
from autocompress.search.budget import Budget
from autocompress.search.controller import run_search
from autocompress.search.needed import (
    clean_folder,
    find_databases,
    find_studies,
    list_needed,
    plan_cleaning,
)
from autocompress.search.storage import make_storage
from autocompress.search.study import hold_study, open_study
from autocompress.store.run_folder import RunFolder
from tests.tiny import TINY

FILES = ("model.safetensors", "structure.json", "metrics.json")


def key_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def keys_of(names: Sequence[str]) -> frozenset[str]:
    return frozenset(key_of(name) for name in names)


def make_url(path: Path) -> str:
    return f"sqlite:///{path}"


def make_trial(
    name: str, *, base: str = "", artifact: str = "", state: TrialState = TrialState.COMPLETE
) -> Any:
    """Return a trial of the result ``name``; decided when it is complete."""
    attrs: dict[str, Any] = {"key": key_of(name), "base": key_of(base) if base else ""}
    if state == TrialState.COMPLETE:
        attrs["verdict"] = json.dumps({"artifact": key_of(artifact) if artifact else ""})
    values = [0.0] if state == TrialState.COMPLETE else None
    return create_trial(state=state, values=values, user_attrs=attrs)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database without studies; to copy one takes a tenth of making one."""
    path = tmp_path_factory.mktemp("empty") / "study.db"
    make_storage(make_url(path))
    return path


def add_study(url: str, name: str, trials: Sequence[Any], dense: str = "dense") -> optuna.Study:
    """Store a study of ``trials``."""
    with hold_study(name, url, {"name": name}) as held:
        study = held.study
        if dense:
            study.set_user_attr("dense_key", key_of(dense))
        study.add_trials(list(trials))
        return study


def fill(root: Path, objects: Sequence[str], results: Sequence[str] = ()) -> None:
    """Write models and results of these names."""

    def write(folder: Path) -> None:
        for file in FILES:
            (folder / file).write_bytes(b"12345")

    def write_dense(folder: Path) -> None:
        write(folder)
        (folder / "dense.json").write_text("{}")

    for name in objects:
        RunFolder(root).write(key_of(name), write_dense if "dense" in name else write)
    for name in results:
        RunFolder(root).write_json(key_of(name), {"artifact": ""})


def list_left(root: Path, names: Sequence[str]) -> set[str]:
    """Return those of ``names`` that are still there as model or result."""
    folder = RunFolder(root)
    records = {path.stem for path in (root / "results").glob("*.json")}
    return {name for name in names if folder.has(key_of(name)) or key_of(name) in records}


NAMES = ("dense", "old dense", "base", "model", "lost model", "fast", "round", "old fast")


@pytest.fixture
def root(tmp_path: Path, empty: Path) -> Path:
    """Return a run folder with a study of a round and a finished model, and leftovers."""
    root = tmp_path / "run"
    fill(root, NAMES[:5], NAMES[5:])
    shutil.copy(empty, root / "study.db")
    trials = [
        make_trial("fast"),
        make_trial("round", artifact="base"),
        make_trial("full", base="base", artifact="model"),
    ]
    add_study(make_url(root / "study.db"), "one", trials)
    return root


def test_what_a_study_refers_to_stays(root: Path) -> None:
    cleaning = clean_folder(RunFolder(root), [])

    assert list_left(root, NAMES) == {"dense", "base", "model", "fast", "round"}
    assert {one.key for one in cleaning.needless} == keys_of(
        ["old dense", "lost model", "old fast"]
    )
    assert not plan_cleaning(RunFolder(root), []).needless


def test_a_plan_changes_nothing(root: Path) -> None:
    before = sorted(root.rglob("*"))

    cleaning = plan_cleaning(RunFolder(root), [])

    assert len(cleaning.needless) == 3
    assert sorted(root.rglob("*")) == before


def test_every_study_of_every_database_counts(root: Path, empty: Path) -> None:
    shutil.copy(empty, root / "more.sqlite")
    add_study(make_url(root / "study.db"), "two", [make_trial("old fast")], "old dense")
    add_study(make_url(root / "more.sqlite"), "three", [make_trial("x", artifact="lost model")])

    assert not plan_cleaning(RunFolder(root), []).needless


def test_a_database_elsewhere_counts_when_it_is_named(root: Path, empty: Path) -> None:
    url = make_url(Path(shutil.copy(empty, root.parent / "far.db")))
    add_study(url, "two", [make_trial("old fast", artifact="lost model")], "old dense")

    assert len(plan_cleaning(RunFolder(root), []).needless) == 3
    assert not plan_cleaning(RunFolder(root), [url]).needless


def test_an_undecided_trial_needs_its_base_its_result_and_what_that_stored(root: Path) -> None:
    RunFolder(root).write_json(key_of("old fast"), {"artifact": key_of("lost model")})
    fill(root, ["other base"])
    waiting = make_trial("old fast", base="other base", state=TrialState.WAITING)
    add_study(make_url(root / "study.db"), "two", [waiting])

    for results in (False, True):
        clean_folder(RunFolder(root), [], results=results)

    left = list_left(root, [*NAMES, "other base"])
    assert left == {"dense", "base", "model", "lost model", "other base", "old fast"}


def test_an_interrupted_training_stays_until_its_trial_is_decided(root: Path) -> None:
    (root / "checkpoints").mkdir()
    for name in ("fast", "waiting", "nobody's"):
        (root / "checkpoints" / f"{key_of(name)}-final.training").write_bytes(b"1234")
    waiting = make_trial("waiting", state=TrialState.WAITING)
    add_study(make_url(root / "study.db"), "two", [waiting])

    clean_folder(RunFolder(root), [])

    left = [path.name for path in (root / "checkpoints").iterdir()]
    assert left == [f"{key_of('waiting')}-final.training"]


@pytest.mark.parametrize(("stage", "weights"), [("round", 0.3), ("full", 0.6)])
def test_a_search_that_was_stopped_goes_on_in_the_middle_after_cleaning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, weights: float
) -> None:
    settings = replace(TINY, run_dir=str(tmp_path / "run"), budget=Budget(weights=weights))

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(full, "retrain_base_", stop)  # After the training of the method.
    with pytest.raises(KeyboardInterrupt):
        run_search(settings)
    folder = RunFolder(tmp_path / "run")
    kept = sorted(path.name for path in folder.checkpoints.iterdir())

    clean_folder(folder, [])

    study = open_study("tiny", make_url(folder.root / "study.db"))
    waiting = [one for one in study.get_trials() if not one.state.is_finished()]
    assert [(one.user_attrs["stage"], one.user_attrs["key"]) for one in waiting] == [
        (stage, kept[0].partition("-")[0])
    ]
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == kept


def test_a_study_without_trials_needs_the_model_where_it_starts(tmp_path: Path) -> None:
    study = add_study(make_url(tmp_path / "study.db"), "new", [])
    study.set_user_attr("start", {"base": key_of("start"), "progress": 0.5})

    needed = list_needed([study], RunFolder(tmp_path))

    assert needed.objects == keys_of(["dense", "start"])


def test_decided_results_go_only_when_asked_for(root: Path) -> None:
    clean_folder(RunFolder(root), [], results=True)

    assert list_left(root, NAMES) == {"dense", "base", "model"}


def test_dense_models_stay_while_a_study_does_not_name_its_own(root: Path) -> None:
    add_study(make_url(root / "study.db"), "just begun", [], dense="")

    clean_folder(RunFolder(root), [])

    assert {"dense", "old dense"} <= list_left(root, NAMES)
    assert "lost model" not in list_left(root, NAMES)


def test_a_failed_attempt_needs_no_model(root: Path) -> None:
    failed = make_trial("old fast", artifact="lost model", state=TrialState.FAIL)

    study = add_study(make_url(root / "study.db"), "two", [failed])

    needed = list_needed([study], RunFolder(root), results=True)
    assert needed.objects == keys_of(["dense"])
    assert needed.results == frozenset()


def test_while_a_search_runs_nothing_is_freed(root: Path) -> None:
    spec = {"name": "one"}

    with (
        hold_study("one", make_url(root / "study.db"), spec),
        pytest.raises(StudyBusyError, match="study 'one' is in use"),
    ):
        clean_folder(RunFolder(root), [])

    assert list_left(root, NAMES) == set(NAMES)
    clean_folder(RunFolder(root), [])
    with hold_study("one", make_url(root / "study.db"), spec):
        pass


def test_without_a_study_nothing_is_freed(tmp_path: Path, empty: Path) -> None:
    fill(tmp_path, NAMES[:5])
    shutil.copy(empty, tmp_path / "a.db")
    optuna.create_study(study_name="foreign", storage=make_storage(make_url(tmp_path / "a.db")))

    with pytest.raises(StudyError, match=r"no study says what is needed .* --storage URL"):
        clean_folder(RunFolder(tmp_path), [])

    assert len(list_left(tmp_path, NAMES)) == 5


def test_with_studies_of_another_folder_only_nothing_is_freed(tmp_path: Path, empty: Path) -> None:
    shutil.copy(empty, tmp_path / "study.db")
    fill(tmp_path, ["old dense", "lost model"], ["old fast"])
    add_study(make_url(tmp_path / "study.db"), "one", [make_trial("fast", artifact="model")])

    with pytest.raises(StudyError, match=r"nothing here belongs to the studies found \(one\)"):
        clean_folder(RunFolder(tmp_path), [])

    assert len(list_left(tmp_path, NAMES)) == 3


def test_a_study_of_another_version_stops_everything(root: Path) -> None:
    study = add_study(make_url(root / "study.db"), "two", [])
    study.set_user_attr("version", 999)

    with pytest.raises(StudyError, match="got 999"):
        clean_folder(RunFolder(root), [])

    assert list_left(root, NAMES) == set(NAMES)


def test_a_database_of_someone_else_is_not_touched(root: Path) -> None:
    with sqlite3.connect(root / "other.db") as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    (root / "notes.txt").write_text("SQLite?")
    before = (root / "other.db").read_bytes()

    clean_folder(RunFolder(root), [])

    assert (root / "other.db").read_bytes() == before
    assert find_databases(root) == [make_url(root / "study.db")]


def test_a_broken_database_stops_everything(root: Path) -> None:
    (root / "broken.db").write_bytes(b"SQLite format 3\0" + b"x" * 5000)

    with pytest.raises(StudyError, match=r"broken\.db: cannot be read as a database"):
        clean_folder(RunFolder(root), [])


def test_a_database_is_read_once_under_two_names(root: Path) -> None:
    urls = [make_url(root / "study.db"), make_url(root / ".." / root.name / "study.db")]

    assert find_studies(urls) == [("one", urls[0])]
    with pytest.raises(StudyError, match="no database at"):
        find_studies([make_url(root / "missing.db")])
