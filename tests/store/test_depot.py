import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from autocompress.errors import ArtifactError
from autocompress.store.run_folder import RunFolder
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

KEY = "ab" * 32
FILES = {"model.safetensors": b"\x00\x01" * 40, "inner/structure.json": b"{}", "empty": b""}


@pytest.fixture(params=[FOLDERS, OBJECTS])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the URL of an empty store, of either kind."""
    empty_store()
    yield f"{request.param}://{request.param}/runs/one"
    empty_store()


@pytest.fixture
def machines(url: str, tmp_path: Path) -> Iterator[RunFolder]:
    """Return the store as any number of machines see it, each with an empty cache."""
    return (open_machine(url, tmp_path / str(number)) for number in itertools.count())


def fill(folder: Path, mark: bytes = b"") -> None:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data + mark)


def read_object(folder: RunFolder) -> dict[str, bytes]:
    path = folder.path(KEY)
    files = [one for one in path.rglob("*") if one.is_file()]
    return {one.relative_to(path).as_posix(): one.read_bytes() for one in files}


def count_steps(machines: Iterator[RunFolder]) -> int:
    script = begin_script()
    next(machines).write(KEY, fill)
    empty_store()
    return script.step


def test_a_crash_at_any_point_leaves_a_whole_object_or_none(
    machines: Iterator[RunFolder],
) -> None:
    moments = [*itertools.product(range(count_steps(machines)), get_args(When))]
    ends = []

    for step, when in moments:
        empty_store()
        crash_at(step, when)
        with pytest.raises(Crash):
            next(machines).write(KEY, fill)
        begin_script()
        other = next(machines)
        ends.append(other.has(KEY))
        assert read_object(other) == (FILES if ends[-1] else {})
        other.write(KEY, fill)
        assert read_object(next(machines)) == FILES

    assert ends == sorted(ends)  # Once it is there it stays.
    assert ends[-1]
    assert ends.count(False) >= 3 * len(FILES)


def test_a_machine_that_crashed_goes_on_with_its_own_cache(url: str, tmp_path: Path) -> None:
    for step in range(count_steps(iter([open_machine(url, tmp_path / "count")]))):
        empty_store()
        crash_at(step, "before")
        with pytest.raises(Crash):
            open_machine(url, tmp_path / f"{step}").write(KEY, fill)
        begin_script()

        again = open_machine(url, tmp_path / f"{step}")
        assert not again.has(KEY)  # A copy here is not yet an object there.
        again.write(KEY, fill)

        assert read_object(open_machine(url, tmp_path / f"other {step}")) == FILES


def test_a_record_is_replaced_whole_or_not_at_all(machines: Iterator[RunFolder]) -> None:
    first = next(machines)
    first.write_json(KEY, {"value": 1})
    script = begin_script()
    first.write_json(KEY, {"value": 1})
    steps, seen = script.step, []

    for step, when in itertools.product(range(steps), get_args(When)):
        begin_script()
        first.write_json(KEY, {"value": 1})
        crash_at(step, when)
        with pytest.raises(Crash):
            first.write_json(KEY, {"value": 2})
        begin_script()
        seen.append(next(machines).read_json(KEY))

    assert seen == sorted(seen, key=str)
    assert seen[0] == {"value": 1}
    assert seen[-1] == {"value": 2}


def test_two_writers_of_one_key_agree_whenever_the_second_comes(
    machines: Iterator[RunFolder],
) -> None:
    steps, winners = count_steps(machines), set()

    for step, when in itertools.product(range(steps), get_args(When)):
        empty_store()
        one, other = next(machines), next(machines)

        def interrupt(now: int, moment: When, step: int = step, when: When = when) -> None:
            if (now, moment) == (step, when):
                begin_script()
                other.write(KEY, lambda folder: fill(folder, b"second"))  # noqa: B023

        begin_script(interrupt)
        one.write(KEY, lambda folder: fill(folder, b"first"))
        third = read_object(next(machines))
        winners.add(third["empty"])

        assert third in [
            {name: data + mark for name, data in FILES.items()} for mark in (b"first", b"second")
        ]
        assert read_object(one) == third
        # One that was told of its own before the other's replaced it keeps what is as good.
        assert other.has(KEY)

    assert winners == {b"first", b"second"}


def find_file(machine: RunFolder, name: str) -> str:
    """Return the path in the store of a file of the object."""
    assert machine.depot is not None
    manifest = machine.depot.find(KEY)
    assert manifest is not None
    scheme = machine.place.partition("://")[0]
    return f"/{scheme}/runs/one/objects/ab/{KEY}/{manifest.name}/{name}"


def test_an_object_is_sent_for_once_and_stays_on_the_machine(
    machines: Iterator[RunFolder],
) -> None:
    next(machines).write(KEY, fill)
    reader = next(machines)

    path = reader.path(KEY)
    script = begin_script()

    assert reader.path(KEY) == path
    assert reader.has(KEY)
    assert script.calls == []


def test_what_the_store_lost_is_not_there_whatever_the_cache_says(
    url: str, tmp_path: Path
) -> None:
    open_machine(url, tmp_path).write(KEY, fill)
    empty_store()
    machine = open_machine(url, tmp_path)

    before = machine.has(KEY)
    machine.write(KEY, fill)

    assert not before
    assert read_object(open_machine(url, tmp_path / "other")) == FILES


@pytest.mark.parametrize("change", ["longer", "shorter", "other", "gone"])
def test_a_damaged_file_is_refused_and_nothing_of_it_kept(
    machines: Iterator[RunFolder], change: str
) -> None:
    first, reader = next(machines), next(machines)
    first.write(KEY, fill)
    place, data = find_file(first, "model.safetensors"), FILES["model.safetensors"]
    changed = {"longer": data + b"0", "shorter": data[1:], "other": data[::-1]}
    FaultyFileSystem.store.pop(place)
    if change in changed:
        FaultyFileSystem().pipe_file(place, changed[change])

    with pytest.raises(ArtifactError, match=r"model\.safetensors: cannot be read: .*delete .*/ab"):
        reader.path(KEY)

    assert [one for one in reader.root.rglob("*") if one.is_file()] == []


@pytest.mark.parametrize("name", list(FILES))
def test_a_damaged_copy_is_replaced_when_its_object_is_made_again(
    machines: Iterator[RunFolder], url: str, tmp_path: Path, name: str
) -> None:
    first = next(machines)
    first.write(KEY, fill)
    FaultyFileSystem.store.clear()  # It was cleaned up elsewhere.
    (first.path(KEY) / name).write_bytes(b"damaged")

    open_machine(url, first.root).write(KEY, fill)

    assert read_object(open_machine(url, first.root)) == FILES
    assert read_object(open_machine(url, tmp_path / "other")) == FILES


def test_a_manifest_of_half_its_length_is_none(machines: Iterator[RunFolder]) -> None:
    first = next(machines)
    first.write(KEY, fill)
    place = find_file(first, "x").rpartition("/")[0].rpartition("/")[0] + "/manifest.json"
    whole = FaultyFileSystem.store[place].getvalue()

    for length in range(len(whole)):
        FaultyFileSystem().pipe_file(place, whole[:length])
        assert not next(machines).has(KEY)
    next(machines).write(KEY, fill)

    assert FaultyFileSystem.store[place].getvalue() == whole


def test_a_damaged_record_is_missing_until_it_is_written_again(
    machines: Iterator[RunFolder], caplog: pytest.LogCaptureFixture
) -> None:
    folder = next(machines)
    folder.write_json(KEY, {"value": 1})
    place = next(one for one in FaultyFileSystem.store if one.endswith(f"{KEY}.json"))
    FaultyFileSystem().pipe_file(place, b'{"value": ')

    damaged = folder.read_json(KEY)
    folder.write_json(KEY, {"value": 2})

    assert damaged is None
    assert "damaged, worked out again" in caplog.text
    assert next(machines).read_json(KEY) == {"value": 2}


def test_a_folder_of_another_version_is_refused(machines: Iterator[RunFolder]) -> None:
    first = next(machines)
    first.prepare()
    first.prepare()
    place = next(one for one in FaultyFileSystem.store if one.endswith("run.json"))
    FaultyFileSystem().pipe_file(place, b'{"format": "autocompress-run", "version": 2}')

    with pytest.raises(ArtifactError, match="want a run folder of version 1"):
        next(machines).prepare()
