"""Try a graph: filters that it calls prunable must leave without changing any output."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.errors import GraphError
from autocompress.graph.layers import OUTSIDE, Group, LayerGraph
from autocompress.graph.modules import slice_layer_, slice_norm_

# Sums of float64 products differ by about 1e-13 of their size; a wrong channel by about 1.
_TOLERANCE = 1e-7


def find_wrong_groups(net: nn.Module, graph: LayerGraph, example: Tensor) -> set[str]:
    """Return the prunable groups that cannot be sliced as ``graph`` says.

    Two halves of every group are removed in turn, from a copy with random weights, once by
    zeros and once physically.

    Raises:
        GraphError: Each group can be sliced alone, but not all of them together.
    """
    net = _randomise(net)
    example = torch.rand(example.shape, generator=torch.Generator().manual_seed(1)).to(
        example.device, torch.float64
    )
    groups = [group for group in graph.groups if group.prunable and group.size > 1]
    if _agree(net, graph, example, groups):
        return set()
    wrong = {group.name for group in groups if not _agree(net, graph, example, [group])}
    if not _agree(net, graph, example, [group for group in groups if group.name not in wrong]):
        raise GraphError("model: the coupling of its channels could not be found")
    return wrong


def slice_units_(net: nn.Module, graph: LayerGraph, units: Tensor) -> None:
    """Remove the filters, input channels and norm channels of dead units from ``net``.

    Args:
        net: The model of ``graph``, changed in place.
        graph: Says which channel belongs to which unit.
        units: Kept units; shape (graph.units,), bool, on the CPU.
    """
    for layer in graph.layers:
        module = net.get_submodule(layer.name)
        rows, inputs = find_kept(units, layer.out_units), find_kept(units, layer.in_units)
        if not (rows.all() and inputs.all()):
            slice_layer_(module, rows, inputs)
    for norm in graph.norms:
        kept = find_kept(units, norm.units)
        module = net.get_submodule(norm.name)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and not kept.all():
            slice_norm_(module, kept)


def find_kept(units: Tensor, of: tuple[int, ...]) -> Tensor:
    """Return which channels have a living unit or none; shape (len(of),), bool."""
    numbers = torch.tensor(of)
    if not len(units):
        return numbers == OUTSIDE
    return units[numbers.clamp(min=0)] | (numbers == OUTSIDE)


def _agree(net: nn.Module, graph: LayerGraph, example: Tensor, groups: Iterable[Group]) -> bool:
    generator = torch.Generator().manual_seed(0)
    masks = torch.ones(2, graph.units, dtype=torch.bool)
    for group in groups:
        order = torch.randperm(group.size, generator=generator) + group.start
        masks[0, order[: group.size // 2]] = False
        masks[1, order[group.size // 2 :]] = False
    return all(_is_equal(net, graph, example, units) for units in masks)


def _is_equal(net: nn.Module, graph: LayerGraph, example: Tensor, units: Tensor) -> bool:
    masked, sliced = copy.deepcopy(net), copy.deepcopy(net)
    _zero_units_(masked, graph, units)
    slice_units_(sliced, graph, units)
    with torch.no_grad():
        want = list(_find_tensors(masked(example)))
        try:
            got = list(_find_tensors(sliced(example)))
        except (RuntimeError, ValueError, IndexError):
            return False  # A shape that the model fixes, such as view(-1, 800).
    return len(want) == len(got) and all(
        first.shape == second.shape
        and bool((first - second).abs().max() <= _TOLERANCE * (1 + first.abs().max()))
        for first, second in zip(want, got, strict=True)
    )


def _zero_units_(net: nn.Module, graph: LayerGraph, units: Tensor) -> None:
    touched = [(layer.name, layer.out_units) for layer in graph.layers]
    touched += [(norm.name, norm.units) for norm in graph.norms]
    with torch.no_grad():
        for name, of in touched:
            dead = ~find_kept(units, of)
            for parameter in net.get_submodule(name).parameters(recurse=False):
                parameter[dead.to(parameter.device)] = 0


def _randomise(net: nn.Module) -> nn.Module:
    """Return a float64 copy with random weights of a sensible size and random statistics."""
    net = copy.deepcopy(net).double()
    generator = torch.Generator().manual_seed(0)

    def draw(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)

    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.dim() > 1:
                parameter.copy_(draw(parameter) * (2 / parameter[0].numel()) ** 0.5)
            else:
                parameter.copy_(draw(parameter) * 0.2 + name.endswith("weight"))
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(draw(buffer) * 0.2)
            elif name.endswith("running_var"):
                buffer.copy_(draw(buffer).square() + 0.5)
    return net


def _find_tensors(value: Any) -> Iterable[Tensor]:
    """Yield the tensors in what a model returned."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _find_tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _find_tensors(item)
