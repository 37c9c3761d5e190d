"""What an executor can know of errors and memory without importing PyTorch."""

import ctypes
import gc
import os
import re
import sys
from pathlib import Path

_NO_MEMORY = re.compile(r"out of memory|tried to allocate|ALLOC_FAILED", re.IGNORECASE)
_BROKEN = re.compile(r"CUDA error|CUDNN_STATUS|CUBLAS_STATUS")


def describe_error(error: Exception) -> str:
    """Return one line that says what went wrong; "out of memory" whatever type says so."""
    text = " ".join(str(error).split())
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, MemoryError) or _NO_MEMORY.search(line):
        return f"out of memory ({line}); want fewer workers or smaller batches"
    return line


def lacks_memory(error: str) -> bool:
    """Return whether a line of :func:`describe_error` tells of memory that was wanting."""
    return error.startswith("out of memory")


def breaks_process(error: str) -> bool:
    """Return whether a process should evaluate nothing more after such an error.

    Memory may stay in pieces, and a CUDA context is unusable after most of its errors.
    """
    return lacks_memory(error) or bool(_BROKEN.search(error))


def free_memory() -> None:
    """Give back what no one uses: cycles of objects, and PyTorch's cache on the GPU."""
    gc.collect()
    torch = sys.modules.get("torch")  # Whoever has not imported it holds no tensors.
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def trim_memory() -> None:
    """Give freed memory back to the system where the C library keeps it otherwise.

    oneDNN keeps compiled kernels for every shape that it meets: small blocks that pin the large
    ones of an evaluation between them.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only.
    if trim is not None:
        trim(0)


def read_resident() -> int:
    """Return the bytes of this process alone in memory; 0 where the system does not tell.

    What it shares with others, files and Ray's object store, is not its growth.
    """
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    _, resident, shared, *_ = map(int, statm.read_text(encoding="ascii").split())
    return (resident - shared) * os.sysconf("SC_PAGESIZE")
