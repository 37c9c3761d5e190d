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


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_a_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    folder = RunFolder(tmp_path)
    folder.write_json(KEY, {})
    (tmp_path / "results" / f"{KEY}.json").write_text(text)

    with pytest.raises(ArtifactError, match=KEY):
        folder.read_json(KEY)


@pytest.mark.parametrize("key", ["", "..", "../../etc", "a/b/c", "ab", ".hidden"])
def test_a_key_cannot_leave_the_folder(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="key must be"):
        RunFolder(tmp_path).path(key)
