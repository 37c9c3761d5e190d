"""The executor that a study's settings ask for."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from autocompress.errors import SettingError
from autocompress.execute.base import Executor, Portable, Runner
from autocompress.execute.in_process import InProcess
from autocompress.execute.settings import ExecuteSettings
from autocompress.execute.subprocess_pool import SubprocessPool
from autocompress.store.run_folder import RunFolder


@dataclass(frozen=True)
class Placeless:
    """Makes a runner that keeps its models where it wants; survives pickle.

    Attributes:
        make_runner: Makes it.
    """

    make_runner: Callable[[], Runner]

    def __call__(self, _: str) -> Runner:
        """Return a new runner, whatever folder there is for it."""
        return self.make_runner()


def open_executor(
    settings: ExecuteSettings,
    runner: Runner,
    make_runner: Callable[[], Runner],
    folder: RunFolder,
) -> Executor:
    """Return an executor that evaluates here, in processes of its own or on Ray; to be closed.

    Args:
        settings: Where, and how many at a time.
        runner: Evaluates in this process; Ray's workers get what it carries, if it can be
            packed.
        make_runner: Called once in every other process; can be pickled.
        folder: Where results are stored.

    Raises:
        SettingError: Ray is asked for and not installed.
    """
    if settings.in_process:
        return InProcess(runner, folder, threads=settings.threads)
    if settings.executor == "ray":
        return _open_ray(settings, runner, make_runner, folder)
    return SubprocessPool(make_runner, folder, settings)


def _open_ray(
    settings: ExecuteSettings,
    runner: Runner,
    make_runner: Callable[[], Runner],
    folder: RunFolder,
) -> Executor:
    try:
        pool = import_module("autocompress.execute.ray_pool")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "ray":
            raise
        raise SettingError(
            'execute.executor: Ray is not installed; want pip install "autocompress[ray]"'
        ) from error

    def pack() -> Callable[[str], Runner]:
        return runner.pack() if isinstance(runner, Portable) else Placeless(make_runner)

    executor: Executor = pool.RayPool(pack, folder, settings)
    return executor
