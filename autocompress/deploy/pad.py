"""Small models executed at aligned widths: zero filters added, outputs unchanged.

Processors like widths that fill their vector units; a layer of 11 filters can take longer than
one of 16. A coupling group is widened as a whole: its producers get filters of zeros, its
consumers inputs whose weights are zero, and norms between them channels that leave zero as it is.
"""

import copy
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

from autocompress.errors import GraphError
from autocompress.graph.layers import Group, Layer, LayerGraph
from autocompress.graph.modules import is_depthwise_conv
from autocompress.graph.trace import trace_graph
from autocompress.shrink.columns import ColumnConv2d, ColumnLinear
from autocompress.shrink.expand import expand_columns

_log = logging.getLogger(__name__)

_SAMPLES = 2  # Of the example: enough to trace a model and to try it.
_TOLERANCE = 1e-7  # Of float64 sums in another order.


@dataclass(frozen=True, kw_only=True)
class Width:
    """A coupling group that can be widened.

    Attributes:
        name: Of the group, see :class:`~autocompress.graph.layers.Group`.
        size: Its units: the filters of a producer that no split or flatten repeats.
        producers: Names of the layers whose filters these units are.
        consumers: Names of the layers that read them.
    """

    name: str
    size: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]


@dataclass(frozen=True)
class _Places:
    """Where the channels of a module are once the groups are wider.

    Attributes:
        old: New place of each channel; shape (channels,), int64, rising.
        total: Channels then.
    """

    old: Tensor
    total: int

    @property
    def is_wider(self) -> bool:
        return self.total > len(self.old)


class _UnorderedError(GraphError):
    """The units of a group do not lie side by side in a module."""


class _Plan:
    """What groups become wider, and where channels go then."""

    def __init__(self, graph: LayerGraph, sizes: Mapping[str, int]) -> None:
        groups = [graph.group_by_name[name] for name in sizes]
        self.group_of = {unit: group for group in groups for unit in group.units}
        self.sizes = sizes

    def place(self, units: tuple[int, ...]) -> _Places:
        """Return where the channels of these units go: each group's new ones after its old ones.

        Raises:
            _UnorderedError: A group does not appear as whole runs of its units in order, each
                repeated equally often.
        """
        old: list[int] = []
        total = 0
        while len(old) < len(units):
            rest = units[len(old) :]
            group = self.group_of.get(rest[0])
            if group is None:
                old.append(total)
                total += 1
                continue
            # A single unit repeated may also be several runs; the trial of the group tells.
            repeat = next((n for n, unit in enumerate(rest) if unit != rest[0]), len(rest))
            run = tuple(unit for unit in group.units for _ in range(repeat))
            if rest[: len(run)] != run:
                raise _UnorderedError(f"group {group.name!r} is not side by side")
            old += range(total, total + len(run))
            total += self.sizes[group.name] * repeat
        return _Places(torch.tensor(old, dtype=torch.int64), total)


def list_widths(model: nn.Module, example: Tensor) -> dict[str, Width]:
    """Return the groups of ``model`` that can be widened without changing an output, by name.

    What the model returns is not among them, nor are groups whose units are mixed with others,
    or which anything but our layers and norms tells from one another. Each is tried.

    Args:
        model: Convolutions, linear, column layers and batch norms, folded or not; not changed.
        example: A batch on the model's device; its values do not matter.

    Raises:
        GraphError: See :func:`~autocompress.graph.trace.trace_graph`.
    """
    return _list_widths(model, _trace(model, example), example)


