"""The fastest way to run a finished model on this device, found by measurement.

What is stored stays small; what is executed may be wider or dense where that is faster: a layer
of few columns as a plain convolution, an odd width with zero filters up to an aligned one. Every
way computes the same, and the outputs are compared before one is taken.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn

from autocompress.deploy.choose import FormCache, choose_forms
from autocompress.deploy.fold import fold_norms
from autocompress.deploy.forms import PLAIN
from autocompress.deploy.measure import Call, Timing, measure_together
from autocompress.deploy.pad import pad_widths
from autocompress.errors import GraphError
from autocompress.shrink.columns import ColumnConv2d, ColumnLinear
from autocompress.shrink.expand import expand_columns

Layout = Literal["contiguous", "channels_last"]
LAYOUTS: Mapping[Layout, torch.memory_format] = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}
MULTIPLES = (8, 16)  # Widths that vector units of CPUs and tensor cores like.
FINALISTS = 3
AS_STORED = "as stored"
TURNS = 11  # Of the last comparison.
EQUAL_WITHIN = {torch.float32: 1e-4, torch.float64: 1e-9}  # Any other: a few roundings.
ROUGHLY = 5e-2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How an optimised model is executed, and what spoke for it.

    Attributes:
        name: Of the way that was taken, a key of ``timings``.
        layout: Memory format of the maps.
        multiple: Widths are padded to multiples of this; 1 pads none.
        forms: Layers that are executed in another form than their own, by name.
        timings: Of all ways in the last comparison.
        gap: Largest difference of the outputs on the example, over the largest output.
    """

    name: str
    layout: Layout
    multiple: int
    forms: Mapping[str, str]
    timings: Mapping[str, Timing]
    gap: float


class Measure(Protocol):
    """What :func:`measure_together` does."""

    def __call__(
        self, calls: Mapping[str, Call], *, turns: int, device: torch.device
    ) -> dict[str, Timing]:
        """Return the times of the calls, measured together."""


