import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from autocompress.errors import ArtifactError
from autocompress.evaluate.base import MASKS_FILE
from autocompress.evaluate.task import DENSE_FILE
from autocompress.store.artifacts import METRICS_FILE, STRUCTURE_FILE, WEIGHTS_FILE
from autocompress.store.cleaning import Needed, find_needless, free_items, list_items
from autocompress.store.run_folder import RunFolder

NOTHING = Needed(objects=frozenset(), results=frozenset())


def key_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def write_model(root: Path, name: str, *more: str) -> Path:
    def fill(folder: Path) -> None:
        for file in (WEIGHTS_FILE, STRUCTURE_FILE, METRICS_FILE, *more):
            (folder / file).write_bytes(b"12345")

    return RunFolder(root).write(key_of(name), fill)


def link(root: Path, name: str, shown: str) -> Path:
    key = key_of(name)
    path = root / "models" / shown
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(Path("..", "objects", key[:2], key))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a run folder with one of everything."""
    root = tmp_path / "run"
    write_model(root, "dense", DENSE_FILE)
    write_model(root, "base", MASKS_FILE)
    write_model(root, "finished")
    RunFolder(root).write_json(key_of("result"), {"value": 1})
    (root / "results" / f"{key_of('lost')}.json.damaged").write_bytes(b"{")
    (root / "results" / f".{'a' * 32}.tmp").write_bytes(b"{}")
    (root / "tmp" / ("b" * 32) / "inner").mkdir(parents=True)
    (root / "tmp" / ("b" * 32) / "inner" / "file").write_bytes(b"123")
    (root / "checkpoints").mkdir()
    (root / "checkpoints" / f"{key_of('job')}-retrain.training").write_bytes(b"1234")
    (root / "checkpoints" / f"{key_of('job')}-final.training.draft").write_bytes(b"1")
    link(root, "finished", "trial-3")
    (root / "study.db").write_bytes(b"SQLite")
    (root / "report.html").write_text("report")
    return root


def list_files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


def test_everything_of_ours_is_listed_once_with_its_size(root: Path) -> None:
    items = list_items(root)

    sizes = sorted((one.kind, one.size_bytes) for one in items if one.kind != "link")
    record = root / "results" / f"{key_of('result')}.json"
    assert len({one.path for one in items}) == len(items) == 10
    assert sizes == [
        ("base", 20),
        ("damaged", 1),
        ("dense", 20),
        ("draft", 1),
        ("draft", 2),
        ("draft", 3),
        ("finished", 15),
        ("result", record.stat().st_size),
        ("training", 4),
    ]


@pytest.mark.parametrize("name", ["dense", "base", "finished", "result"])
def test_what_is_needed_stays_and_nothing_else(root: Path, name: str) -> None:
    key = frozenset((key_of(name),))
    needed = Needed(objects=key, results=key)

    free_items(root, find_needless(list_items(root), needed))

    left = list_items(root)
    kinds = [name, "link"] if name == "finished" else [name]
    assert [one.kind for one in left] == kinds
    assert left[0].key == key_of(name)
    assert {"study.db", "report.html"} <= set(list_files(root))


def test_a_training_stays_while_something_waits_for_it(root: Path) -> None:
    needed = Needed(
        objects=frozenset(), results=frozenset(), trainings=frozenset((key_of("job"),))
    )

    free_items(root, find_needless(list_items(root), needed))

    assert [one.kind for one in list_items(root)] == ["training"]


def test_every_dense_model_stays_when_none_can_be_named(root: Path) -> None:
    needed = Needed(objects=frozenset(), results=frozenset(), all_dense=True)

    kinds = {one.kind for one in find_needless(list_items(root), needed)}

    assert kinds == {"base", "finished", "result", "damaged", "draft", "link"}  # No training.


def test_what_needs_nothing_is_freed_to_the_last_byte(root: Path) -> None:
    free_items(root, find_needless(list_items(root), NOTHING))

    assert list_items(root) == []
    assert list_files(root) == ["report.html", "study.db"]


@pytest.mark.parametrize("shown", ["trial-4", "best"])
def test_a_link_to_nothing_goes_and_one_to_a_model_stays(root: Path, shown: str) -> None:
    lost = link(root, "never there", shown)
    needed = Needed(objects=frozenset((key_of("finished"),)), results=frozenset())

    freed = [one.path for one in find_needless(list_items(root), needed) if one.kind == "link"]

    assert freed == [lost]


def place_foreign_file(root: Path) -> Path:
    (root / "objects" / "notes.txt").write_text("mine")
    return root / "objects" / "notes.txt"


def place_file_among_ours(root: Path) -> Path:
    path = write_model(root, "mine") / "model.onnx"
    path.write_text("exported")
    return path


def place_folder_among_ours(root: Path) -> Path:
    path = write_model(root, "mine") / "inner"
    path.mkdir()
    return path


def place_other_key(root: Path) -> Path:
    path = root / "objects" / "zz" / "mine"
    path.mkdir(parents=True)
    return path


def place_key_on_another_shelf(root: Path) -> Path:
    path = root / "objects" / "zz" / key_of("mine")
    path.mkdir(parents=True)
    (path / WEIGHTS_FILE).touch()
    return path


def place_other_record(root: Path) -> Path:
    (root / "results" / "summary.json").write_text("{}")
    return root / "results" / "summary.json"


def place_other_link(root: Path) -> Path:
    (root / "models" / "trial-9").symlink_to(root.parent)
    return root / "models" / "trial-9"


def place_other_training(root: Path) -> Path:
    """Return what `compress` keeps, and goes on from: no study knows of it."""
    path = root / "checkpoints" / f"{key_of('step')}.training"
    path.write_text("mine")
    return path


def place_other_draft(root: Path) -> Path:
    (root / "tmp" / "mine").mkdir()
    return root / "tmp" / "mine"


@pytest.mark.parametrize(
    "place",
    [
        place_foreign_file,
        place_file_among_ours,
        place_folder_among_ours,
        place_other_key,
        place_key_on_another_shelf,
        place_other_record,
        place_other_link,
        place_other_draft,
        place_other_training,
    ],
)
def test_what_is_not_ours_is_left_alone(root: Path, place: Callable[[Path], Path]) -> None:
    path = place(root)

    free_items(root, find_needless(list_items(root), NOTHING))

    assert path.exists()


@pytest.mark.parametrize("name", ["objects", "results", "tmp", "models", "checkpoints"])
def test_nothing_is_freed_behind_a_link(root: Path, name: str) -> None:
    outside = root.parent / "elsewhere"
    (root / name).rename(outside)
    (root / name).symlink_to(outside)
    before = list_files(outside)

    free_items(root, find_needless(list_items(root), NOTHING))

    assert list_files(outside) == before


def test_a_link_inside_a_draft_is_cut_and_not_followed(root: Path) -> None:
    (root.parent / "precious").write_text("mine")
    (root / "tmp" / ("b" * 32) / "out").symlink_to(root.parent)

    free_items(root, find_needless(list_items(root), NOTHING))

    assert (root.parent / "precious").exists()
    assert not (root / "tmp" / ("b" * 32)).exists()


def test_a_file_system_that_refuses_is_one_sentence(root: Path) -> None:
    shutil.rmtree(root / "tmp")
    (root / "tmp").write_text("a file is in the way")
    models = [one for one in list_items(root) if one.kind == "base"]

    with pytest.raises(ArtifactError, match=f"{models[0].path}: cannot be deleted: File exists"):
        free_items(root, models)

    assert list_items(root)


def test_an_empty_or_missing_folder_holds_nothing(tmp_path: Path) -> None:
    assert list_items(tmp_path) == list_items(tmp_path / "missing") == []
