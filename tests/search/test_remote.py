"""Searches whose run folder is in a store."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from autocompress.errors import ArtifactError, SettingError
from autocompress.execute.base import Executor
from autocompress.execute.in_process import InProcess
from autocompress.execute.settings import ExecuteSettings
from autocompress.execute.subprocess_pool import SubprocessPool
from autocompress.jobs import hash_json
from autocompress.search.budget import Budget
from autocompress.search.controller import Wiring, hold_controller
from autocompress.search.requests import Evaluator
from autocompress.search.settings import SearchSettings
from autocompress.search.spec import Settings, find_run_dir, resolve_settings
from autocompress.search.warm import fetch_object
from autocompress.settings import settings_to_json
from autocompress.store.run_folder import RunFolder, open_folder
from tests.fakes import FakeEvaluator, make_search
from tests.formula import FormulaRunner
from tests.laws import Step, find_violations, read_trajectory
from tests.stores import OBJECTS, Crash, Script, When, begin_script, empty_store

WHEN: tuple[When, ...] = ("before", "after")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    yield
    MemoryFileSystem.store.clear()
    empty_store()


def make_settings(folder: Path, run_dir: str, workers: int = 1) -> Settings:
    return make_search(
        run_dir,
        storage=f"sqlite:///{folder}/study.db",
        budget=Budget(weights=0.6),
        search=SearchSettings(evaluations=3, batch=2, chains=1),
        execute=ExecuteSettings(workers=workers),
    )


def search(settings: Settings, folder: Path) -> list[Step]:
    """Return the decisions of a search whose workers note what they do in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    how = {"dense": FakeEvaluator().dense_key, "evaluate": settings_to_json(settings.evaluate)}
    make_runner = partial(FormulaRunner, root=str(folder), evaluation_hash=hash_json(how))

    def make_executor(_: Evaluator, run: RunFolder) -> Executor:
        if settings.execute.workers == 1:
            return InProcess(make_runner(), run)
        return SubprocessPool(make_runner, run, settings.execute)

    wiring = Wiring(make_evaluator=FakeEvaluator, make_executor=make_executor)
    with hold_controller(settings, wiring) as controller:
        controller.run()
    assert find_violations(settings) == []
    return read_trajectory(settings)


def read_records(place: str, steps: Sequence[Step]) -> dict[str, Any]:
    """Return what is stored under the key of each decision, less how long it took."""
    found = {key: open_folder(place).read_json(key) for _, key, *_ in steps}
    return {key: record and {**record, "metrics": 0} for key, record in found.items()}


def test_a_search_does_the_same_wherever_its_run_folder_is(tmp_path: Path) -> None:
    places = [f"{tmp_path}/run", f"local://{tmp_path}/far", f"memory://{tmp_path}/run"]

    found = []
    for number, place in enumerate(places):
        folder = tmp_path / str(number)
        steps = search(make_settings(folder, place), folder)
        found.append((steps, read_records(place, steps)))

    assert found[0] == found[1] == found[2]
    assert len(found[0][1]) > 3
    assert any(found[0][1].values())


def test_workers_of_several_processes_share_a_store(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, f"local://{tmp_path}/run", workers=2)

    steps = search(settings, tmp_path)

    found = [path.stem for path in (tmp_path / "run" / "results").glob("*.json")]
    assert sorted(found) == sorted({key for _, key, energy, *_ in steps if energy is not None})
    assert not (tmp_path / "cache").exists()  # There were records only, and those are not kept.


def test_a_search_goes_on_from_a_crash_at_any_write_to_the_store(tmp_path: Path) -> None:
    url = f"{OBJECTS}://{OBJECTS}/run"
    script = begin_script()
    whole = search(make_settings(tmp_path / "whole", url), tmp_path / "whole")
    steps = script.step

    moments: list[tuple[int, When]] = [(one, when) for one in range(steps) for when in WHEN]
    for wanted, when in moments[:: len(moments) // 3]:  # Each takes a search.
        empty_store()
        folder = tmp_path / f"{wanted}{when}"
        settings = make_settings(folder, url)
        begin_script(partial(crash, wanted, when))
        with pytest.raises(Crash):
            search(settings, folder)
        begin_script()
        assert search(settings, folder) == whole


def crash(wanted: int, moment: When, step: int, when: When) -> None:
    if (step, when) == (wanted, moment):
        raise Crash(step)


def test_a_store_that_cannot_be_written_stops_before_the_study_begins(tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("Access Denied")

    script: Script = begin_script(refuse)
    settings = make_settings(tmp_path, f"{OBJECTS}://{OBJECTS}/run")

    with pytest.raises(ArtifactError, match=r"run\.json: cannot be written: Access Denied"):
        search(settings, tmp_path)

    assert script.calls.count("write") == 1
    assert not (tmp_path / "study.db").exists()


def test_a_run_folder_in_a_store_wants_a_place_for_the_database() -> None:
    settings = Settings(name="one", run_dir="s3://bucket/one")
    named = replace(settings, storage="runs/one/study.db")

    with pytest.raises(SettingError, match=r"SQLite needs a local file.*runs/one/study\.db"):
        resolve_settings(settings)

    assert resolve_settings(named).run_dir == "s3://bucket/one"
    near = resolve_settings(replace(settings, run_dir="file:///runs/one"))
    assert (near.run_dir, near.storage) == ("/runs/one", "sqlite:////runs/one/study.db")


def write_model(folder: Path) -> None:
    (folder / "x").write_text("model")


def test_a_model_is_taken_over_from_any_place_to_any_other(tmp_path: Path) -> None:
    places = [f"{tmp_path}/run", f"local://{tmp_path}/far", f"memory://{tmp_path}/run"]

    for number, (there, here) in enumerate(permutations(places, 2)):
        key, target = f"{number:064x}", open_folder(here)
        lacking = fetch_object(key, open_folder(there), target)
        open_folder(there).write(key, write_model)

        assert not lacking
        assert fetch_object(key, open_folder(there), target)
        assert (open_folder(here).path(key) / "x").read_text() == "model"


def test_a_stored_url_is_found_as_it_was_written(tmp_path: Path) -> None:
    around = tmp_path / "one"
    (around / "objects").mkdir(parents=True)
    (around / "study.db").touch()

    found = find_run_dir("s3://bucket/one", f"sqlite:///{around}/study.db")

    assert found == "s3://bucket/one"
