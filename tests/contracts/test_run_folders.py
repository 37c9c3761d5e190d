"""Laws of every place that a run folder may be in."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from autocompress.store.run_folder import RunFolder, open_folder

KEY = "ab" * 32
OTHER = "cd" * 32
S3 = "s3://autocompress/{folder}"
PLACES = ("{folder}", "file://{folder}", "local://{folder}", "memory://{folder}")


@pytest.fixture(scope="module")
def bucket() -> Iterator[None]:
    """Serve S3 on this machine, with one bucket."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("autocompress")
        yield
    server.stop()


@pytest.fixture(params=[*PLACES, pytest.param(S3, marks=pytest.mark.slow)])
def machines(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Iterator[RunFolder]]:
    """Return one run folder as any number of machines open it."""
    if request.param == S3:
        request.getfixturevalue("bucket")
    place = request.param.format(folder=tmp_path / "run")

    def open_next(number: int) -> RunFolder:
        monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / f"cache{number}"))
        return open_folder(place)

    yield (open_next(number) for number in count())
    MemoryFileSystem.store.clear()


def fill(folder: Path, text: str = "first") -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "file.txt").write_text(text)
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 9)


def read(folder: RunFolder) -> str:
    return (folder.path(KEY) / "inner" / "file.txt").read_text()


def test_what_one_machine_writes_another_reads(machines: Iterator[RunFolder]) -> None:
    one, other = next(machines), next(machines)
    one.prepare()
    before = one.has(KEY), other.has(KEY), other.path(KEY).exists()

    written = one.write(KEY, fill)

    assert before == (False, False, False)
    assert one.has(KEY)
    assert other.has(KEY)
    assert not other.has(OTHER)
    assert one.path(KEY) == written
    for path in (written, other.path(KEY)):
        assert sorted(one.name for one in path.iterdir()) == ["inner", "weights.bin"]
        assert (path / "inner" / "file.txt").read_text() == "first"
        assert (path / "weights.bin").read_bytes() == bytes(range(256)) * 9


def test_a_fill_that_fails_leaves_nothing(machines: Iterator[RunFolder]) -> None:
    one, other = next(machines), next(machines)

    def fail(draft: Path) -> None:
        fill(draft)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        one.write(KEY, fail)

    assert not one.has(KEY)
    assert not other.has(KEY)
    assert [path for path in one.root.rglob("*") if path.is_file()] == []


def test_a_finished_object_is_not_written_again(machines: Iterator[RunFolder]) -> None:
    next(machines).write(KEY, fill)

    def refuse(_: Path) -> None:
        raise AssertionError("it is there")

    again = next(machines)
    written = again.write(KEY, refuse)

    assert written == again.path(KEY)
    assert read(again) == "first"


def test_the_loser_of_a_race_is_dropped(machines: Iterator[RunFolder]) -> None:
    loser, winner, third = next(machines), next(machines), next(machines)

    def lose(draft: Path) -> None:
        fill(draft, "loser")
        winner.write(KEY, lambda other: fill(other, "winner"))

    written = loser.write(KEY, lose)

    assert written == loser.path(KEY)
    assert [read(one) for one in (loser, winner, third)] == ["winner"] * 3


def test_a_record_is_replaced_for_everybody(machines: Iterator[RunFolder]) -> None:
    one, other = next(machines), next(machines)
    missing = other.read_json(KEY)

    one.write_json(KEY, {"value": 1})
    first = other.read_json(KEY)
    other.write_json(KEY, {"value": 2.5, "more": [1, None]})

    assert missing is None
    assert first == {"value": 1}
    assert one.read_json(KEY) == other.read_json(KEY) == {"value": 2.5, "more": [1, None]}


def test_a_record_that_is_no_json_leaves_the_old_one(machines: Iterator[RunFolder]) -> None:
    folder = next(machines)
    folder.write_json(KEY, {"value": 1})

    with pytest.raises(TypeError):
        folder.write_json(KEY, {"value": object()})

    assert folder.read_json(KEY) == {"value": 1}


@pytest.mark.parametrize("key", ["", "..", "../../etc", "a/b/c", "ab", ".hidden"])
def test_a_key_cannot_leave_the_folder(machines: Iterator[RunFolder], key: str) -> None:
    folder = next(machines)

    for use in (folder.path, folder.has, folder.read_json, lambda key: folder.write(key, fill)):
        with pytest.raises(ValueError, match="key must be"):
            use(key)


def test_a_folder_is_opened_again_by_its_place(machines: Iterator[RunFolder]) -> None:
    one = next(machines)
    one.write(KEY, fill)

    assert read(open_folder(one.place)) == "first"
