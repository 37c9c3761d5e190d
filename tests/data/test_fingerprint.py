import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autocompress.data.fingerprint import EDGE_BYTES, SAMPLES, fingerprint_data
from autocompress.data.settings import DataName, DataSettings
from autocompress.errors import DataError


def fingerprint(root: Path, name: DataName = "folder") -> str:
    return fingerprint_data(DataSettings(name=name, root=str(root)))


def make_folder(root: Path) -> Path:
    for place in ("train/cat/1.png", "train/cat/deep/2.JPG", "train/dog/1.png", "test/cat/1.png"):
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(place.encode())
    return root


def make_arrays(**changes: Any) -> dict[str, Any]:
    return {"train_images": np.arange(8.0), "train_labels": np.arange(4), **changes}


def rename(root: Path) -> None:
    (root / "train/dog/1.png").rename(root / "train/dog/9.png")


def relabel(root: Path) -> None:
    (root / "train/cat/1.png").rename(root / "train/dog/2.png")


def overwrite(root: Path) -> None:
    path = root / "train/cat/deep/2.JPG"
    path.write_bytes(path.read_bytes()[::-1])


def append(root: Path) -> None:
    with (root / "train/dog/1.png").open("ab") as file:
        file.write(b"x")


def add(root: Path) -> None:
    (root / "test/cat/2.png").touch()


def remove(root: Path) -> None:
    (root / "train/cat/1.png").unlink()


@pytest.mark.parametrize("change", [rename, relabel, overwrite, append, add, remove])
def test_another_folder_has_another_fingerprint(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    root = make_folder(tmp_path / "data")
    before = fingerprint(root)

    change(root)

    assert fingerprint(root) != before


def test_a_folder_moved_and_touched_keeps_its_fingerprint(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data")
    before = fingerprint(root)

    shutil.copytree(root, tmp_path / "other", copy_function=shutil.copyfile)
    (tmp_path / "other" / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "other" / "valid").mkdir()

    assert fingerprint(tmp_path / "other") == before


@pytest.mark.parametrize("place", [0, EDGE_BYTES - 1, EDGE_BYTES, 2 * EDGE_BYTES - 1])
def test_both_ends_of_a_file_count(tmp_path: Path, place: int) -> None:
    root = make_folder(tmp_path)
    content = bytearray(2 * EDGE_BYTES)
    (root / "train/cat/1.png").write_bytes(content)
    before = fingerprint(root)

    content[place] = 1
    (root / "train/cat/1.png").write_bytes(content)

    assert fingerprint(root) != before


def test_of_many_files_all_names_and_some_contents_count(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    many = [root / "train" / "dog" / f"a{number:04d}.png" for number in range(2 * SAMPLES)]
    for path in many:
        path.write_bytes(b"0")
    before = fingerprint(root)

    noticed = 0
    for path in many[:12]:
        path.write_bytes(b"1")
        noticed += fingerprint(root) != before
        path.write_bytes(b"0")
    many[-1].rename(root / "train" / "dog" / "b.png")

    assert noticed == 4  # One file in three is looked into.
    assert fingerprint(root) != before


def test_an_archive_counts_by_its_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "first.npz", **make_arrays())
    np.savez_compressed(tmp_path / "moved.npz", **make_arrays())
    np.savez(tmp_path / "other.npz", **make_arrays(train_labels=np.array([0, 1, 3, 2])))

    prints = [fingerprint(tmp_path / f"{name}.npz", "npz") for name in ("first", "moved", "other")]

    assert prints[0] == prints[1] != prints[2]
    assert fingerprint(tmp_path / "first.npz", "cifar10") == prints[0]


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10"])
def test_a_known_set_counts_by_its_name(tmp_path: Path, name: DataName) -> None:
    assert fingerprint(tmp_path / "nowhere", name) == ""


@pytest.mark.parametrize("name", ["folder", "npz"])
def test_missing_files_are_named(tmp_path: Path, name: DataName) -> None:
    with pytest.raises(DataError, match=r"cannot read .*nowhere.*: No such file"):
        fingerprint(tmp_path / "nowhere.npz", name)


def test_a_file_that_is_no_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_text("no archive")

    with pytest.raises(DataError, match=r"a\.npz: File is not a zip file"):
        fingerprint(tmp_path / "a.npz", "npz")
