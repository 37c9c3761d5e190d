"""The executor that a study's settings ask for."""

from collections.abc import Callable

from autocompress.execute.base import Executor, Runner
from autocompress.execute.in_process import InProcess
from autocompress.execute.settings import ExecuteSettings
from autocompress.execute.subprocess_pool import SubprocessPool
from autocompress.store.run_folder import RunFolder


def open_executor(
    settings: ExecuteSettings,
    runner: Runner,
    make_runner: Callable[[], Runner],
    folder: RunFolder,
) -> Executor:
    """Return an executor that evaluates here or in processes of its own; to be closed.

    Args:
        settings: Where, and how many at a time.
        runner: Evaluates in this process.
        make_runner: Called once in every other process; can be pickled.
        folder: Where results are stored.
    """
    if settings.in_process:
        return InProcess(runner, folder, threads=settings.threads)
    return SubprocessPool(make_runner, folder, settings)
