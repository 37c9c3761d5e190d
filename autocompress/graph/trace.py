"""Read a model as a LayerGraph."""

import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.errors import GraphError
from autocompress.graph.check import find_wrong_groups
from autocompress.graph.coupling import Slot, Units, find_units
from autocompress.graph.layers import Layer, LayerGraph, Norm
from autocompress.graph.modules import is_layer, is_norm

_log = logging.getLogger(__name__)


def trace_graph(
    model: nn.Module, example: Tensor, *, leave_alone: Sequence[str] = ()
) -> LayerGraph:
    """Return the layers of ``model``, in order of execution, and their coupling groups.

    The model is copied, so its mode, state and hooks stay as they are. What the copy says is
    then tried: a group whose filters cannot be sliced away without changing the outputs
    (a sigmoid, a fixed reshape, a channel shuffle) is returned with ``prunable`` False. Layers
    that an evaluation pass never runs are left out, and stay as they are in a smaller model.

    Args:
        model: Any module of convolutions, linear layers and batch norms, and what has no weights.
        example: A batch on the model's device; its values do not matter.
        leave_alone: Layers whose filters must not be pruned.

    Raises:
        GraphError: A layer runs twice, shares its weight or is unknown to ``leave_alone``, or
            nothing of the model can be read.
    """
    net = copy.deepcopy(model).eval()
    for parameter in net.parameters():
        parameter.requires_grad = parameter.is_floating_point()
    runs = _record_runs(net, example)
    modules = dict(net.named_modules())
    _refuse(net, runs)
    unknown = sorted(set(leave_alone) - {name for name, _ in runs if is_layer(modules[name])})
    if unknown:
        raise GraphError(f"leave_alone: no such convolution or linear layer: {', '.join(unknown)}")
    slots = [slot for name, _ in runs for slot in _make_slots(name, modules[name])]
    units = find_units(net, example, slots, leave_alone)
    graph = _make_graph(modules, runs, units)
    return _lock(graph, find_wrong_groups(net, graph, example))


def _lock(graph: LayerGraph, wrong: set[str]) -> LayerGraph:
    if wrong:
        _log.warning("not prunable, outputs would change: %s", ", ".join(sorted(wrong)))
    groups = tuple(
        replace(group, prunable=group.prunable and group.name not in wrong)
        for group in graph.groups
    )
    return replace(graph, groups=groups)


def _refuse(net: nn.Module, runs: list[tuple[str, tuple[int, ...]]]) -> None:
    """Raise for what a graph cannot express."""
    if not any(is_layer(net.get_submodule(name)) for name, _ in runs):
        raise GraphError("model: want at least one Conv2d or Linear that runs, got none")
    if is_layer(net) or is_norm(net):
        raise GraphError("model: want a module around its layers, got a single layer")
    times = Counter(name for name, _ in runs)
    twice = [name for name, count in times.items() if count > 1]
    if twice:
        raise GraphError(f"{', '.join(twice)}: want layers that run once, got more than once")
    owner: dict[int, str] = {}
    for name in times:
        for parameter in net.get_submodule(name).parameters():
            other = owner.setdefault(id(parameter), name)
            if other != name:
                raise GraphError(f"{other} and {name} share a parameter; give each its own")
    idle = [
        name
        for name, module in net.named_modules()
        if (is_layer(module) or is_norm(module)) and name not in times
    ]
    if idle:
        _log.warning("left out, an evaluation pass does not run them: %s", ", ".join(idle))


@contextmanager
def _hooked(
    net: nn.Module, wanted: Callable[[nn.Module], bool], call: Callable[[str, Any, Any], None]
) -> Iterator[None]:
    """Call ``call(name, module, output)`` after each module that is ``wanted``."""
    hooks = [
        module.register_forward_hook(lambda m, _, out, name=name: call(name, m, out))
        for name, module in net.named_modules()
        if wanted(module)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _record_runs(net: nn.Module, example: Tensor) -> list[tuple[str, tuple[int, ...]]]:
    """Return the layers and norms with their output shapes, in order of execution."""
    runs: list[tuple[str, tuple[int, ...]]] = []
    with (
        torch.no_grad(),
        _hooked(
            net,
            lambda module: is_layer(module) or is_norm(module),
            lambda name, _, out: runs.append((name, tuple(out.shape))),
        ),
    ):
        net(example)
    return runs


def _make_slots(name: str, module: nn.Module) -> list[Slot]:
    if isinstance(module, nn.Conv2d):
        inputs, outputs = module.in_channels, module.out_channels
    elif isinstance(module, nn.Linear):
        inputs, outputs = module.in_features, module.out_features
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return [Slot(name=name, side="norm", size=module.num_features)]
    else:
        raise TypeError(type(module))
    return [Slot(name=name, side="in", size=inputs), Slot(name=name, side="out", size=outputs)]


def _make_graph(
    modules: dict[str, nn.Module], runs: list[tuple[str, tuple[int, ...]]], units: Units
) -> LayerGraph:
    layers = tuple(
        _make_layer(name, modules[name], shape, units)
        for name, shape in runs
        if is_layer(modules[name])
    )
    norms = tuple(
        Norm(
            name=name,
            units=units.of[name, "norm"],
            affine=getattr(modules[name], "weight", None) is not None,
        )
        for name, _ in runs
        if is_norm(modules[name])
    )
    return LayerGraph(layers=layers, norms=norms, groups=units.groups)


def _make_layer(name: str, module: nn.Module, shape: tuple[int, ...], units: Units) -> Layer:
    out_units, in_units = units.of[name, "out"], units.of[name, "in"]
    conv = module if isinstance(module, nn.Conv2d) else None
    return Layer(
        name=name,
        kind="conv" if conv else "linear",
        filters=len(out_units),
        channels=len(in_units),
        kernel=(conv.kernel_size[0], conv.kernel_size[1]) if conv else (1, 1),
        groups=conv.groups if conv else 1,
        has_bias=module.bias is not None,
        positions=count_positions(shape, is_conv=conv is not None),
        out_units=out_units,
        in_units=in_units,
    )


def count_positions(shape: tuple[int, ...], *, is_conv: bool) -> int:
    """Return the positions per sample of an output of ``shape``, whose first axis is the batch."""
    return prod(shape[2:]) if is_conv else prod(shape[1:-1])


def measure_macs(model: nn.Module, example: Tensor) -> int:
    """Return the multiply-accumulates per sample that the layers of ``model`` really execute.

    Convolutions and linear layers are counted each time that they run, and so is any layer
    that says by ``is_conv`` which of the two it is, as those with chosen columns do.
    """
    total = 0

    def count(_: str, module: Any, output: Tensor) -> None:
        nonlocal total
        is_conv = getattr(module, "is_conv", isinstance(module, nn.Conv2d))
        positions = count_positions(tuple(output.shape), is_conv=is_conv)
        total += module.weight.numel() * positions

    mode = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), _hooked(model, _is_counted, count):
            model(example)
    finally:
        for module, training in mode.items():
            module.training = training
    return total


def _is_counted(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.Linear) or hasattr(module, "is_conv")
