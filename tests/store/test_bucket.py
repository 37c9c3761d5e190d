from collections.abc import Iterator
from pathlib import Path

import pytest

from autocompress.errors import ArtifactError, SettingError
from autocompress.store.bucket import (
    LONGEST_PAUSE_S,
    PATIENCE_S,
    PAUSES_S,
    Bucket,
    describe_cause,
)
from autocompress.store.run_folder import open_folder
from tests.stores import FOLDERS, OBJECTS, When, begin_script, empty_store


@pytest.fixture(params=[FOLDERS, OBJECTS])
def scheme(request: pytest.FixtureRequest) -> Iterator[str]:
    empty_store()
    yield str(request.param)
    empty_store()


def fail_first(failures: int, error: Exception) -> None:
    """Let so many writes fail before they have done anything."""

    def act(_: int, when: When) -> None:
        writes = script.calls.count("write")
        if when == "before" and script.calls[-1] == "write" and writes <= failures:
            raise error

    script = begin_script(act)


@pytest.mark.parametrize("failures", range(len(PAUSES_S) + 1))
@pytest.mark.parametrize("error", [TimeoutError(), OSError(5, "again"), RuntimeError("broken")])
def test_a_store_that_falters_is_asked_again(scheme: str, failures: int, error: Exception) -> None:
    pauses: list[float] = []
    bucket = Bucket(url=f"{scheme}://{scheme}/x", sleep=pauses.append)
    fail_first(failures, error)

    bucket.write("name", b"data")

    assert bucket.read("name") == b"data"
    assert pauses == list(PAUSES_S[:failures])
    assert bucket.list_sizes() == {"name": 4}


def test_a_store_that_stays_away_is_one_sentence(scheme: str) -> None:
    pauses: list[float] = []
    bucket = Bucket(url=f"{scheme}://{scheme}/x", sleep=pauses.append)
    fail_first(100, OSError(111, "connection refused\nby the peer"))

    with pytest.raises(ArtifactError) as caught:
        bucket.write("name", b"data")

    want = f"{scheme}://{scheme}/x/name: cannot be written: connection refused"
    assert str(caught.value) == want
    assert pauses == list(PAUSES_S)


def test_a_store_that_answered_before_is_waited_for(scheme: str) -> None:
    pauses: list[float] = []
    bucket = Bucket(url=f"{scheme}://{scheme}/x", sleep=pauses.append)
    bucket.write("name", b"data")

    fail_first(15, TimeoutError())
    bucket.write("name", b"more")
    assert bucket.read("name") == b"more"
    assert (len(pauses), max(pauses)) == (15, LONGEST_PAUSE_S)

    pauses.clear()
    fail_first(10**6, TimeoutError())
    with pytest.raises(ArtifactError, match="name: cannot be written"):
        bucket.write("name", b"lost")
    assert PATIENCE_S <= sum(pauses) < PATIENCE_S + LONGEST_PAUSE_S


def test_a_store_that_refuses_is_not_asked_again(scheme: str) -> None:
    pauses: list[float] = []
    bucket = Bucket(url=f"{scheme}://{scheme}/x", sleep=pauses.append)
    fail_first(1, PermissionError("Access Denied"))

    with pytest.raises(ArtifactError, match="name: cannot be written: Access Denied"):
        bucket.write("name", b"data")

    assert pauses == []


def test_a_file_that_was_created_stays_where_the_store_can_tell(scheme: str) -> None:
    bucket = Bucket(url=f"{scheme}://{scheme}/x")

    bucket.try_create("name", b"first")
    bucket.try_create("name", b"second")

    assert bucket.read("name") == (b"first" if scheme == OBJECTS else None)


def test_files_are_listed_read_and_deleted_by_name(scheme: str) -> None:
    bucket = Bucket(url=f"{scheme}://{scheme}/x")
    before = bucket.list_sizes()
    bucket.write("a/b/c", b"12")
    bucket.write("d", b"3")
    other = Bucket(url=f"{scheme}://{scheme}/xy")
    other.write("e", b"")

    listed = bucket.list_sizes()
    bucket.delete("a/b/c")
    bucket.delete("a/b/c")

    assert before == {}
    assert listed == {"a/b/c": 2, "d": 1}
    assert bucket.read("a/b/c") is None
    assert bucket.list_sizes() == {"d": 1}
    assert other.list_sizes() == {"e": 0}


@pytest.mark.parametrize(
    ("url", "package"),
    [("abfs://box/run", "adlfs"), ("smb://host/run", "smbprotocol"), ("nothing://x/y", "known")],
)
def test_a_missing_driver_is_named_at_the_first_use(
    url: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path))
    folder = open_folder(url)

    with pytest.raises(SettingError, match=rf"run_dir: .*{package}"):
        folder.has("key")


def test_an_error_is_told_without_the_secrets_in_it() -> None:
    error = OSError("GET https://ada:hunter2@host/x?X-Amz-Signature=hunter2 failed\nmore hunter2")

    assert describe_cause(error) == "GET https://***host/x*** failed"
