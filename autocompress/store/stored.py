"""See what of ours lies in a store, and free what is not needed; see also cleaning.py."""

import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from autocompress.store.cleaning import Item, Kind, find_kind
from autocompress.store.depot import MANIFEST, Depot, name_object

# Our own layout: what does not match is somebody else's and is left alone.
_OBJECT = re.compile(r"objects/([0-9a-f]{2})/(\1[0-9a-f]{62})/(?:([0-9a-f]{32})/)?(.+)")
_RECORD = re.compile(r"results/([0-9a-f]{64})\.json")
_DRAFT = re.compile(r"(?:.+/)?\.[0-9a-f]{32}\.tmp")


def list_stored(depot: Depot) -> list[Item]:
    """Return everything of ours in a store; the paths are names below its URL.

    Raises:
        ArtifactError: The store cannot be reached, or holds a manifest of another version.
    """
    sizes = depot.bucket.list_sizes()
    objects: dict[str, dict[str, int]] = defaultdict(dict)
    items = []
    for name, size in sizes.items():
        if found := _OBJECT.fullmatch(name):
            objects[found[2]][name] = size
        elif found := _RECORD.fullmatch(name):
            items.append(_make_item("result", name, found[1], {name: size}))
        elif _DRAFT.fullmatch(name):
            items.append(_make_item("draft", name, "", {name: size}))
    return [*items, *(one for key, files in objects.items() for one in _sort(depot, key, files))]


def free_stored(depot: Depot, items: Iterable[Item]) -> None:
    """Delete ``items`` of a store, and the copies of its objects here; whole or not at all.

    No search may be running: a draft could be its own.

    Raises:
        ArtifactError: The store cannot be reached, or refuses.
    """
    names = [name for name in depot.bucket.list_sizes() if _is_ours(name)]
    for item in items:
        place = item.path.as_posix()
        ours = [name for name in names if name == place or name.startswith(f"{place}/")]
        # Without its manifest an object is gone, and what is left of it are drafts.
        for name in sorted(ours, key=lambda name: not name.endswith(f"/{MANIFEST}")):
            depot.bucket.delete(name)
        depot.forget(item.key)
        if item.key:
            shutil.rmtree(depot.cache / place, ignore_errors=True)
    shutil.rmtree(depot.cache / "tmp", ignore_errors=True)  # Of processes that were killed.


def _is_ours(name: str) -> bool:
    found = _OBJECT.fullmatch(name)
    if found and (found[3] or found[4] == MANIFEST):
        return True
    return bool(_RECORD.fullmatch(name) or _DRAFT.fullmatch(name))


def _sort(depot: Depot, key: str, files: Mapping[str, int]) -> Iterator[Item]:
    """Yield the object of ``key``, if it is finished and ours, and what lies there in vain."""
    place = name_object(key)
    manifest = depot.find(key) if f"{place}/{MANIFEST}" in files else None
    kind = None if manifest is None else find_kind(set(manifest.files))
    if manifest is not None and kind is None:
        return
    folder = "" if manifest is None else f"{place}/{manifest.name}/"
    whole = {
        name: size
        for name, size in files.items()
        if folder and (name.startswith(folder) or name == f"{place}/{MANIFEST}")
    }
    if kind is not None:
        yield _make_item(kind, place, key, whole)
    drafts: dict[str, dict[str, int]] = defaultdict(dict)
    for name in files.keys() - whole.keys():
        found = _OBJECT.fullmatch(name)
        if found and _is_ours(name):
            drafts[f"{place}/{found[3] or found[4]}"][name] = files[name]
    for name, parts in drafts.items():
        yield _make_item("draft", name, "", parts)


def _make_item(kind: Kind, name: str, key: str, files: Mapping[str, int]) -> Item:
    return Item(kind=kind, path=Path(name), key=key, size_bytes=sum(files.values()))
