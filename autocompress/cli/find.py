"""Find a study by its name or by the settings file it began with; loads Optuna."""

from dataclasses import dataclass, replace
from pathlib import Path

import optuna

from autocompress.cli.place import choose_storage, warn_of_network
from autocompress.errors import StudyError, StudyLostError
from autocompress.search.spec import Settings, read_study_settings, resolve_settings
from autocompress.search.study import open_study
from autocompress.settings import read_settings
from autocompress.store.run_folder import RunFolder, open_folder


@dataclass(frozen=True, kw_only=True)
class Found:
    """A stored study.

    Attributes:
        study: Open for reading.
        settings: What it was begun with; places as they are now, and how it runs as in the
            settings file that it was found by.
        folder: Where its models lie.
    """

    study: optuna.Study
    settings: Settings
    folder: RunFolder


def find_study(name: str, storage: str = "") -> Found:
    """Return a stored study.

    Args:
        name: Of the study; or a settings file, ending in ``.toml``.
        storage: URL or path of its database; empty for the one that the settings file or the
            environment names, or else for the file in ``runs/NAME``.

    Raises:
        StudyError: The study is missing, or not of this package.
        SettingError: The settings file is missing or wrong.
    """
    places = place_study(name, storage)
    warn_of_network(places.storage)
    return open_found(places)


def place_study(name: str, storage: str = "") -> Settings:
    """Return the resolved settings by which :func:`find_study` finds a study.

    Raises:
        SettingError: The settings file is missing or wrong.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    given = read_settings(Settings, Path(name)) if name.endswith(".toml") else Settings(name=name)
    return resolve_settings(replace(given, storage=choose_storage(storage, given.storage)))


def open_found(places: Settings) -> Found:
    """Return the stored study that resolved settings name; how it runs is as they say.

    Raises:
        StudyError: It is missing, or not of this package.
    """
    study = open_study(places.name, places.storage)
    settings = replace(read_study_settings(study, places.storage), execute=places.execute)
    return Found(study=study, settings=settings, folder=open_folder(settings.run_dir))


def has_study(settings: Settings) -> bool:
    """Return whether the study of ``settings`` was begun before.

    Raises:
        StudyLostError: The server of its database cannot be reached.
    """
    places = resolve_settings(settings)
    try:
        open_study(places.name, places.storage)
    except StudyLostError:
        raise
    except StudyError:
        return False
    return True
