"""The user's own modules, to be imported where their files are not."""

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from autocompress.errors import SettingError
from autocompress.evaluate.task import TaskSettings, name_functions
from autocompress.store.freight import Files, write_files

MOST_BYTES = 2**24
_INSTALLED = {"site-packages", "dist-packages"}
_OURS = __name__.partition(".")[0]


def collect_sources(settings: TaskSettings) -> Files:
    """Return the Python files that the task's own functions may import, by relative name.

    These are all that lie in the folder which holds the module or package of a function: modules
    there, and packages. What is installed is not among them: workers must have it too.

    Raises:
        SettingError: A function's module is missing, or the files are too many.
    """
    files: Files = {}
    for setting, name in name_functions(settings).items():
        top = name.partition(":")[0].partition(".")[0]
        folder = _find_folder(top, f"{setting} = {name!r}")
        if folder is not None:
            for path in _list_sources(folder, top):
                files[path.relative_to(folder).as_posix()] = np.fromfile(path, dtype=np.uint8)
    size = sum(len(text) for text in files.values())
    if size > MOST_BYTES:
        raise SettingError(
            f"the Python files beside the task's own functions have {size:,} bytes, want at most "
            f"{MOST_BYTES:,}; install them on every machine, or use ray job submit --working-dir"
        )
    return files


def install_sources(files: Files, folder: Path) -> None:
    """Write modules into ``folder`` and let them be found after what is installed here.

    Beside the functions of a task may lie files that are called as a library is.
    """
    if files:
        write_files(folder, files)
        sys.path.append(str(folder))
        importlib.invalidate_caches()


def _find_folder(top: str, asked: str) -> Path | None:
    """Return the folder that holds a top-level module; None when it is installed."""
    spec = find_spec(top)
    if spec is None:
        raise SettingError(f"{asked}: no module named {top!r}")
    places = [*(spec.submodule_search_locations or ()), spec.origin or ""]
    place = Path(places[0])
    installed = top == _OURS or (not spec.has_location and not spec.submodule_search_locations)
    if installed or _INSTALLED & set(place.parts) or top in sys.stdlib_module_names:
        return None
    return place.parent


def _list_sources(folder: Path, top: str) -> list[Path]:
    """Return the modules in ``folder`` and those of its packages, and of ``top`` at any rate."""
    found = list(folder.glob("*.py"))
    for package in folder.iterdir():
        is_package = package.name == top or (package / "__init__.py").exists()
        if package.is_dir() and is_package and package.name != _OURS:
            found += package.rglob("*.py")
    return sorted(found)
