"""Symbols to bytes at the length their frequencies say: range asymmetric numeral systems.

Jarek Duda, arXiv:1311.2540. A state of 32 bits takes in one symbol after the other, and sheds
its low 16 bits, a word, where it would overflow; reading goes the other way. Symbol i goes to
lane i mod lanes, each with its own state, so that NumPy handles as many symbols as there are
lanes at a time (interleaving: Fabian Giesen, arXiv:1402.3392). A short stream has one lane.

Bytes: a number, the states, the words in the order of reading. Many lanes start at 2^16 and are
back there after the last symbol; the number is odd and tells how many. One lane starts at 1 and
sheds nothing below 2^16, and its state is written in as few bytes as it needs: none where nothing
was coded. So few bytes may mean something else once they are cut: the number, even, tells their
length modulo 64.
"""

from math import ceil

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import FormatError
from autocompress.store.pack.codec import Codes
from autocompress.store.pack.tables import Table
from autocompress.store.pack.wire import Reader, Writer

LEAST_LANES = 16
MOST_LANES = 4096

_BYTES_PER_LANE = 2000  # Of the stream: the 4 of a state are 0.2 % of it, half of them used.
_FEWEST = 50  # Fewer lanes are slower than one.
_START = 1 << 16
_LENGTHS = 64
_BLOCK = 2**16  # Symbols looked up at a time.


