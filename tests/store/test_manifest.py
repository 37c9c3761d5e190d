import json
from pathlib import Path

import pytest

from autocompress.errors import ArtifactError
from autocompress.jobs import hash_json
from autocompress.store.manifest import Mark, make_manifest, read_manifest

MARK = {"size_bytes": 1, "sha256": "0" * 64}


def write(files: object, **changes: object) -> bytes:
    record = {"version": 1, "folder": hash_json(files)[:32], "files": files}
    return json.dumps({**record, **changes}).encode()


def test_a_manifest_is_read_as_it_was_made(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("")

    made = make_manifest(tmp_path)

    assert sorted(made.files) == ["b.txt", "inner/a.txt"]
    assert read_manifest(made.to_bytes(), "here") == made


def test_the_name_says_what_is_in_the_files(tmp_path: Path) -> None:
    names = set()
    for name, text in [("a", "1"), ("a", "2"), ("b", "2"), ("a", "1")]:
        (tmp_path / name).write_text(text)
        names.add(make_manifest(tmp_path).name)
        (tmp_path / name).unlink()

    assert len(names) == 3


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../b", "", ".", "a//b", ".hidden", "a\\b"])
def test_a_file_cannot_leave_its_folder(name: str) -> None:
    assert read_manifest(write({"a/b.c": MARK}), "here")
    with pytest.raises(ArtifactError, match=r"here: damaged: .*no name of a file"):
        read_manifest(write({name: MARK}), "here")


@pytest.mark.parametrize(
    "data",
    [
        write([]),
        write({"a": {}}),
        write({"a": {**MARK, "size_bytes": "1"}}),
        write({"a": {**MARK, "sha256": "../x"}}),
        write({"a": MARK}, folder="../elsewhere"),
        b'{"version": 1}',
    ],
)
def test_a_manifest_of_something_else_is_damaged(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="here: damaged"):
        read_manifest(data, "here")


@pytest.mark.parametrize("data", [b"[]", b"1", b'{"version": 2}'])
def test_a_manifest_of_another_version_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="here: want version 1"):
        read_manifest(data, "here")


@pytest.mark.parametrize("data", [None, b"", b"{", b"\xff"])
def test_a_manifest_that_is_not_whole_is_none(data: bytes | None) -> None:
    assert read_manifest(data, "here") is None


def test_a_mark_knows_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"data")
    mark = make_manifest(tmp_path).files["a"]

    mark.check(path)
    for other in (Mark(size_bytes=3, sha256=mark.sha256), Mark(size_bytes=4, sha256="0" * 64)):
        with pytest.raises(OSError, match="damaged: want"):
            other.check(path)
