"""Find which channels of a model live and die together.

torch-pruning says, for all filters of one layer, which channels of which other module follow
them. A union-find over all channels merges these answers into units, which are then numbered.
"""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch_pruning as tp
from torch import Tensor, nn

from autocompress.errors import GraphError
from autocompress.graph.layers import OUTSIDE, Group
from autocompress.graph.modules import is_depthwise_conv, is_layer, is_norm

Side = Literal["out", "in", "norm", "image"]
_Key = tuple[str, Side]
_IMAGE: _Key = ("<image>", "image")


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One side of a module: ``size`` channels that each belong to a unit.

    Attributes:
        name: Qualified module name.
        side: Filters (``out``) or input channels (``in``) of a layer, channels of a norm or of
            the model's own input.
        size: Number of channels.
    """

    name: str
    side: Side
    size: int

    @property
    def key(self) -> _Key:
        """Return what identifies the slot."""
        return (self.name, self.side)


@dataclass(frozen=True, kw_only=True)
class Units:
    """The units of a model.

    Attributes:
        of: Unit of each channel of each slot, or ``OUTSIDE``.
        groups: The coupling groups; their units are numbered in order.
    """

    of: Mapping[_Key, tuple[int, ...]]
    groups: tuple[Group, ...]


class _Ties:
    """A union-find over the channels of all slots, with a lock on each set."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = slots
        self.start: dict[_Key, int] = {}
        self.size: dict[_Key, int] = {}
        total = 0
        for slot in slots:
            self.start[slot.key], self.size[slot.key] = total, slot.size
            total += slot.size
        self.parent = list(range(total))
        self.locked: set[int] = set()
        self.pieces: dict[tuple[Any, int], int] = {}

    def atom(self, key: _Key, channel: int) -> int | None:
        """Return the number of a channel; None when there is no such channel."""
        if key not in self.start or not 0 <= channel < self.size[key]:
            return None
        return self.start[key] + channel

    def find(self, atom: int) -> int:
        """Return the representative of the set of ``atom``."""
        while self.parent[atom] != atom:
            self.parent[atom] = self.parent[self.parent[atom]]
            atom = self.parent[atom]
        return atom

    def tie(self, first: int, second: int) -> None:
        """Merge the sets of two channels; the lower number represents both."""
        low, high = sorted((self.find(first), self.find(second)))
        self.parent[high] = low

    def tie_pieces(self, split: Any, place: int, atom: int) -> None:
        """Tie ``atom``, channel ``place`` of a split, to the same place of the other pieces.

        A model that asks for equal pieces then gets the same ones when it is smaller.
        """
        sizes = set(split.module.split_sizes or [])
        if len(sizes) == 1:
            self.tie(atom, self.pieces.setdefault((split, place % sizes.pop()), atom))

    def lock(self, atom: int) -> None:
        """Mark the set of ``atom`` as not prunable."""
        self.locked.add(atom)

    def find_locked(self) -> set[int]:
        """Return the representatives of the sets that are not prunable."""
        return {self.find(atom) for atom in self.locked}


def find_units(
    model: nn.Module, example: Tensor, slots: Sequence[Slot], leave_alone: Iterable[str]
) -> Units:
    """Return the units of ``model`` and their coupling groups.

    Args:
        model: In evaluation mode; a copy that nobody else uses, its gradients are enabled.
        example: A batch that the model accepts.
        slots: In order of execution.
        leave_alone: Layers whose filters must not be pruned.
    """
    channels = example.shape[1] if example.dim() in (2, 4) else 0
    ties = _Ties([Slot(name=_IMAGE[0], side=_IMAGE[1], size=channels), *slots])
    names = {module: name for name, module in model.named_modules()}
    _tie_by_tracing(ties, model, example, names)
    for module, name in names.items():
        if isinstance(module, nn.Conv2d) and (name, "out") in ties.start and module.groups > 1:
            _tie_conv_groups(ties, name, module)
    for name in leave_alone:
        _lock_all(ties, (name, "out"))
    return _number_units(ties)


