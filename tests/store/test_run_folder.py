import errno
import os
from pathlib import Path

import pytest

from autocompress.errors import ArtifactError
from autocompress.store.run_folder import RunFolder

KEY = "ab" * 32


def write_text(folder: Path, text: str = "first") -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "file.txt").write_text(text)


def list_files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_an_object_is_found_by_its_key(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    before = folder.has(KEY)

    written = folder.write(KEY, write_text)

    assert not before
    assert folder.has(KEY)
    assert written == folder.path(KEY) == tmp_path / "run" / "objects" / "ab" / KEY
    assert (written / "inner" / "file.txt").read_text() == "first"


def test_a_fill_that_fails_leaves_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)

    def fail(draft: Path) -> None:
        write_text(draft)
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        folder.write(KEY, fail)

    assert not folder.has(KEY)
    assert list_files(tmp_path) == []


def test_a_finished_object_is_not_written_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write(KEY, write_text)

    folder.write(KEY, lambda draft: write_text(draft, "second"))

    assert (folder.path(KEY) / "inner" / "file.txt").read_text() == "first"


def test_the_loser_of_a_race_is_dropped(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)

    def lose(draft: Path) -> None:
        write_text(draft, "loser")
        folder.write(KEY, lambda other: write_text(other, "winner"))

    folder.write(KEY, lose)

    assert (folder.path(KEY) / "inner" / "file.txt").read_text() == "winner"
    assert len(list_files(tmp_path)) == 1


def test_a_record_is_replaced_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    missing = folder.read_json(KEY)

    folder.write_json(KEY, {"value": 1})
    folder.write_json(KEY, {"value": 2.5, "more": [1, None]})

    assert missing is None
    assert folder.read_json(KEY) == {"value": 2.5, "more": [1, None]}
    assert list_files(tmp_path) == [f"results/{KEY}.json"]


def test_a_record_that_is_no_json_leaves_the_old_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_json(KEY, {"value": 1})

    with pytest.raises(TypeError):
        folder.write_json(KEY, {"value": object()})

    assert folder.read_json(KEY) == {"value": 1}
    assert list_files(tmp_path) == [f"results/{KEY}.json"]


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"\x00", b"\xff"])
def test_a_damaged_record_is_set_aside_and_missing(
    tmp_path: Path, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path)
    folder.write_json(KEY, {})
    (tmp_path / "results" / f"{KEY}.json").write_bytes(text)

    first, again = folder.read_json(KEY), folder.read_json(KEY)
    folder.write_json(KEY, {"value": 1})

    assert first is again is None
    assert caplog.text.count("set aside and worked out again") == 1
    assert (tmp_path / "results" / f"{KEY}.json.damaged").read_bytes() == text
    assert folder.read_json(KEY) == {"value": 1}


def test_a_record_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "results" / f"{KEY}.json").mkdir(parents=True)

    with pytest.raises(ArtifactError, match=f"{KEY}.json: cannot be read: Is a directory"):
        RunFolder(tmp_path).read_json(KEY)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_disk_that_refuses_is_one_sentence(tmp_path: Path, number: int) -> None:
    folder = RunFolder(tmp_path)

    def refuse(draft: Path) -> None:
        write_text(draft)
        raise OSError(number, os.strerror(number))

    with pytest.raises(ArtifactError, match=f"{KEY}: cannot be written: {os.strerror(number)}"):
        folder.write(KEY, refuse)

    assert list_files(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file is in the way")
    folder = RunFolder(tmp_path / "run")

    with pytest.raises(ArtifactError, match=r"cannot be written: Not a directory"):
        folder.write(KEY, write_text)
    with pytest.raises(ArtifactError, match=r"\.json: cannot be written: Not a directory"):
        folder.write_json(KEY, {})


@pytest.mark.parametrize("key", ["", "..", "../../etc", "a/b/c", "ab", ".hidden"])
def test_a_key_cannot_leave_the_folder(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="key must be"):
        RunFolder(tmp_path).path(key)
