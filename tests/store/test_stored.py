import hashlib
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import get_args

import pytest

from autocompress.evaluate.base import MASKS_FILE
from autocompress.evaluate.task import DENSE_FILE
from autocompress.store.artifacts import METRICS_FILE, STRUCTURE_FILE, WEIGHTS_FILE
from autocompress.store.cleaning import Needed, find_needless
from autocompress.store.run_folder import RunFolder
from autocompress.store.stored import free_stored, list_stored
from tests.stores import (
    FOLDERS,
    OBJECTS,
    Crash,
    FaultyFileSystem,
    When,
    begin_script,
    crash_at,
    empty_store,
    open_machine,
)

NOTHING = Needed(objects=frozenset(), results=frozenset())


def key_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


FOREIGN = (
    "notes.txt",
    "objects/ab/mine.txt",
    f"objects/ab/{'c' * 64}/{'d' * 32}/x",
    f"objects/{key_of('base')[:2]}/{key_of('base')}/mine.txt",
    "results/mine.json",
)


@pytest.fixture(params=[FOLDERS, OBJECTS])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    empty_store()
    yield f"{request.param}://{request.param}/run"
    empty_store()


@pytest.fixture
def folder(url: str, tmp_path: Path) -> RunFolder:
    """Return a run folder in a store with one of everything."""
    return fill(open_machine(url, tmp_path / "cache"))


def fill(folder: RunFolder) -> RunFolder:
    folder.prepare()
    for name, more in [("dense", [DENSE_FILE]), ("base", [MASKS_FILE]), ("finished", [])]:
        write_model(folder, name, *more)
    folder.write_json(key_of("result"), {"value": 1})
    crash_at(2, "after")
    with pytest.raises(Crash):
        write_model(folder, "lost")
    begin_script()
    assert folder.depot is not None
    for name in FOREIGN:
        folder.depot.bucket.write(name, b"1")
    return folder


def write_model(folder: RunFolder, name: str, *more: str) -> None:
    def write(path: Path) -> None:
        for file in (WEIGHTS_FILE, STRUCTURE_FILE, METRICS_FILE, *more):
            (path / file).write_bytes(b"12345")

    folder.write(key_of(name), write)


def list_names(folder: RunFolder) -> set[str]:
    assert folder.depot is not None
    return set(folder.depot.bucket.list_sizes())


def free(folder: RunFolder, needed: Needed) -> None:
    assert folder.depot is not None
    free_stored(folder.depot, find_needless(list_stored(folder.depot), needed))


def test_everything_of_ours_is_listed_once_with_its_size(folder: RunFolder) -> None:
    assert folder.depot is not None
    sizes = folder.depot.bucket.list_sizes()

    items = list_stored(folder.depot)

    named = {(one.kind, one.key) for one in items if one.kind != "draft"}
    models = {(kind, key_of(kind)) for kind in ("dense", "base", "finished")}
    assert named == models | {("result", key_of("result"))}
    assert [one.key for one in items if one.kind == "draft"] == [""]
    ours = {name: size for name, size in sizes.items() if name not in {*FOREIGN, "run.json"}}
    assert sum(one.size_bytes for one in items) == sum(ours.values())


def test_what_is_needed_stays_and_the_rest_goes(folder: RunFolder, tmp_path: Path) -> None:
    needed = Needed(objects=frozenset({key_of("base")}), results=frozenset())
    (folder.root / "tmp" / "killed").mkdir(parents=True)

    free(folder, needed)

    other = open_machine(folder.place, tmp_path / "other")
    for machine in (folder, other):
        assert machine.has(key_of("base"))
        assert not machine.has(key_of("finished"))
        assert machine.read_json(key_of("result")) is None
    assert (other.path(key_of("base")) / WEIGHTS_FILE).read_bytes() == b"12345"
    copies = {path.name for path in (folder.root / "objects").glob("*/*")}
    assert copies == {key_of("base"), key_of("lost")}  # Of the last it never heard again.
    assert not (folder.root / "tmp").exists()


def test_what_is_not_ours_is_left_alone(folder: RunFolder) -> None:
    free(folder, NOTHING)

    assert list_names(folder) == {*FOREIGN, "run.json"}


def test_a_crash_while_it_is_freed_leaves_whole_objects_and_drafts(
    url: str, tmp_path: Path
) -> None:
    script = begin_script()
    start = open_machine(url, tmp_path / "count")
    fill(start)
    script = begin_script()
    free(start, NOTHING)
    steps = script.step

    for step, when in product(range(steps), get_args(When)):
        empty_store()
        folder = fill(open_machine(url, tmp_path / f"{step}{when}"))
        crash_at(step, when)
        with pytest.raises(Crash):
            free(folder, NOTHING)
        begin_script()
        other = open_machine(url, tmp_path / f"other {step}{when}")
        for name in ("dense", "base", "finished"):
            if other.has(key_of(name)):
                assert len(list(other.path(key_of(name)).iterdir())) >= 3
        free(other, NOTHING)
        assert list_names(other) == {*FOREIGN, "run.json"}


def test_a_manifest_of_half_its_length_goes_with_its_files(
    folder: RunFolder, tmp_path: Path
) -> None:
    place = next(one for one in FaultyFileSystem.store if one.endswith("manifest.json"))
    FaultyFileSystem().pipe_file(place, b'{"version"')
    other = open_machine(folder.place, tmp_path / "other")
    assert other.depot is not None
    names = ("dense", "base", "finished")

    free(other, Needed(objects=frozenset(map(key_of, names)), results=frozenset()))

    kinds = [one.kind for one in list_stored(other.depot)]
    assert sorted(kinds) == sorted(name for name in names if other.has(key_of(name)))
    assert len(kinds) == 2
