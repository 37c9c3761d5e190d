"""Say where a fast evaluation spends its time: run.py [lenet5|resnet20|digits_cnn ...].

Random images in the shape of the data set; every figure is the median of interleaved
repetitions in one process, so that a busy machine slows all of them alike.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress.evaluate.base import Base
from autocompress.graph.trace import trace_graph
from autocompress.jobs import Candidate
from autocompress.masks.cost import CostModel
from autocompress.masks.mask import apply_masks_, full_masks, parameter_masks
from autocompress.masks.project import measure_energies, project_masks
from autocompress.shrink.compact import compact_model
from autocompress.shrink.filters import shrink_filters, slice_graph
from autocompress.zoo.make import ModelSettings, make_model

SHAPES = {"lenet5": (1, 28, 28), "digits_cnn": (1, 8, 8), "resnet20": (3, 32, 32)}
BATCH = 128
REPEATS = 7


@dataclass(frozen=True)
class Form:
    """One way to execute a training step."""

    name: str
    step: Callable[[], None]


def make_candidate(graph_model: CostModel, density: float, multiple: int) -> Candidate:
    """Return ``density`` of all filters, rounded to ``multiple``, and of what columns are left."""
    graph = graph_model.graph
    keeps = np.array(
        [
            max(multiple, round(group.size * density / multiple) * multiple)
            if group.prunable
            else group.size
            for group in graph.groups
        ]
    )
    left = graph_model.count_open(keeps)
    columns = {
        layer.name: max(1, round(count * density))
        for layer, count in zip(graph.layers, left.tolist(), strict=True)
        if layer.groups == 1
    }
    filters = {g.name: int(k) for g, k in zip(graph.groups, keeps, strict=True) if g.prunable}
    return Candidate(filters=filters, columns=columns)


def make_step(
    model: nn.Module, inputs: Tensor, *, masks: dict[str, Tensor], bf16: bool
) -> Callable[[], None]:
    """Return a training step of ``model`` that holds its zeros."""
    model.train()
    targets = torch.zeros(len(inputs), dtype=torch.long)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = functional.cross_entropy(model(inputs).float(), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        apply_masks_(model, masks)

    return step


def time_medians(forms: list[Form]) -> dict[str, float]:
    """Return the median seconds of each form, run in turns after one warm-up."""
    for form in forms:
        form.step()
    seconds: dict[str, list[float]] = {form.name: [] for form in forms}
    for _ in range(REPEATS):
        for form in forms:
            start = time.perf_counter()
            form.step()
            seconds[form.name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def report(name: str) -> None:
    """Print the table of one model."""
    torch.manual_seed(0)
    model = make_model(ModelSettings(name=name), SHAPES[name], 10)
    example = torch.zeros(1, *SHAPES[name])
    graph = trace_graph(model, example)
    images = torch.randn(BATCH, *SHAPES[name])
    cost = CostModel(graph)
    full = full_masks(graph)
    forms: list[Form] = []
    for layout in ("nchw", "channels_last"):
        last = layout == "channels_last"
        fmt = torch.channels_last if last else torch.contiguous_format
        inputs = images.contiguous(memory_format=fmt)
        for bf16 in (False, True):
            kind = f"{layout}, {'bf16' if bf16 else 'float32'}"
            dense = make_model(ModelSettings(name=name), SHAPES[name], 10).to(memory_format=fmt)
            forms.append(Form(f"dense | {kind}", make_step(dense, inputs, masks={}, bf16=bf16)))
            for multiple in (1, 8):
                candidate = make_candidate(cost, 0.7, multiple)
                masks = project_masks(graph, measure_energies(graph, model), candidate)
                base = Base(model, graph, masks)
                width = "odd" if multiple == 1 else "multiples of 8"
                forms += make_forms(base, f"{width} | {kind}", inputs, fmt, bf16=bf16)
    seconds = time_medians(forms)
    print(
        f"\n## {name}: one training step, batch {BATCH}, density 0.7, "
        f"{torch.get_num_threads()} threads"
    )
    print(
        "| form | widths | layout | ms | against dense of the same layout |\n|---|---|---|---|---|"
    )
    for key, value in seconds.items():
        parts = key.split(" | ")
        kind = parts[-1]
        widths = parts[1] if len(parts) == 3 else "full"
        share = value / seconds[f"dense | {kind}"]
        print(f"| {parts[0]} | {widths} | {kind} | {1000 * value:.1f} | {share:.2f} |")
    candidate = make_candidate(cost, 0.7, 1)
    energies = measure_energies(graph, model)
    parts = [
        Form("projection", lambda: void(project_masks(graph, energies, candidate))),
        Form("candidate's cost", lambda: void(cost.count_candidate(candidate))),
        Form("parameter masks", lambda: void(parameter_masks(graph, full, model))),
        Form("removal of filters", lambda: void(shrink_filters(model, graph, full))),
        Form("forward, batch 1000", make_forward(model, SHAPES[name])),
    ]
    print("\n| other parts | ms |\n|---|---|")
    for key, value in time_medians(parts).items():
        print(f"| {key} | {1000 * value:.2f} |")


def make_forms(
    base: Base, kind: str, inputs: Tensor, fmt: torch.memory_format, *, bf16: bool
) -> list[Form]:
    """Return the masked, the shrunk and the compact form of one pruned model."""
    masked = shrink_filters(base.model, base.graph, full_masks(base.graph))
    held = parameter_masks(base.graph, base.masks, masked)
    apply_masks_(masked, held)
    small = shrink_filters(base.model, base.graph, base.masks)
    graph, masks = slice_graph(base.graph, base.masks)
    small_held = parameter_masks(graph, masks, small)
    compact = compact_model(base.model, base.graph, base.masks)
    return [
        Form(
            f"{form} | {kind}",
            make_step(net.to(memory_format=fmt), inputs, masks=zeros, bf16=bf16),
        )
        for form, net, zeros in (
            ("masked", masked, held),
            ("shrunk", small, small_held),
            ("compact", compact, {}),
        )
    ]


def make_forward(model: nn.Module, shape: tuple[int, ...]) -> Callable[[], None]:
    """Return a scoring step."""
    inputs = torch.randn(1000, *shape)

    def forward() -> None:
        with torch.no_grad():
            model.eval()(inputs)

    return forward


def void(_: object) -> None:
    """Drop a value."""


if __name__ == "__main__":
    for name in sys.argv[1:] or list(SHAPES):
        report(name)
