"""The models that jobs start from, as Ray holds them."""

from typing import Any

import ray

from autocompress.store.files import name_failure
from autocompress.store.freight import read_files
from autocompress.store.run_folder import RunFolder

MOST = 4  # A round has one.


class Bases:
    """Sends models of a run folder to a cluster, each once."""

    def __init__(self, folder: RunFolder) -> None:
        """Send nothing yet."""
        self._folder = folder
        self._sent: dict[str, Any] = {}  # References by key, the latest last.

    def send(self, key: str) -> list[Any]:
        """Return the reference of a model, in a list; an empty one where none is needed.

        Raises:
            ArtifactError: The model cannot be read.
        """
        if not key or not self._holds(key):
            return []
        if key not in self._sent:
            path = self._folder.path(key)
            with name_failure(path, "read"):
                self._sent[key] = ray.put(read_files(path))
        while len(self._sent) > MOST:
            del self._sent[next(iter(self._sent))]  # Jobs that need it hold it themselves.
        return [self._sent[key]]

    def clear(self) -> None:
        """Let Ray forget them."""
        self._sent.clear()

    def _holds(self, key: str) -> bool:
        try:
            return self._folder.has(key)
        except ValueError:  # No key of the run folder: the runner knows what it means.
            return False