class OptimizedModel(nn.Module):
    """A model for inference in the layout, the widths and the forms that were measured fastest.

    Attributes:
        plan: What was chosen and why.
    """

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        super().__init__()
        self.model = model
        self.plan = plan

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what the original model returns in evaluation mode."""
        return self.model(_arrange(inputs, self.plan.layout))


@dataclass(frozen=True)
class _Way:
    """One way to execute a model."""

    model: nn.Module
    layout: Layout
    multiple: int
    forms: Mapping[str, str]


def optimize(
    model: nn.Module,
    example: Tensor,
    *,
    target: str = "cpu",
    cache: FormCache | None = None,
    compiled: bool = False,
    measure: Measure = measure_together,
) -> OptimizedModel:
    """Return ``model`` as it runs fastest on a device, for inference.

    Batch norms are folded; then the forms of its layers, its memory layout and zero filters up
    to aligned widths are chosen by the time they take on ``example``, with the threads that
    PyTorch has now. The plain dense form is among what is compared. Batches and images of other
    sizes are computed right as well, but may have a faster way.

    Args:
        model: Returns one tensor; not changed. Column layers may be among its layers.
        example: One batch as it will come, shape (samples, ...), in the type of the model.
        target: Device to run on, such as ``cpu`` or ``cuda``.
        cache: Choices for layers that were measured before.
        compiled: Whether ``torch.compile`` of the winner is compared too; on a CPU that needs a
            C++ compiler, and takes a minute.
        measure: Times calls side by side.

    Returns:
        A new model on ``target``; its ``plan`` says what was chosen.

    Raises:
        GraphError: No way computes the same as the model within 1e-4 in float32.
        ValueError: The model returns something else than a tensor.
    """
    device = torch.device(target)
    model = copy.deepcopy(model).to(device).eval()
    example = example.to(device)
    bench = _Bench(example, measure)
    with torch.inference_mode():
        wanted = model(example)
    if not isinstance(wanted, Tensor):
        raise ValueError(f"model: want one that returns a tensor, got {type(wanted).__name__}")
    ways = bench.pick_finalists(_list_ways(model, example))
    finals = {name: bench.choose_layers(way, cache) for name, way in ways.items()}
    finals |= {f"{name}, one form": way for name, way in ways.items() if finals[name].forms}
    finals = {name: way for name, way in finals.items() if bench.agrees(way, wanted)}
    if not finals:
        raise GraphError("no way to execute the model gives its outputs again")
    timings = bench.time(finals, TURNS)
    if compiled:
        best = min(timings, key=lambda name: timings[name].median_s)
        finals[f"{best}, compiled"] = _compile(finals[best])
        timings = bench.time(finals, TURNS)
    name = min(timings, key=lambda name: timings[name].median_s)
    way = finals[name]
    plan = Plan(
        name=name,
        layout=way.layout,
        multiple=way.multiple,
        forms=way.forms,
        timings=timings,
        gap=bench.measure_gap(way, wanted),
    )
    return OptimizedModel(way.model, plan).eval()


@dataclass(frozen=True)
class _Bench:
    """Runs ways to execute a model on one batch."""

    example: Tensor
    measure: Measure

    @torch.inference_mode()
    def run(self, way: _Way) -> Tensor:
        return way.model(_arrange(self.example, way.layout))

    def time(self, ways: Mapping[str, _Way], turns: int) -> dict[str, Timing]:
        calls = {name: partial(self.run, way) for name, way in ways.items()}
        return self.measure(calls, turns=turns, device=self.example.device)

    def pick_finalists(self, ways: Mapping[str, _Way]) -> dict[str, _Way]:
        """Return the fastest few ways, and what is stored, whose forms may speed it up."""
        timings = self.time(ways, turns=5)
        ranked = sorted(ways, key=lambda name: timings[name].median_s)
        chosen = {*ranked[:FINALISTS], *(name for name in ways if name.startswith(AS_STORED))}
        return {name: way for name, way in ways.items() if name in chosen}

    def choose_layers(self, way: _Way, cache: FormCache | None) -> _Way:
        """Return ``way`` with every layer in the form that is fastest in its layout."""
        images = _arrange(self.example, way.layout)
        made, forms = choose_forms(way.model, images, cache=cache, measure=self._time_modules)
        changed = {name: form for name, form in forms.items() if form != PLAIN}
        return _Way(made, way.layout, way.multiple, changed)

    def agrees(self, way: _Way, wanted: Tensor) -> bool:
        """Return whether the outputs are those of the model."""
        return self.measure_gap(way, wanted) <= EQUAL_WITHIN.get(wanted.dtype, ROUGHLY)

    def measure_gap(self, way: _Way, wanted: Tensor) -> float:
        """Return the largest difference of the outputs over the largest output."""
        largest = wanted.abs().max().clamp(min=1.0)
        return float(((wanted - self.run(way)).abs().max() / largest).float())

    def _time_modules(
        self, models: Mapping[str, nn.Module], inputs: Tensor, *, turns: int
    ) -> dict[str, Timing]:
        calls = {name: partial(model, inputs) for name, model in models.items()}
        with torch.inference_mode():
            return self.measure(calls, turns=turns, device=inputs.device)


def _list_ways(model: nn.Module, example: Tensor) -> dict[str, _Way]:
    """Return the model folded, dense and padded, in every layout that its input can have."""
    folded = fold_norms(model, example)
    shapes: dict[str, tuple[nn.Module, int]] = {AS_STORED: (folded, 1)}
    if any(isinstance(one, ColumnConv2d | ColumnLinear) for one in folded.modules()):
        shapes["dense"] = (expand_columns(folded), 1)
    for multiple in MULTIPLES:
        try:
            padded = pad_widths(folded, example, multiple)
        except GraphError:  # Its channels cannot be followed: it runs as wide as it is.
            continue
        if _count_values(padded) > _count_values(folded):
            shapes[f"padded to {multiple}"] = (padded, multiple)
    layouts = list(LAYOUTS) if example.dim() == 4 else ["contiguous"]
    return {
        f"{shape}, {layout}": _Way(_lay_out(made, layout), layout, multiple, {})
        for shape, (made, multiple) in shapes.items()
        for layout in LAYOUTS
        if layout in layouts
    }


def _compile(way: _Way) -> _Way:
    made = cast(nn.Module, torch.compile(way.model))
    return _Way(made, way.layout, way.multiple, way.forms)


def _lay_out(model: nn.Module, layout: Layout) -> nn.Module:
    made = copy.deepcopy(model)
    return made.to(memory_format=LAYOUTS[layout]) if layout != "contiguous" else made


def _arrange(inputs: Tensor, layout: Layout) -> Tensor:
    if inputs.dim() != 4:
        return inputs
    return inputs.contiguous(memory_format=LAYOUTS[layout])


def _count_values(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())
