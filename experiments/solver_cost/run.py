"""Measure what ADMM adds to an epoch, and what a projection of 25 million weights takes.

    OMP_NUM_THREADS=1 python experiments/solver_cost/run.py [lenet5|resnet20|projections ...]

Random tensors in the shapes of MNIST and CIFAR-10. Plain and ADMM steps take turns in short
blocks, so that a busy machine slows both alike; every figure is a median, with its quartiles.
CPU seconds are those that the process got, whatever ran beside it.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import median, quantiles

import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress.graph.layers import OUTSIDE, Group, Layer, LayerGraph
from autocompress.graph.trace import trace_graph
from autocompress.masks.weights import Allocation, allocate_weights, project_weights
from autocompress.quantize.levels import Levels, project_levels
from autocompress.train.admm import (
    AdmmSettings,
    AdmmState,
    Projection,
    make_hooks,
    start_admm,
    update_dual_,
)
from autocompress.train.loop import Hooks, TrainSettings, make_optimizer
from autocompress.zoo.make import ModelSettings, make_model

SEED = 0
EPOCH_TARGET = 1.05
PROJECTION_TARGET_S = 1.0
EPOCHS = 10  # Of the training that the default number of updates is spread over.


@dataclass(frozen=True, kw_only=True)
class Net:
    """A model and the training that it is measured in.

    Attributes:
        name: In the zoo.
        shape: Of an image.
        samples: Of the training set.
        keep: Weights kept by the global budget.
        steps: Steps of a block.
        blocks: Pairs of blocks.
    """

    name: str
    shape: tuple[int, int, int]
    samples: int
    keep: int
    steps: int
    blocks: int


NETS = (
    Net(name="lenet5", shape=(1, 28, 28), samples=60_000, keep=1_750, steps=10, blocks=21),
    Net(name="resnet20", shape=(3, 32, 32), samples=50_000, keep=13_500, steps=2, blocks=11),
)


def make_stepper(
    model: nn.Module, net: Net, train: TrainSettings, hooks: Hooks
) -> Callable[[], None]:
    """Return a function that takes one optimiser step."""
    generator = torch.Generator().manual_seed(SEED)
    images = torch.randn(train.batch_size, *net.shape, generator=generator)
    targets = torch.randint(10, (train.batch_size,), generator=generator)
    optimizer = make_optimizer(model, train)

    def step() -> None:
        loss = functional.cross_entropy(model(images), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        hooks.on_gradient(0)
        optimizer.step()
        hooks.on_step(0)

    return step


def make_projections(graph: LayerGraph, keep: int) -> dict[str, Projection]:
    """Return the sets to be projected on, by name, as functions of parameters."""

    def to_budget(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weights = {name.removesuffix(".weight"): value for name, value in tensors.items()}
        masks = allocate_weights(graph, weights, keep, Allocation())
        return {f"{name}.weight": value * masks[name] for name, value in weights.items()}

    def to_levels(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: project_levels(value, Levels()).values for name, value in tensors.items()}

    return {f"{keep:,} live weights, LAMP": to_budget, "4 bits": to_levels}


def check_state(state: AdmmState) -> None:
    """Raise unless Z and U are float32 on the weights' device."""
    for name, value in state.W.items():
        for held in (state.Z[name], state.U[name]):
            assert held.dtype == torch.float32, (name, held.dtype)
            assert held.device == value.device, (name, held.device)


@dataclass(frozen=True)
class Took:
    """The seconds of one call."""

    wall_s: float
    cpu_s: float