class SymbolWriter:
    """Runs of symbols, each with its own table.

    Attributes:
        bits: About how many the symbols take.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[Codes, Table]] = []
        self.bits = 0.0

    def run(self, symbols: Codes, table: Table) -> None:
        """Append symbols that all have a frequency; shape (count,)."""
        if len(symbols) and table.single is None:
            self._runs.append((symbols, table))
            histogram = np.bincount(symbols, minlength=len(table.frequencies))
            self.bits += table.cost(histogram)

    def finish(self, lanes: int | None = None) -> bytes:
        """Return the stream.

        Args:
            lanes: 1, or 16..4,096; None for what suits the length.
        """
        if lanes is None:
            lanes = min(ceil(self.bits / 8) // _BYTES_PER_LANE, MOST_LANES)
            lanes = lanes if lanes >= _FEWEST else 1
        data = self._write_one() if lanes == 1 else self._write_many(lanes)
        writer = Writer()
        writer.number(2 * (len(data) % _LENGTHS) if lanes == 1 else 2 * lanes + 1)
        writer.raw(data)
        return writer.finish()

    def _write_many(self, lanes: int) -> bytes:
        states = np.full(lanes, _START, np.uint64)
        words: list[NDArray[np.uint16]] = []
        word_bits = np.uint64(16)
        for symbols, table in reversed(self._runs):
            frequencies, starts = table.frequencies.astype(np.uint64), table.starts
            limits = frequencies << np.uint64(32 - table.bits)
            bits = np.uint64(table.bits)
            for first in reversed(range(0, len(symbols), lanes)):
                some = symbols[first : first + lanes]
                state = states[: len(some)]
                frequency = frequencies[some]
                full = state >= limits[some]
                words.append(state[full].astype("<u2"))
                state = np.where(full, state >> word_bits, state)
                quotient = state // frequency
                rest = state - quotient * frequency
                states[: len(some)] = (quotient << bits) + rest + starts[some]
        return states.astype("<u4").tobytes() + b"".join(part.tobytes() for part in words[::-1])

    def _write_one(self) -> bytes:
        state, words = 1, []
        for symbols, table in reversed(self._runs):
            frequencies, starts = table.frequencies.tolist(), table.starts.tolist()
            bits, most = table.bits, 32 - table.bits
            for symbol in reversed(symbols.tolist()):
                frequency = frequencies[symbol]
                if state >= frequency << most:
                    words.append(state & 0xFFFF)
                    state >>= 16
                quotient, rest = divmod(state, frequency)
                state = (quotient << bits) + rest + starts[symbol]
        if state == 1:
            return b""
        size = -(-state.bit_length() // 8)
        return state.to_bytes(size, "little") + np.array(words[::-1], "<u2").tobytes()


class SymbolReader:
    """What a :class:`SymbolWriter` wrote; may come from anyone."""

    def __init__(self, data: memoryview) -> None:
        """Read the states.

        Raises:
            FormatError: They are not there.
        """
        reader = Reader(data)
        head = reader.number(2 * MOST_LANES + 1)
        lanes = head // 2 if head % 2 else 1
        if head % 2 and lanes < LEAST_LANES:
            raise FormatError(f"want 1 or {LEAST_LANES}..{MOST_LANES} lanes, got {lanes}")
        if lanes == 1 and head // 2 != reader.left % _LENGTHS:
            raise FormatError(f"{reader.left:,} bytes of symbols are too few or too many")
        if lanes == 1:
            left = reader.left
            size = left if left < 5 else 3 + (left + 1) % 2
            self._one = int.from_bytes(reader.raw(size), "little") if size else 1
            if size and not 1 << 8 * (size - 1) <= self._one != 1:
                raise FormatError("a state is longer than it need be")
        else:
            self._states = np.frombuffer(reader.raw(4 * lanes), "<u4").astype(np.uint32)
            if self._states.min() < _START:
                raise FormatError("a state is below its range")
            if reader.left % 2:
                raise FormatError("ends in the middle of a word")
        self._lanes = lanes
        self._words = np.frombuffer(reader.rest(), "<u2")
        self._place = 0

    def run(self, count: int, table: Table) -> Codes:
        """Return the next ``count`` symbols; shape (count,).

        Raises:
            FormatError: The words end.
        """
        single = table.single
        if count == 0 or single is not None:
            return np.full(count, single or 0, np.uint16)
        symbols = np.arange(len(table.frequencies), dtype=np.uint16)
        names = np.repeat(symbols, table.frequencies)
        places = np.arange(1 << table.bits, dtype=np.uint32)
        offsets = places - np.repeat(table.starts, table.frequencies)
        steps = np.repeat(table.frequencies, table.frequencies) << np.uint32(16) | offsets
        if self._lanes == 1:
            return names[self._run_one(count, steps, table.bits)]
        found = np.empty(count, np.uint16)
        whole = count - count % self._lanes
        for part, width in ((found[:whole], self._lanes), (found[whole:], count - whole)):
            if len(part):
                self._run_many(part.reshape(-1, width), (names, steps), table.bits)
        return found

    def end(self) -> None:
        """Raise FormatError unless all words are read and all states back at the start."""
        if self._place != len(self._words):
            raise FormatError(f"{len(self._words) - self._place:,} words are left over")
        back = self._one == 1 if self._lanes == 1 else bool((self._states == _START).all())
        if not back:
            raise FormatError("the coder does not end where it began")

    def _run_many(self, found: Codes, tables: tuple[Codes, NDArray[np.uint32]], bits: int) -> None:
        """Fill ``found``, shape (steps, lanes in use)."""
        names, steps = tables
        lanes = found.shape[1]
        states, words, place = self._states[:lanes], self._words, self._place
        rows = max(_BLOCK // lanes, 1)
        slots = np.empty((rows, lanes), np.intp)
        step, frequency = np.empty(lanes, np.uint32), np.empty(lanes, np.uint32)
        low = np.empty(lanes, np.bool)
        mask, shift, half, start = (
            np.uint32(value) for value in ((1 << bits) - 1, bits, 16, _START)
        )
        for first in range(0, len(found), rows):
            block = found[first : first + rows]
            for slot in slots[: len(block)]:
                np.bitwise_and(states, mask, out=slot, casting="unsafe")
                steps.take(slot, out=step, mode="clip")
                np.right_shift(states, shift, out=states)
                np.right_shift(step, half, out=frequency)
                np.multiply(states, frequency, out=states)
                np.bitwise_and(step, np.uint32(0xFFFF), out=step)
                np.add(states, step, out=states)
                np.less(states, start, out=low)
                (empty,) = low.nonzero()
                fresh = words[place : place + len(empty)]
                if len(fresh) < len(empty):
                    raise FormatError("the words end before the symbols")
                place += len(empty)
                states.put(empty, states.take(empty) << half | fresh)
            names.take(slots[: len(block)], out=block, mode="clip")
        self._place = place

    def _run_one(self, count: int, steps: NDArray[np.uint32], bits: int) -> Codes:
        """Return the places in the tables; shape (count,)."""
        # Objects of all steps at once take time; a view makes them one by one.
        rows = steps.tolist() if 2 * count > len(steps) else steps.data
        words = self._words[self._place :].tolist()
        state, place, end, mask = self._one, 0, len(words), (1 << bits) - 1
        found = np.empty(count, np.uint16)
        for first in range(0, count, _BLOCK):
            slots = []
            for _ in range(min(count - first, _BLOCK)):
                slot = state & mask
                slots.append(slot)
                step = rows[slot]
                state = (step >> 16) * (state >> bits) + (step & 0xFFFF)
                if state < _START and place < end:
                    state = state << 16 | words[place]
                    place += 1
            found[first : first + len(slots)] = slots
        self._one = state
        self._place += place
        return found
