"""A finished model beside its dense one: what it saves, and how much faster it really is.

All models of one batch size take turns on the same inputs, so that a busy machine slows all alike;
each is compared with the dense model of its own runtime, and PyTorch's in the layout that is
faster for it.
"""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from autocompress.data.source import InputSpec
from autocompress.deploy.measure import (
    Call,
    Clock,
    Speedup,
    Timing,
    compare_times,
    measure_together,
    pin_threads,
)
from autocompress.deploy.optimize import optimize
from autocompress.errors import ArtifactError, SettingError
from autocompress.graph.trace import measure_macs
from autocompress.store.export import make_onnx, open_onnx
from autocompress.store.load import count_stored, load
from autocompress.store.record import Factory, make_dense

Runtime = Literal["PyTorch", "onnxruntime"]
Optimize = Callable[[nn.Module, Tensor], nn.Module]

LAYOUTS: Mapping[str, torch.memory_format] = {
    "NCHW": torch.contiguous_format,
    "channels_last": torch.channels_last,
}
DENSE, COMPACT, OPTIMISED = "dense", "compact", "optimised"


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """What is measured.

    Attributes:
        batches: Images of one call, each 1 or more.
        threads: Inside one call; 0 takes as many as PyTorch does.
        turns: Measured calls of each model, 1 or more.
        with_onnx: Whether both models are exported and run in onnxruntime as well.
        device: ``cpu`` or ``cuda``.
    """

    batches: tuple[int, ...] = (1, 32)
    threads: int = 0
    turns: int = 15
    with_onnx: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise SettingError(f"batch: want 1 or more images, got {list(self.batches)}")
        if self.threads < 0 or self.turns < 1:
            raise SettingError(
                f"want 0 or more threads and 1 or more turns, got {self.threads} and {self.turns}"
            )
        if self.with_onnx and self.device != "cpu":
            raise SettingError(f"onnx: it is measured on the cpu only, got {self.device}")


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a model holds and does.

    Attributes:
        params: All parameters.
        macs: Multiply-accumulates of one sample.
        bytes: Of its stored weights; of the dense model, of its whole state.
    """

    params: int
    macs: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Line:
    """Times of one model in one runtime.

    Attributes:
        model: ``dense``, ``compact`` or ``optimised``.
        runtime: What ran it.
        layout: Of its maps in memory.
        way: How an optimised model is executed; else empty.
        timing: Of one call.
        speedup: Over the dense model of this runtime.
        share: Of the factor by which MACs became fewer, that ``speedup`` reaches.
    """

    model: str
    runtime: Runtime
    layout: str
    way: str
    timing: Timing
    speedup: Speedup
    share: float


@dataclass(frozen=True, kw_only=True)
class BatchBench:
    """Times at one batch size.

    Attributes:
        batch: Images of one call.
        lines: One for each model and way to run it.
    """

    batch: int
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A compact model beside its dense one.

    Attributes:
        dense: Size of the dense model.
        compact: Size of the compact one.
        threads: Inside one call.
        batches: Times at each batch size.
    """

    dense: Size
    compact: Size
    threads: int
    batches: tuple[BatchBench, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values; times are seconds."""
        return asdict(self)


@dataclass(frozen=True)
class _Entry:
    """Something to be timed."""

    model: str
    runtime: Runtime
    layout: str
    call: Call
    way: str = ""


def _optimize_here(model: nn.Module, inputs: Tensor) -> nn.Module:
    return optimize(model, inputs, target=inputs.device.type)


def bench_artifact(
    path: Path,
    settings: BenchSettings,
    *,
    factory: Factory | None = None,
    optimize_model: Optimize = _optimize_here,
    clock: Clock = time.perf_counter,
) -> Bench:
    """Return how a finished model compares with the dense one that its record describes.

    The dense model has new weights, which take as long as trained ones; inputs are random.

    Args:
        path: Folder of a finished model, or a compact ``.acz`` file.
        settings: What is measured.
        factory: Makes the dense model when it is neither of the zoo nor of torchvision.
        optimize_model: Returns the fastest way to run a model on inputs.
        clock: Returns seconds.

    Raises:
        ArtifactError: The model is missing or damaged, or says nothing about its input.
        ExportError: It is to be exported and cannot be.
    """
    compact = load(path, factory=factory)
    spec = getattr(compact, "input_spec", None)
    record = getattr(compact, "stored_record", None)
    if not isinstance(spec, InputSpec) or not isinstance(record, dict):
        raise ArtifactError(f"{path}: the model does not say what it was made from")
    dense = make_dense(path, record, factory).eval()
    example = torch.zeros(1, *spec.shape)
    sizes = {
        DENSE: _measure_size(dense, example, _count_state(dense)),
        COMPACT: _measure_size(compact, example, count_stored(path)),
    }
    fewer = sizes[DENSE].macs / max(1, sizes[COMPACT].macs)
    models = {DENSE: dense, COMPACT: compact}
    exported = {
        name: make_onnx(model, example)[0] for name, model in models.items() if settings.with_onnx
    }
    models = {name: model.to(settings.device) for name, model in models.items()}
    found = []
    with pin_threads(settings.threads):
        threads = torch.get_num_threads()
        for batch in settings.batches:
            generator = torch.Generator().manual_seed(batch)
            images = torch.randn(batch, *spec.shape, generator=generator).to(settings.device)
            entries = _list_entries(models, images, optimize_model)
            for name, data in exported.items():
                call = partial(open_onnx(data, threads=threads), images)
                entries.append(_Entry(name, "onnxruntime", "NCHW", call))
            lines = _time_entries(entries, fewer, images.device, settings.turns, clock)
            found.append(BatchBench(batch=batch, lines=lines))
    return Bench(dense=sizes[DENSE], compact=sizes[COMPACT], threads=threads, batches=tuple(found))


def _list_entries(
    models: Mapping[str, nn.Module], images: Tensor, optimize_model: Optimize
) -> list[_Entry]:
    """Return the models in each layout that their inputs can have, and the optimised one."""
    layouts = LAYOUTS if images.dim() == 4 else {"NCHW": torch.contiguous_format}
    entries = [
        _Entry(
            name,
            "PyTorch",
            layout,
            partial(_lay_out(model, form), images.contiguous(memory_format=form)),
        )
        for name, model in models.items()
        for layout, form in layouts.items()
    ]
    optimised = optimize_model(models[COMPACT], images)
    plan = getattr(optimised, "plan", None)
    layout = getattr(plan, "layout", "NCHW")
    entries.append(
        _Entry(
            OPTIMISED,
            "PyTorch",
            "NCHW" if layout == "contiguous" else layout,
            partial(optimised, images),
            getattr(plan, "name", ""),
        )
    )
    return entries


def _time_entries(
    entries: list[_Entry], fewer: float, device: torch.device, turns: int, clock: Clock
) -> tuple[Line, ...]:
    """Return the times of all entries, each compared with the faster dense one beside it."""
    calls = {str(place): entry.call for place, entry in enumerate(entries)}
    with torch.inference_mode():
        timings = [*measure_together(calls, turns=turns, device=device, clock=clock).values()]
    dense: dict[Runtime, Timing] = {}
    for entry, timing in zip(entries, timings, strict=True):
        if entry.model == DENSE:
            best = dense.get(entry.runtime, timing)
            dense[entry.runtime] = min(best, timing, key=lambda one: one.median_s)
    speedups = [
        compare_times(dense[entry.runtime], timing)
        for entry, timing in zip(entries, timings, strict=True)
    ]
    return tuple(
        Line(
            model=entry.model,
            runtime=entry.runtime,
            layout=entry.layout,
            way=entry.way,
            timing=timing,
            speedup=speedup,
            share=speedup.factor / fewer,
        )
        for entry, timing, speedup in zip(entries, timings, speedups, strict=True)
    )


def _measure_size(model: nn.Module, example: Tensor, size: int) -> Size:
    params = sum(parameter.numel() for parameter in model.parameters())
    return Size(params=params, macs=measure_macs(model, example), bytes=size)


def _count_state(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def _lay_out(model: nn.Module, form: torch.memory_format) -> nn.Module:
    return copy.deepcopy(model).to(memory_format=form)