def measure(action: Callable[[], object]) -> Took:
    """Return how long one call takes."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    action()
    return Took(time.perf_counter() - wall_s, time.process_time() - cpu_s)


def measure_steps(net: Net) -> None:
    """Print the table of one model."""
    torch.manual_seed(SEED)
    plain = make_model(ModelSettings(name=net.name), net.shape, 10)
    pulled = make_model(ModelSettings(name=net.name), net.shape, 10)
    graph = trace_graph(plain, torch.zeros(1, *net.shape))
    names = [f"{layer.name}.weight" for layer in graph.layers]
    train, settings = TrainSettings(epochs=EPOCHS), AdmmSettings()
    epoch_steps = net.samples // train.batch_size
    steps = EPOCHS * epoch_steps
    projections = make_projections(graph, net.keep)
    project = next(iter(projections.values()))
    state = start_admm(pulled, names, project, settings)
    hooks = make_hooks(state, project, settings, train=train, steps=steps)
    one = make_stepper(plain, net, train, Hooks())
    other = make_stepper(pulled, net, train, hooks)

    def repeat(step: Callable[[], None]) -> None:
        for _ in range(net.steps):
            step()

    repeat(one), repeat(other)
    pairs = []
    for block in range(net.blocks):  # The first of a pair changes, so that a drift cancels.
        first, second = (one, other) if block % 2 else (other, one)
        seconds = {step: measure(partial(repeat, step)).cpu_s for step in (first, second)}
        pairs.append((seconds[one] / net.steps, seconds[other] / net.steps))
    step_s = median(seconds for seconds, _ in pairs)
    ratios = [admm / base for base, admm in pairs]
    per_epoch = settings.updates / EPOCHS
    print(
        f"\n## {net.name}: batch {train.batch_size}, {epoch_steps} steps an epoch, "
        f"{settings.updates} updates in {EPOCHS} epochs, one each {steps // settings.updates} "
        f"steps\n\nCPU time. Plain step {1000 * step_s:.1f} ms; ADMM step over plain step "
        f"{show(ratios, 3)} in {net.blocks} pairs of {net.steps} steps.\n"
    )
    print("| set | one update, ms | epoch over plain epoch | target | |\n|---|---|---|---|---|")
    for name, project in projections.items():
        times = [measure(partial(update_dual_, state, project, 1.0)).cpu_s for _ in range(7)]
        check_state(state)
        extra = per_epoch * median(times) / (epoch_steps * step_s)
        epochs = [ratio + extra for ratio in ratios]
        met = "met" if median(epochs) <= EPOCH_TARGET else "missed"
        print(
            f"| {name} | {show([1000 * t for t in times], 0)} | {show(epochs, 3)} | "
            f"<= {EPOCH_TARGET} | {met} |"
        )


def show(values: list[float], digits: int) -> str:
    """Return the median with the quartiles."""
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def make_chain(widths: list[int]) -> LayerGraph:
    """Return linear layers in a row."""
    layers, groups = [], []
    units: tuple[int, ...] = (OUTSIDE,) * widths[0]
    start = 0
    for number, (before, after) in enumerate(pairwise(widths)):
        made = tuple(range(start, start + after))
        last = number == len(widths) - 2
        layers.append(
            Layer(
                name=f"l{number}",
                kind="linear",
                filters=after,
                channels=before,
                kernel=(1, 1),
                groups=1,
                has_bias=False,
                positions=1,
                out_units=made,
                in_units=units,
            )
        )
        groups.append(
            Group(
                name=f"l{number}",
                start=start,
                size=after,
                prunable=not last,
                producers=(f"l{number}",),
                consumers=() if last else (f"l{number + 1}",),
            )
        )
        units, start = made, start + after
    return LayerGraph(tuple(layers), (), tuple(groups))


def measure_projections() -> None:
    """Print how long each projection of 25 million weights takes."""
    graph = make_chain([2500, 2000, 2500, 2000, 2500, 2000])
    generator = torch.Generator().manual_seed(SEED)
    weights = {
        layer.name: torch.randn(layer.filters, layer.channels, generator=generator)
        * (0.01 * 2**number)
        for number, layer in enumerate(graph.layers)
    }
    total = sum(weight.numel() for weight in weights.values())
    cases: dict[str, Callable[[], object]] = {}
    for share in (0.01, 0.2):
        keep = round(share * total)
        cases[f"{share:.0%} per layer"] = lambda keep=keep: [
            project_weights(weight, keep // len(weights)) for weight in weights.values()
        ]
        for live in (False, True) if share < 0.1 else (False,):
            # Bare magnitudes with living paths take minutes here: see RESULTS.md.
            for normalize in ("std", "lamp") if live else ("none", "std", "lamp"):
                settings = Allocation(normalize=normalize, live_paths=live)
                cases[f"{share:.0%} in all, {normalize}{', live paths' if live else ''}"] = (
                    lambda keep=keep, settings=settings: {
                        name: weights[name] * mask
                        for name, mask in allocate_weights(graph, weights, keep, settings).items()
                    }
                )
    sets = {
        "levels, 4 bits": Levels(),
        "levels, 8 bits": Levels(bits=8),
        "powers of two, 4 bits": Levels(kind="powers_of_two"),
        "ternary": Levels(kind="ternary"),
        "binary": Levels(kind="binary"),
    }
    for name, levels in sets.items():
        cases[name] = lambda levels=levels: [
            project_levels(weight, levels) for weight in weights.values()
        ]
    print(f"\n## Projection of {total:,} weights in {len(weights)} layers\n")
    print("| set | seconds | CPU seconds | target | |\n|---|---|---|---|---|")
    for name, case in cases.items():
        case()
        times = [measure(case) for _ in range(3)]
        walls, cpus = [took.wall_s for took in times], [took.cpu_s for took in times]
        met = "met" if median(walls) < PROJECTION_TARGET_S else "missed"
        if median(cpus) < PROJECTION_TARGET_S <= median(walls):
            met = "met in CPU time"
        limit = f"< {PROJECTION_TARGET_S:.0f}"
        print(f"| {name} | {show(walls, 2)} | {show(cpus, 2)} | {limit} | {met} |", flush=True)


def main() -> None:
    """Measure what the command line names, or all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=["lenet5", "resnet20", "projections"])
    parts = parser.parse_args().parts
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, "
        f"{torch.backends.cpu.get_cpu_capability()}, seed {SEED}"
    )
    for net in NETS:
        if net.name in parts:
            measure_steps(net)
    if "projections" in parts:
        measure_projections()


if __name__ == "__main__":
    sys.exit(main())
