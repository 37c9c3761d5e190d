"""Find which channels of a model live and die together.

torch-pruning says, for all filters of one layer, which channels of which other module follow
them. A union-find over all channels merges these answers into units, which are then numbered.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor, nn

from autocompress.errors import GraphError
from autocompress.graph.follow import Flow, Step
from autocompress.graph.layers import OUTSIDE, Group
from autocompress.graph.modules import is_depthwise_conv, is_layer, is_norm

_log = logging.getLogger(__name__)

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

    def tie_pieces(self, step: Step, place: int, atom: int) -> None:
        """Tie ``atom``, channel ``place`` of a split, to the same place of the other pieces.

        A model that asks for equal pieces then gets the same ones when it is smaller.
        """
        sizes = {end - start for start, end in pairwise(step.offsets)}
        if len(sizes) == 1:
            self.tie(atom, self.pieces.setdefault((step.split, place % sizes.pop()), atom))

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
    try:
        flow = Flow(model, example)
        _tie_by_tracing(ties, flow, {**names, flow.image: _IMAGE[0]})
    except GraphError as error:  # Columns can still be chosen.
        _log.warning("no filter is prunable: %s", error)
        leave_alone = [slot.name for slot in slots if slot.side == "out"]
    _lock_all(ties, _IMAGE)
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


def _tie_by_tracing(ties: _Ties, flow: Flow, names: Mapping[nn.Module, str]) -> None:
    """Tie the filters of every layer to all that follows them."""
    for module, name in names.items():
        key: _Key = _IMAGE if name == _IMAGE[0] else (name, "out")
        if key not in ties.start:
            continue
        if not flow.reaches_output(module):
            _lock_all(ties, key)
            continue
        root = ties.start[key]
        for step in flow.follow(module, ties.size[key]):
            _tie_step(ties, step, root, list(_keys_of(step, names)))


def _tie_step(ties: _Ties, step: Step, root: int, keys: list[_Key | None]) -> None:
    for place, number in step.places:
        if step.is_final or None in keys:
            ties.lock(root + number)
        if step.split is not None:
            ties.tie_pieces(step, place, root + number)
        for key in filter(None, keys):
            atom = ties.atom(key, place)
            if atom is None:
                ties.lock(root + number)
            else:
                ties.tie(root + number, atom)


def _lock_all(ties: _Ties, key: _Key) -> None:
    for atom in range(ties.start[key], ties.start[key] + ties.size[key]):
        ties.lock(atom)


def _keys_of(step: Step, names: Mapping[nn.Module, str]) -> Iterator[_Key | None]:
    """Yield the slots that a step touches, or None if we cannot slice its module."""
    module = step.module
    if module is None:
        return
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
        yield (names[module], "out" if step.is_out else "in")


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
