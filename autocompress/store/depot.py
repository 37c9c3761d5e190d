"""Objects and records of a run folder in a store, with copies of objects on this machine.

What lies in the store counts; the cache only saves sending it twice. Below the URL::

    objects/KK/KEY/manifest.json       written last: without it there is no object
    objects/KK/KEY/HASH/...            its files; HASH says what is in them
    results/KEY.json                   records
"""

import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from autocompress.errors import ArtifactError
from autocompress.store.bucket import Bucket
from autocompress.store.files import name_failure, publish_folder
from autocompress.store.manifest import Manifest, make_manifest, read_manifest

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Depot:
    """Whole objects of a store by key; several machines may write.

    Attributes:
        bucket: Where they are.
        cache: Folder for copies, which may be deleted whenever no process works with it.
    """

    bucket: Bucket
    cache: Path
    _known: dict[str, Manifest] = field(default_factory=dict, compare=False, repr=False)

    def find(self, key: str) -> Manifest | None:
        """Return what the object of ``key`` consists of; None when it is not finished."""
        if key not in self._known:
            name = f"{name_object(key)}/{MANIFEST}"
            manifest = read_manifest(self.bucket.read(name), f"{self.bucket.url}/{name}")
            if manifest is None:
                return None
            self._known[key] = manifest
        return self._known[key]

    def fetch(self, key: str) -> Path | None:
        """Return a folder of this machine with the object of ``key``; None when there is none.

        Raises:
            ArtifactError: A file is missing or damaged, or the store cannot be reached.
        """
        manifest = self.find(key)
        if manifest is None:
            return None
        target = self._place(key, manifest)
        if target.is_dir():
            return target
        draft = self.cache / "tmp" / uuid.uuid4().hex
        with name_failure(target):
            draft.mkdir(parents=True)
            try:
                self._download(key, manifest, draft)
                publish_folder(draft, target)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        return target

    def put(self, key: str, draft: Path) -> Path:
        """Make the files in ``draft`` the object of ``key``, unless another process was first.

        Returns:
            A folder of this machine with the object that there is now.

        Raises:
            ArtifactError: The store cannot be reached, or refuses.
            OSError: The cache cannot be written.
        """
        manifest, name = make_manifest(draft), name_object(key)
        target = self._place(key, manifest)
        if target.is_dir() and make_manifest(target) != manifest:
            shutil.rmtree(target)  # A copy from before, and a damaged one.
        publish_folder(draft, target)
        for file in manifest.files:
            self.bucket.upload(f"{name}/{manifest.name}/{file}", target / file)
        for write in (self.bucket.try_create, self.bucket.write):
            if self.find(key) is None:
                write(f"{name}/{MANIFEST}", manifest.to_bytes())
        found = self.fetch(key)
        if found is None:
            raise ArtifactError(f"{self.bucket.url}/{name}: is gone as soon as it was written")
        return found

    def forget(self, key: str) -> None:
        """Look for the object of ``key`` anew when it is asked for."""
        self._known.pop(key, None)

    def _place(self, key: str, manifest: Manifest) -> Path:
        """Return where the copy lies; it never changes, because its name says what is in it."""
        return self.cache / name_object(key) / manifest.name

    def _download(self, key: str, manifest: Manifest, folder: Path) -> None:
        for file, mark in manifest.files.items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            source = f"{name_object(key)}/{manifest.name}/{file}"
            try:
                self.bucket.download(source, path, mark.check)
            except ArtifactError as error:
                place = f"{self.bucket.url}/{name_object(key)}"
                raise ArtifactError(
                    f"{error}; if it is lost, delete {place} and it is made again"
                ) from error


def name_object(key: str) -> str:
    """Return the name of an object, below the URL as in the cache."""
    return f"objects/{key[:2]}/{key}"


def name_record(key: str) -> str:
    """Return the name of a record below the URL."""
    return f"results/{key}.json"