def _tie_conv_groups(ties: _Ties, name: str, conv: nn.Conv2d) -> None:
    """Tie what must keep equal counts in every group of a convolution."""
    inputs, outputs = ties.start[name, "in"], ties.start[name, "out"]
    if is_depthwise_conv(conv):
        repeat = conv.out_channels // conv.in_channels
        for channel in range(conv.out_channels):
            ties.tie(outputs + channel, inputs + channel // repeat)
        return
    for start, count in ((inputs, conv.in_channels), (outputs, conv.out_channels)):
        each = count // conv.groups
        for channel in range(count):
            ties.tie(start + channel % each, start + channel)


class _WithImage(nn.Module):
    """A model behind a layer that stands for its input, so that its channels are traced too."""

    def __init__(self, net: nn.Module, example: Tensor) -> None:
        super().__init__()
        self.net = net
        self.image: nn.Module = nn.Identity()
        if example.dim() == 4:
            self.image = nn.Conv2d(example.shape[1], example.shape[1], 1)
        elif example.dim() == 2:
            self.image = nn.Linear(example.shape[1], example.shape[1])
        self.image.to(example)

    def forward(self, batch: Tensor) -> Any:
        return self.net(self.image(batch))


def _tie_by_tracing(
    ties: _Ties, model: nn.Module, example: Tensor, names: Mapping[nn.Module, str]
) -> None:
    results: list[Any] = []

    def run(net: nn.Module, batch: Tensor) -> Any:
        results.append(net(batch))
        return results[-1]

    graph = tp.DependencyGraph()
    whole = _WithImage(model, example)
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # Fresh containers: torch-pruning keeps and extends those that it is given.
            graph.build_dependency(
                whole,
                example,
                forward_fn=run,
                unwrapped_parameters=[],
                customized_pruners={},
                ignored_layers=[],
                ignored_params=[],
                verbose=False,
            )
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise GraphError(f"model: its channels cannot be followed: {error}") from error
        _map_splits(graph)
        final = {tensor.grad_fn for tensor in tp.utils.flatten_as_list(results[-1])}
        names = {**names, whole.image: _IMAGE[0]}
        for module, name in names.items():
            key: _Key = _IMAGE if name == _IMAGE[0] else (name, "out")
            if key in ties.start and module in graph.module2node:
                _tie_filters(ties, graph, final, names, (module, key))
            elif key in ties.start:  # Its output reaches ours by no way that autograd sees.
                _lock_all(ties, key)
    _lock_all(ties, _IMAGE)


def _lock_all(ties: _Ties, key: _Key) -> None:
    for atom in range(ties.start[key], ties.start[key] + ties.size[key]):
        ties.lock(atom)


def _tie_filters(
    ties: _Ties,
    graph: Any,
    final: set[Any],
    names: Mapping[nn.Module, str],
    source: tuple[nn.Module, _Key],
) -> None:
    """Tie the filters of a layer to all that follows them."""
    module, origin = source
    root, count = ties.start[origin], ties.size[origin]
    for node, handler, places in _follow(graph, module, count):
        is_out = graph.is_out_channel_pruning_fn(handler)
        reaches_output = is_out and (
            isinstance(node.module, tp.ops._OutputOp) or node.grad_fn in final
        )
        keys = list(_keys_of(node.module, names, is_out=is_out))
        for place, number in places:
            if reaches_output or None in keys:
                ties.lock(root + number)
            if node.type == tp.ops.OPTYPE.SPLIT:
                ties.tie_pieces(node, place, root + number)
            for key in filter(None, keys):
                atom = ties.atom(key, place)
                if atom is None:
                    ties.lock(root + number)
                else:
                    ties.tie(root + number, atom)


def _follow(
    graph: Any, module: nn.Module, count: int
) -> Iterator[tuple[Any, Any, list[tuple[int, int]]]]:
    """Yield what a change of the filters of ``module`` changes in turn.

    ``graph.get_pruning_group`` does the same, but forgets all but the first of several filters
    that arrive at one place, such as those of two pieces of a split that are multiplied.

    Yields:
        A node, its pruning function, and pairs of a place in it and the filter it stands for.
    """
    node = graph.module2node[module]
    prune = graph.get_pruner_of_module(module).prune_out_channels
    make = tp._helpers._HybridIndex
    waiting = [(node, prune, [make(idx=number, root_idx=number) for number in range(count)])]
    seen: set[tuple[int, Any, frozenset[Any]]] = set()
    while waiting:
        node, handler, places = waiting.pop()
        key = (id(node), handler, frozenset(places))
        if key in seen:
            continue
        seen.add(key)
        yield node, handler, places
        for dep in node.dependencies:
            if dep.is_triggered_by(handler):
                mapped = places
                for mapping in dep.index_mapping:
                    mapped = mapped if mapping is None else mapping(mapped)
                if mapped:
                    waiting.append((dep.target, dep.handler, mapped))


def _keys_of(
    module: Any, names: Mapping[nn.Module, str], *, is_out: bool
) -> Iterator[_Key | None]:
    """Yield the slots that a change of ``module`` touches, or None if we cannot slice it."""
    if type(module).__module__ == tp.ops.__name__:
        return  # An operation such as add or concat: it has no weights.
    if isinstance(module, nn.PReLU) and module.num_parameters == 1:
        return
    if is_norm(module):
        yield (names[module], "norm")
    elif not is_layer(module):
        yield None
    elif names[module] == _IMAGE[0]:
        yield _IMAGE
    elif isinstance(module, nn.Conv2d) and module.groups == module.out_channels > 1:
        if is_depthwise_conv(module):
            yield (names[module], "out")
            yield (names[module], "in")
        else:  # torch-pruning takes it for depthwise, yet it has fewer filters than inputs.
            yield None
    else:
        yield (names[module], "out" if is_out else "in")


def _map_splits(graph: Any) -> None:
    """Map the channels of each split by the piece that each reader takes.

    torch-pruning counts the pieces in the order in which it meets their readers, which is
    wrong when a piece is read last, twice or never.
    """
    mapping = tp.dependency.index_mapping._SplitIndexMapping
    for node in graph.module2node.values():
        offsets = getattr(node.module, "offsets", None)
        if node.type != tp.ops.OPTYPE.SPLIT or offsets is None:
            continue
        for reader in {id(reader): reader for reader in node.outputs}.values():
            pieces = [number for fn, number in reader.grad_fn.next_functions if fn is node.grad_fn]
            ahead = [dep for dep in node.dependencies if dep.target is reader]
            back = [dep for dep in reader.dependencies if dep.target is node]
            for dependencies, reverse in ((ahead, False), (back, True)):
                for dep, piece in zip(dependencies, pieces, strict=False):
                    dep.index_mapping[0] = mapping(offsets[piece : piece + 2], reverse=reverse)


def _number_units(ties: _Ties) -> Units:
    """Return the units in order of execution, those of one signature side by side."""
    members: dict[int, Counter[_Key]] = {}
    for slot in ties.slots:
        for channel in range(slot.size):
            representative = ties.find(ties.start[slot.key] + channel)
            members.setdefault(representative, Counter())[slot.key] += 1
    locked = ties.find_locked()
    alike: dict[tuple[frozenset[tuple[_Key, int]], bool], list[int]] = {}
    for representative, touched in members.items():
        if any(side == "out" for _, side in touched):
            signature = (frozenset(touched.items()), representative not in locked)
            alike.setdefault(signature, []).append(representative)
    unit_of: dict[int, int] = {}
    groups: list[Group] = []
    names: Counter[str] = Counter()
    order = {slot.key: number for number, slot in enumerate(ties.slots)}
    ranked = sorted(alike.items(), key=lambda pair: _rank(pair[0][0], pair[1], order))
    for (touched_by, prunable), representatives in ranked:
        keys = sorted((key for key, _ in touched_by), key=lambda key: order[key])
        producers = tuple(name for name, side in keys if side == "out")
        names[producers[0]] += 1
        suffix = f"#{names[producers[0]]}" if names[producers[0]] > 1 else ""
        group = Group(
            name=producers[0] + suffix,
            start=len(unit_of),
            size=len(representatives),
            prunable=prunable,
            producers=producers,
            consumers=tuple(name for name, side in keys if side == "in"),
        )
        groups.append(group)
        unit_of.update(zip(representatives, group.units, strict=True))
    of = {
        slot.key: tuple(
            unit_of.get(ties.find(ties.start[slot.key] + channel), OUTSIDE)
            for channel in range(slot.size)
        )
        for slot in ties.slots
    }
    return Units(of=of, groups=tuple(groups))


def _rank(
    signature: frozenset[tuple[_Key, int]], representatives: list[int], order: Mapping[_Key, int]
) -> tuple[int, int]:
    """Return the first producer and the first channel of a group, to sort by."""
    return min(order[key] for key, _ in signature if key[1] == "out"), representatives[0]
