"""Codes of small, sparse tensors by adaptive arithmetic coding: few bytes, and no tables.

A tensor is seen as rows of blocks: of a convolution a row is a filter and a block the kernel of
one input channel; of the linear layer behind it, the places that one channel was flattened to.
How many non-zero codes a block has is coded first, then where they are, then what: on which side
of a split of the levels, then which there. What is expected follows from the bits before: from
the row, the channel, the column, the neighbours in the block, and from how many codes the layer
before spent on the filter that makes this channel. Tensors of a group share what was learned.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isqrt, prod

import numpy as np

from autocompress.errors import FormatError
from autocompress.store.pack.codec import MAX_LEVELS, Codes, Indices
from autocompress.store.pack.mixing import Pair, Tallies, Tree, code_mixed, code_plain
from autocompress.store.pack.range_coder import (
    BitCoder,
    BitCounter,
    BitReader,
    BitWriter,
    log2,
)

MAX_ENTRIES = 2**17

_SIDES = (2, 3, 4, 5, 7, 8)  # Of blocks that are tried where the shape tells of none.
_MOST_TRIED = 2**15  # Entries that tell which way is best.
_SCALE = 20  # Of expected numbers, see ``Tallies``.
_MANY = 2**10
_MOST_SPLIT = 64  # Of more levels than this, no split is looked for.
_SPLIT_GAIN = 8 * 256  # Bits that neighbours must tell about sides for a split to be made.


class Adaptive:
    """The codec of one tensor, see :func:`encode_group`."""

    name = "adaptive"

    def encode(self, indices: Indices) -> bytes | None:
        """Return the codes as bytes; None of more than 2^17 entries.

        None also of many levels on most places: these are slow, and cost the same elsewhere.
        """
        if indices.levels > _MANY and 2 * np.count_nonzero(indices.codes) > len(indices.codes):
            return None
        return encode_group([indices])

    def decode(self, data: memoryview, shape: tuple[int, ...], levels: int) -> Codes:
        """Return the codes; see ``Codec``."""
        return decode_group(data, [shape], [levels])[0]


def encode_group(tensors: Sequence[Indices]) -> bytes | None:
    """Return the codes of several tensors as one run of bytes.

    Layers in the order in which data pass them are coded best, and levels in rising order (but
    for the first): neighbours in a kernel are often of one sign.

    Returns:
        The bytes; None of more than 2^17 entries in all.
    """
    if sum(len(tensor.codes) for tensor in tensors) > MAX_ENTRIES:
        return None
    group, coder, coded = _Group(), BitWriter(), False
    for tensor in tensors:
        if _needs_bits(len(tensor.codes), tensor.levels):
            _encode_tensor(tensor, group, coder)
            coded = True
    return coder.finish() if coded else b""


def decode_group(
    data: bytes | memoryview, shapes: Sequence[tuple[int, ...]], levels: Sequence[int]
) -> list[Codes]:
    """Return the codes that :func:`encode_group` was given.

    Args:
        data: Its result; may come from anyone.
        shapes: Of the tensors.
        levels: Of the tensors.

    Raises:
        FormatError: The bytes do not fit, or the tensors are too large together.
    """
    sizes = [prod(shape) for shape in shapes]
    if sum(sizes) > MAX_ENTRIES:
        raise FormatError(f"want at most {MAX_ENTRIES:,} entries, got {sum(sizes):,}")
    found = [np.zeros(size, np.uint16) for size in sizes]
    group, coder, coded = _Group(), BitReader(data), False
    for codes, shape, count in zip(found, shapes, levels, strict=True):
        if not (0 if codes.size == 0 else 1) <= count <= MAX_LEVELS:
            raise FormatError(f"want 1..{MAX_LEVELS:,} levels, got {count:,}")
        if _needs_bits(len(codes), count):
            ways = _list_ways(shape, group)
            plan = ways[_read_plain(coder, len(ways) - 1)]
            split = _read_plain(coder, count - 2)
            values = _Layer(plan, group, coder, (count, split)).run([0] * len(codes))
            codes[:] = values
            coded = True
    if coded:
        coder.finish()
    elif len(data):
        raise FormatError(f"{len(data):,} bytes are left over")
    return found


def _needs_bits(entries: int, levels: int) -> bool:
    """Return whether there is anything to say."""
    return entries > 0 and levels > 1


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """How a tensor is seen.

    Attributes:
        rows: Its first axis.
        blocks: Of a row.
        size: Of a block.
        width: Of a row of a block.
        flat: Whether places are coded one by one, rather than how many a block has first.
        follows: Whether block c is fed by row c of the layer before.
    """

    rows: int
    blocks: int
    size: int
    width: int
    flat: bool
    follows: bool


class _Group:
    """What the tensors of a group share.

    Attributes:
        before: Non-zero codes of each row of the layer before, none of the first one.
        counts: Weights of the hints of how many a block has: of a first, of a second, of more.
        places: Weights of the hints of where they are.
        clusters: How often a place is taken, by its neighbours.
        sides: How often a code is on the side of its neighbours, by how surely they are on one.
    """

    def __init__(self) -> None:
        self.before: list[int] = []
        self.counts = [[52000, 23000, 65536] for _ in range(3)]
        self.places = [49000, 82000]
        self.clusters = Tallies(7, 2.2)
        self.sides = [Pair(11, 5) for _ in range(7)]

    def relate(self, channels: int) -> list[int]:
        """Return a hint for each channel from the row before that feeds it, in 1/256 bit."""
        total = sum(self.before) + channels
        return [log2((count + 1) * channels) - log2(total) for count in self.before]


class _Layer:
    """Codes of one tensor on their way in or out."""

    def __init__(
        self, plan: _Plan, group: _Group, coder: BitCoder, values: tuple[int, int]
    ) -> None:
        self._plan, self._group, self._coder = plan, group, coder
        blocks, size = plan.blocks, plan.size
        levels, self._split = values
        self._fed = group.relate(blocks) if plan.follows else [0] * blocks
        self._columns = Tallies(blocks * size, 8.0 if plan.flat else 3.0)
        self._channels = Tallies(blocks, 8.0)
        self._row = Tallies(1, 3.5)
        self._more = [Pair(6, 51), *(Pair(6, 19) for _ in range(4))]
        self._seen = 8  # Halves of places or blocks, and codes in them, with some to start with.
        self._kept = 1
        self._side = Pair(6, 6)
        self._low, self._high = Tree(self._split), Tree(levels - 1 - self._split)

    def run(self, codes: list[int]) -> list[int]:
        """Code all and return them; ``codes`` are the codes, or zeros where they are read."""
        plan, size = self._plan, self._plan.size
        spent = []
        found: list[int] = []
        for _ in range(plan.rows):
            self._row = Tallies(1, 3.5)
            kept = 0
            for block in range(plan.blocks):
                own = codes[len(found) : len(found) + size]
                taken = self._place_each(block, own) if plan.flat else self._place(block, own)
                found += self._value(own, taken) if 1 in taken else taken
                kept += sum(taken)
            spent.append(kept)
        if plan.rows > 1:
            self._group.before = spent
        return found

    def _place_each(self, block: int, own: list[int]) -> list[int]:
        """Code which places of a block are taken, one by one; shape (size,), 0 or 1."""
        first = block * self._plan.size
        return [
            self._take(first + place, self._columns, block, code > 0)
            for place, code in enumerate(own)
        ]

    def _take(self, place: int, tallies: Tallies, block: int, bit: int) -> int:
        """Code whether a single place is taken."""
        row, more = self._row, self._more[0]
        expected = (self._kept << _SCALE) // self._seen
        hints = (row.hint(0), tallies.hint(place), self._fed[block])
        bit = code_mixed(self._coder, int(bit), more.odds, hints, self._group.counts[0])
        more.add(bit)
        row.add(0, bit, expected)
        tallies.add(place, bit, expected)
        self._seen += 2
        self._kept += 2 * bit
        return bit

    def _place(self, block: int, own: list[int]) -> list[int]:
        """Code how many places of a block are taken, and which; shape (size,), 0 or 1."""
        plan = self._plan
        if plan.size == 1:
            return [self._take(block, self._channels, block, own[0] > 0)]
        count = self._count(block, sum(code > 0 for code in own))
        taken = [0] * plan.size
        several, tallies, clusters = count > 1, self._columns, self._group.clusters
        weights = self._group.places
        for place in range(plan.size):
            left = plan.size - place
            if count in (0, left):
                break
            column = block * plan.size + place
            near = _look(taken, place, plan.width) if several else 0
            hints = (tallies.hint(column), clusters.hint(near) if several else 0)
            odds = log2(count) - log2(left - count)
            bit = code_mixed(self._coder, int(own[place] > 0), odds, hints, weights)
            expected = (count << _SCALE) // left
            tallies.add(column, bit, expected)
            if several:
                clusters.add(near, bit, expected)
            taken[place] = bit
            count -= bit
        if count:
            taken[-count:] = [1] * count
        return taken

    def _count(self, block: int, count: int) -> int:
        """Code how many places of a block are taken."""
        row, channels = self._row, self._channels
        expected = (self._kept << _SCALE) // self._seen
        hints = (row.hint(0), channels.hint(block), self._fed[block])
        found = 0
        while found < self._plan.size:
            weights = self._group.counts[min(found, 2)]
            more = self._more[min(found, 4)]
            bit = code_mixed(self._coder, int(count > found), more.odds, hints, weights)
            more.add(bit)
            if not bit:
                break
            found += 1
        row.add(0, found, expected)
        channels.add(block, found, expected)
        self._seen += 2
        self._kept += 2 * found
        return found

    def _value(self, own: list[int], taken: list[int]) -> list[int]:
        """Code the codes at the places taken; shape (size,), zeros elsewhere."""
        split, width = self._split, self._plan.width
        found, sides = [0] * len(taken), [0] * len(taken)
        for place, bit in enumerate(taken):
            if not bit:
                continue
            code = own[place]
            high = 1
            if split:
                high = self._choose_side(int(code > split), _look(sides, place, width))
                sides[place] = 1 if high else -1
            if high:
                found[place] = split + 1 + self._high.code(self._coder, code - split - 1)
            else:
                found[place] = 1 + self._low.code(self._coder, code - 1)
        return found

    def _choose_side(self, high: int, near: int) -> int:
        """Code whether a code is above the split; ``near`` tells of its neighbours."""
        odds = self._side.odds
        sides = self._group.sides[abs(near)]
        if near:
            odds += sides.odds if near > 0 else -sides.odds
        high = code_mixed(self._coder, high, odds, (), [])
        self._side.add(high)
        if near:
            sides.add(high if near > 0 else 1 - high)
        return high


def _list_ways(shape: tuple[int, ...], group: _Group) -> list[_Plan]:
    """Return the ways to see a tensor that comes next in a group, at least one."""
    rows, feeders = (shape[0] if len(shape) > 1 else 1), len(group.before)
    columns = shape[min(1, len(shape) - 1)] if shape else 1
    if len(shape) == 2 and feeders > 1 and columns % feeders == 0:
        blocks, size = feeders, columns // feeders
        width = isqrt(size) if isqrt(size) ** 2 == size else size
    else:
        blocks, size = columns, prod(shape[2:])
        width = shape[-1] if len(shape) > 2 else 1
    follows = blocks == feeders
    first = _Plan(rows=rows, blocks=blocks, size=size, width=width, flat=False, follows=follows)
    if size > 1:
        return [first, replace(first, flat=True)]
    if follows:
        return [first]
    sides = [side for side in _SIDES if columns % side**2 == 0]
    return [first] + [
        replace(first, blocks=columns // side**2, size=side**2, width=side) for side in sides
    ]


def _read_plain(coder: BitReader, most: int) -> int:
    """Return a number that :func:`code_plain` wrote.

    Raises:
        FormatError: It is above ``most``.
    """
    found = code_plain(coder, 0, most)
    if found > most:
        raise FormatError(f"want a number up to {most:,}, got {found:,}")
    return found


def _look(block: list[int], place: int, width: int) -> int:
    """Return the sum of left, upper left, upper and upper right neighbours, near ones doubled."""
    across = place % width
    total = 2 * block[place - 1] if across else 0
    if place >= width:
        total += 2 * block[place - width]
        if across:
            total += block[place - width - 1]
        if across < width - 1:
            total += block[place - width + 1]
    return total


def _encode_tensor(tensor: Indices, group: _Group, coder: BitWriter) -> None:
    """Write a tensor in the way that makes its first rows shortest, which is written first."""
    ways = _list_ways(tensor.shape, group)
    codes: list[int] = tensor.codes.tolist()
    columns = len(codes) // ways[0].rows
    rows = min(ways[0].rows, max(1, _MOST_TRIED // columns))
    splits = [_choose_split(tensor, way) for way in ways]
    costs = []
    for way, split in zip(ways, splits, strict=True):
        counter = BitCounter()
        trial = _Layer(
            replace(way, rows=rows), copy.deepcopy(group), counter, (tensor.levels, split)
        )
        trial.run(codes[: rows * columns])
        costs.append(counter.cost)
    best = costs.index(min(costs))
    code_plain(coder, best, len(ways) - 1)
    code_plain(coder, splits[best], tensor.levels - 2)
    _Layer(ways[best], group, coder, (tensor.levels, splits[best])).run(codes)


def _choose_split(tensor: Indices, plan: _Plan) -> int:
    """Return where to split the levels, so that codes tell most about their neighbours' sides.

    Returns:
        The number of levels beside 0 that are low; 0 where it does not pay to tell.
    """
    levels = tensor.levels
    if plan.size == 1 or not 3 <= levels <= _MOST_SPLIT:
        return 0
    blocks = tensor.codes.reshape(-1, plan.size // plan.width, plan.width)
    firsts = np.concatenate([blocks[:, :, :-1].ravel(), blocks[:, :-1].ravel()])
    seconds = np.concatenate([blocks[:, :, 1:].ravel(), blocks[:, 1:].ravel()])
    both = (firsts > 0) & (seconds > 0)
    table = np.zeros((levels, levels), np.int64)
    np.add.at(table, (firsts[both], seconds[both]), 1)
    gains = [0] + [_measure_relation(table, split) for split in range(1, levels - 1)]
    best = gains.index(max(gains))
    return best if gains[best] > _SPLIT_GAIN else 0


def _measure_relation(table: np.ndarray[tuple[int, int], np.dtype[np.int64]], split: int) -> int:
    """Return the bits, in 1/256, that one side of pairs tells about the other."""
    low = slice(1, split + 1)
    high = slice(split + 1, None)
    cells = [int(table[a, b].sum()) for a in (low, high) for b in (low, high)]
    sums = [cells[0] + cells[1], cells[2] + cells[3], cells[0] + cells[2], cells[1] + cells[3]]
    weigh = [sum(n * log2(n) for n in numbers if n) for numbers in (cells, sums, [sum(cells)])]
    return weigh[0] - weigh[1] + weigh[2]
