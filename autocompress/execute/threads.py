"""How many threads a process computes with; knows PyTorch only where it is loaded already."""

import os
import sys

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def share_cores(workers: int) -> int:
    """Return the threads of each of ``workers`` processes, 1 or more."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, cores // workers)


def limit_libraries(threads: int) -> None:
    """Let libraries that are not yet loaded start with so many threads."""
    for name in _VARIABLES:
        os.putenv(name, str(threads))


def set_threads(threads: int) -> None:
    """Let PyTorch compute with so many threads, if it is loaded; 0 leaves it alone."""
    torch = sys.modules.get("torch")
    if threads and torch is not None:
        torch.set_num_threads(threads)