def pad_widths(model: nn.Module, example: Tensor, widths: int | Mapping[str, int]) -> nn.Module:
    """Return a copy of ``model`` with zero filters added, which computes the same.

    New channels come after those of their group, wherever these lie. Column layers read no
    more than before. What has the right width already stays as it is.

    Args:
        model: Convolutions, linear, column layers and batch norms, folded or not; not changed.
        example: A batch on the model's device; its values do not matter.
        widths: New sizes of groups of :func:`list_widths` by name, or the number of which all of
            them become multiples.

    Raises:
        GraphError: A group is unknown, cannot be widened or is wider already; the multiple is
            below 1; or as :func:`~autocompress.graph.trace.trace_graph` does.
    """
    if isinstance(widths, int) and widths < 1:
        raise GraphError(f"widths: want a multiple of 1 or more, got {widths}")
    graph = _trace(model, example)
    known = _list_widths(model, graph, example)
    sizes = (
        {one.name: -(-one.size // widths) * widths for one in known.values()}
        if isinstance(widths, int)
        else dict(widths)
    )
    for name, size in sizes.items():
        _check_width(graph, known, name, size)
    made = _widen(model, graph, sizes)
    if not _is_equal(model, made, example):
        raise GraphError(f"the outputs change when groups are padded to {sizes}")
    return made


def _trace(model: nn.Module, example: Tensor) -> LayerGraph:
    """Return the graph of ``model``; of column layers it cannot read, as of ordinary ones."""
    return trace_graph(expand_columns(model).eval(), example[:_SAMPLES])


def _check_width(graph: LayerGraph, known: Mapping[str, Width], name: str, size: int) -> None:
    if name not in graph.group_by_name:
        raise GraphError(f"widths: no group is named {name!r}")
    if name not in known:
        raise GraphError(f"group {name!r} cannot be widened without changing the outputs")
    if size < known[name].size:
        raise GraphError(f"group {name!r}: want {known[name].size} or more units, got {size}")


def _list_widths(model: nn.Module, graph: LayerGraph, example: Tensor) -> dict[str, Width]:
    groups = [group for group in graph.groups if group.prunable and _is_ordered(graph, group)]
    if not _is_equal_wider(model, graph, example, groups):
        wrong = [one for one in groups if not _is_equal_wider(model, graph, example, [one])]
        _log.warning("not padded, outputs would change: %s", ", ".join(one.name for one in wrong))
        groups = [one for one in groups if one not in wrong]
        if not _is_equal_wider(model, graph, example, groups):
            raise GraphError("model: no set of groups could be found that can be padded")
    return {
        group.name: Width(
            name=group.name,
            size=group.size,
            producers=group.producers,
            consumers=group.consumers,
        )
        for group in groups
    }


def _is_ordered(graph: LayerGraph, group: Group) -> bool:
    sides = [units for layer in graph.layers for units in (layer.out_units, layer.in_units)]
    plan = _Plan(graph, {group.name: group.size + 1})
    try:
        for units in (*sides, *(norm.units for norm in graph.norms)):
            plan.place(units)
    except _UnorderedError:
        return False
    return True


def _is_equal_wider(
    model: nn.Module, graph: LayerGraph, example: Tensor, groups: Iterable[Group]
) -> bool:
    """Return whether one more unit in each of ``groups`` leaves the outputs as they are."""
    sizes = {group.name: group.size + 1 for group in groups}
    return not sizes or _is_equal(model, _widen(model, graph, sizes), example)


def _is_equal(model: nn.Module, wider: nn.Module, example: Tensor) -> bool:
    """Return whether both models return the same for random inputs, in float64."""
    drawn = torch.rand(example[:_SAMPLES].shape, generator=torch.Generator().manual_seed(1))
    inputs = drawn.to(example.device, torch.float64)
    with torch.no_grad():
        want = list(tree_iter(copy.deepcopy(model).double().eval()(inputs)))
        try:
            got = list(tree_iter(copy.deepcopy(wider).double().eval()(inputs)))
        except (RuntimeError, ValueError, IndexError):
            return False  # A shape that the model fixes.
    return len(want) == len(got) and all(map(_is_close, want, got))


def _is_close(want: object, got: object) -> bool:
    if not (isinstance(want, Tensor) and isinstance(got, Tensor)):
        return type(want) is type(got)
    if want.shape != got.shape or not want.numel():
        return want.shape == got.shape
    # Not a number is never close.
    return bool((want - got).abs().max() <= _TOLERANCE * (1 + want.abs().max()))


def _widen(model: nn.Module, graph: LayerGraph, sizes: Mapping[str, int]) -> nn.Module:
    """Return a copy of ``model`` whose groups have the given sizes."""
    made = copy.deepcopy(model)
    plan = _Plan(graph, sizes)
    for layer in graph.layers:
        _widen_layer_(made.get_submodule(layer.name), layer, plan)
    for norm in graph.norms:
        places, module = plan.place(norm.units), made.get_submodule(norm.name)
        if places.is_wider and isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            _widen_norm_(module, places)
    return made


def _widen_layer_(module: nn.Module, layer: Layer, plan: _Plan) -> None:
    """Add filters and inputs of zeros to a layer."""
    out, given = plan.place(layer.out_units), plan.place(layer.in_units)
    if not (out.is_wider or given.is_wider):
        return
    inputs: _Places | None = None
    if isinstance(module, ColumnConv2d | ColumnLinear):
        channel, rest = module.columns.long() // layer.area, module.columns.long() % layer.area
        columns = given.old.to(channel.device)[channel] * layer.area + rest
        module.columns = columns.to(module.columns.dtype)
        if isinstance(module, ColumnConv2d):
            module.channels = given.total
        else:
            module.features = given.total
    elif isinstance(module, nn.Linear):
        inputs = given
        module.out_features, module.in_features = out.total, given.total
    elif isinstance(module, nn.Conv2d):
        if is_depthwise_conv(module):
            module.groups = given.total
        else:
            inputs = plan.place(layer.in_units[: layer.channels // layer.groups])
        module.out_channels, module.in_channels = out.total, given.total
    else:
        raise TypeError(f"{layer.name}: want a convolution or linear layer, got {module}")
    _spread_(module, "weight", out, inputs)
    if module.bias is not None:
        _spread_(module, "bias", out)


def _widen_norm_(norm: nn.BatchNorm1d | nn.BatchNorm2d, places: _Places) -> None:
    """Add channels that leave zero as it is."""
    for name, fill in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
        if getattr(norm, name) is not None:
            _spread_(norm, name, places, fill=fill)
    norm.num_features = places.total


def _spread_(
    module: nn.Module,
    name: str,
    rows: _Places,
    inputs: _Places | None = None,
    *,
    fill: int = 0,
) -> None:
    """Put the values of a parameter or buffer at their new places, ``fill`` elsewhere."""
    old = getattr(module, name)
    values, shape = old.detach(), list(old.shape)
    place = rows.old.to(old.device)
    shape[0] = rows.total
    made: Tensor
    if inputs is None:
        made = values.new_full(shape, fill)
        made[place] = values
    else:
        shape[1] = inputs.total
        made = values.new_full(shape, fill)
        made[place[:, None], inputs.old.to(old.device)] = values
    if old.dim() == 4 and not old.is_contiguous():
        made = made.contiguous(memory_format=torch.channels_last)
    is_parameter = isinstance(old, nn.Parameter)
    setattr(module, name, nn.Parameter(made, old.requires_grad) if is_parameter else made)
