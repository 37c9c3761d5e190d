"""See what lies in a run folder, and free what is not needed."""

import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autocompress.store.artifacts import METRICS_FILE, STRUCTURE_FILE, WEIGHTS_FILE
from autocompress.store.files import name_failure
from autocompress.store.run_folder import DAMAGED

Kind = Literal["dense", "base", "finished", "result", "training", "damaged", "draft", "link"]

# Our own layout: what does not match is somebody else's and is left alone.
_KEY = re.compile(r"[0-9a-f]{64}")
_DRAFT = re.compile(r"[0-9a-f]{32}")
_RECORD = re.compile(rf"({_KEY.pattern})\.json")
_DAMAGED = re.compile(rf"({_KEY.pattern})\.json{re.escape(DAMAGED)}")
_RECORD_DRAFT = re.compile(rf"\.{_DRAFT.pattern}\.tmp")
_TRAINING = re.compile(rf"({_KEY.pattern})-\w+\.training(\.draft)?")
_LINK = re.compile(r"best|trial-\d+")
_MODEL_FILES = frozenset((WEIGHTS_FILE, STRUCTURE_FILE, METRICS_FILE))
_FILES: dict[Kind, frozenset[str]] = {
    "dense": _MODEL_FILES | {"dense.json"},
    "base": _MODEL_FILES | {"masks.safetensors"},
    "finished": _MODEL_FILES,
}


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing in a run folder.

    Attributes:
        kind: A ``dense`` model, a ``base`` of a round, a ``finished`` model, a ``result``, a
            ``training`` that was interrupted, a ``damaged`` result set aside, a ``draft`` that
            was never finished, a ``link``.
        path: Where it lies; a folder, a file or a link; in a store, its name below the URL.
        key: Of a model or result, of what a training is for, or of the model that a link points
            to; empty for what is of no use: drafts, damaged results, links to nothing.
        size_bytes: Of its files.
    """

    kind: Kind
    path: Path
    key: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Needed:
    """What the studies of a run folder need of it.

    Attributes:
        objects: Keys of models.
        results: Keys of results.
        trainings: Keys of what is still to be trained, so that it goes on in the middle.
        all_dense: Keep every dense model, and every training, because one could not be named.
    """

    objects: frozenset[str]
    results: frozenset[str]
    trainings: frozenset[str] = frozenset()
    all_dense: bool = False

    def keeps(self, item: Item) -> bool:
        """Return whether a model, a result, a training or a link may not go by itself."""
        if item.kind == "result":
            return item.key in self.results
        if item.kind == "training":
            return self.all_dense or item.key in self.trainings
        if item.kind == "dense" and self.all_dense:
            return True
        return item.kind == "link" or item.key in self.objects


def list_items(root: Path) -> list[Item]:
    """Return everything of ours in the run folder ``root``; links are not followed."""
    finders = (_list_objects, _list_records, _list_trainings, _list_drafts, _list_links)
    return [item for find in finders for item in find(root)]


def find_needless(items: Sequence[Item], needed: Needed) -> list[Item]:
    """Return what may go: what is not ``needed``, and all that is left over.

    A link goes with the model it points to.
    """
    freed = {one.key for one in items if one.kind in _FILES and not needed.keeps(one)}
    return [one for one in items if one.key in {"", *freed} or not needed.keeps(one)]


def free_items(root: Path, items: Iterable[Item]) -> None:
    """Delete ``items`` of the run folder ``root``; a model is gone whole or not at all.

    No search may be running: a draft could be its own.

    Raises:
        ArtifactError: The file system refuses.
    """
    for item in items:
        with name_failure(item.path, "deleted"):
            if item.kind in _FILES:
                draft = root / "tmp" / uuid.uuid4().hex
                draft.parent.mkdir(exist_ok=True)
                item.path.rename(draft)  # When we are killed, a draft is left and no half model.
                shutil.rmtree(draft)
            elif item.path.is_dir() and not item.path.is_symlink():
                shutil.rmtree(item.path)
            else:
                item.path.unlink(missing_ok=True)


def _list_objects(root: Path) -> Iterator[Item]:
    for shelf in _scan(root / "objects"):
        for entry in _scan(Path(shelf.path)):
            is_ours = _KEY.fullmatch(entry.name) and entry.name.startswith(shelf.name)
            if len(shelf.name) == 2 and is_ours and entry.is_dir(follow_symlinks=False):
                files = list(_scan(Path(entry.path)))
                kind = find_kind({one.name for one in files})
                if kind is not None and all(one.is_file(follow_symlinks=False) for one in files):
                    yield _make_item(kind, entry, entry.name, files)


def find_kind(names: set[str]) -> Kind | None:
    """Return what a folder of these files is; None when it is nothing of ours."""
    if "dense.json" in names:
        kind: Kind = "dense"
    else:
        kind = "base" if "masks.safetensors" in names else "finished"
    return kind if names and names <= _FILES[kind] else None


def _list_records(root: Path) -> Iterator[Item]:
    for entry in _scan(root / "results"):
        if not entry.is_file(follow_symlinks=False):
            continue
        if match := _RECORD.fullmatch(entry.name):
            yield _make_item("result", entry, match[1], [entry])
        elif match := _DAMAGED.fullmatch(entry.name):
            yield _make_item("damaged", entry, "", [entry])
        elif _RECORD_DRAFT.fullmatch(entry.name):
            yield _make_item("draft", entry, "", [entry])


def _list_trainings(root: Path) -> Iterator[Item]:
    for entry in _scan(root / "checkpoints"):
        match = _TRAINING.fullmatch(entry.name)
        if match and entry.is_file(follow_symlinks=False):
            is_draft = match[2] is not None
            yield _make_item(
                "draft" if is_draft else "training", entry, "" if is_draft else match[1], [entry]
            )


def _list_drafts(root: Path) -> Iterator[Item]:
    for entry in _scan(root / "tmp"):
        if _DRAFT.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
            yield _make_item("draft", entry, "", _walk(Path(entry.path)))


def _list_links(root: Path) -> Iterator[Item]:
    for entry in _scan(root / "models"):
        if _LINK.fullmatch(entry.name) and entry.is_symlink():
            target = Path(entry.path).readlink()
            key = target.name
            if target == Path("..", "objects", key[:2], key) and _KEY.fullmatch(key):
                exists = Path(entry.path).exists()
                yield _make_item("link", entry, key if exists else "", [entry])


def _make_item(
    kind: Kind, entry: os.DirEntry[str], key: str, files: Iterable[os.DirEntry[str]]
) -> Item:
    size = sum(one.stat(follow_symlinks=False).st_size for one in files)
    return Item(kind=kind, path=Path(entry.path), key=key, size_bytes=size)


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield what lies in ``folder``; nothing when it is a link, which may lead out of ours."""
    if folder.is_dir() and not folder.is_symlink():
        with os.scandir(folder) as entries:
            yield from entries


def _walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    for entry in _scan(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        else:
            yield entry
