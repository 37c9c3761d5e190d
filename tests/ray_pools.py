"""Pools on the Ray that tests share."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from autocompress.execute.choose import Placeless
from autocompress.execute.ray_pool import RayPool
from autocompress.execute.settings import ExecuteSettings
from autocompress.jobs import Outcome
from autocompress.store.run_folder import RunFolder
from tests.workers import PerformerFactory, make_job, take_outcome

Open = Callable[..., RayPool]


@contextmanager
def opening_pools(folder: Path) -> Iterator[Open]:
    """Give what opens a pool whose workers do what jobs say; all are closed in the end."""
    opened: list[RayPool] = []

    def open_one(
        act: str = "calm", clock: Callable[[], float] = time.monotonic, **changes: Any
    ) -> RayPool:
        settings = ExecuteSettings(executor="ray", address="local", **changes)
        maker = Placeless(PerformerFactory(str(folder), act))
        opened.append(RayPool(lambda: maker, RunFolder(folder), settings, clock))
        return opened[-1]

    yield open_one
    for pool in opened:
        pool.close()


def run(pool: RayPool, base: str = "calm", key: str = "key", stage: Any = "fast") -> Outcome:
    """Return what comes of a job."""
    pool.submit(key, replace(make_job(base), stage=stage))
    return take_outcome(pool)[1]


def meet(pool: RayPool) -> list[Outcome]:
    """Run two jobs that wait for each other; afterwards two workers are ready."""
    for seed in range(2):
        pool.submit(f"meet{seed}", make_job("meet", seed))
    return [take_outcome(pool)[1] for _ in range(2)]
