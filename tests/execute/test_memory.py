import gc
import mmap
import sys
from pathlib import Path

import pytest
import torch

from autocompress.data.settings import DataSettings
from autocompress.evaluate.factory import EvaluatorFactory
from autocompress.evaluate.settings import EvaluateSettings, FastSettings
from autocompress.evaluate.task import TaskSettings
from autocompress.execute.memory import (
    breaks_process,
    describe_error,
    lacks_memory,
    read_resident,
    trim_memory,
)
from autocompress.train.loop import TrainSettings
from autocompress.zoo.make import ModelSettings
from tests.watched import watch_evaluations

SHORT = TrainSettings(epochs=1, batch_size=64)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_every_lack_of_memory_is_called_by_one_name(error: Exception) -> None:
    line = describe_error(error)

    assert line.startswith(f"out of memory ({type(error).__name__}")
    assert "\n" not in line
    assert lacks_memory(line)
    assert breaks_process(line)


def test_more_than_any_machine_has_is_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)

    assert lacks_memory(describe_error(caught.value))


@pytest.mark.parametrize(
    ("error", "broken"),
    [(ValueError("no\n luck"), False), (RuntimeError("CUDA error: device-side assert"), True)],
)
def test_other_errors_are_one_line_of_type_and_text(error: Exception, broken: bool) -> None:
    line = describe_error(error)

    assert line == f"{type(error).__name__}: {' '.join(str(error).split())}"
    assert not lacks_memory(line)
    assert breaks_process(line) == broken


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_trimming_gives_small_blocks_back() -> None:
    blocks = [bytearray(10_000) for _ in range(5_000)]
    full = read_resident()

    del blocks[::2], blocks
    gc.collect()
    trim_memory()

    assert read_resident() < full - 30_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_memory_that_processes_share_is_no_growth() -> None:
    # In small pieces: a large one may come out of what the heap holds, or stay in it.
    pieces = [bytes([place]) * 100_000 for place in range(100)]

    def fill(area: mmap.mmap) -> int:
        for piece in pieces:
            area.write(piece)
        return read_resident()

    size = sum(map(len, pieces))
    before = read_resident()
    with mmap.mmap(-1, size) as shared:  # As Ray's object store.
        with_shared = fill(shared)
        with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as own:
            with_own = fill(own)

    assert with_shared - before < size // 3
    assert with_own - with_shared > size * 2 // 3


@pytest.mark.slow  # A worker imports PyTorch and evaluates 40 candidates.
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_a_worker_keeps_no_model_and_little_memory(tmp_path: Path) -> None:
    task = TaskSettings(
        data=DataSettings(train_limit=128),
        model=ModelSettings(name="digits_cnn"),
        train=SHORT,
        device="cpu",
    )
    evaluate = EvaluateSettings(fast=FastSettings(prune=SHORT, retrain=SHORT, norm_batches=1))
    factory = EvaluatorFactory(task=task, evaluate=evaluate, run_dir=str(tmp_path))

    looks = list(watch_evaluations(factory, 40))

    assert looks[-1].made >= 40 * 8  # A copy of the dense model and a smaller one each time.
    assert {look.alive for look in looks} == {0}
    assert {look.threads for look in looks} == {1}
    # 36 MB were measured over 180 evaluations of larger batches.
    assert looks[-1].resident - looks[4].resident < 40
