from fractions import Fraction
from heapq import heapify, heappop, heappush
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import FormatError
from autocompress.store.pack.reference.huffman import (
    MAX_BITS,
    WORD_BITS,
    Code,
    check_padding,
    decode_symbols,
    encode_symbols,
    find_lengths,
    make_code,
    read_code,
)
from autocompress.store.pack.wire import Reader, Writer

counts_of = st.lists(st.integers(1, 50) | st.integers(1, 10**9), min_size=2, max_size=40)


def cost_of_tree(counts: list[int]) -> int:
    """Return the bits that Huffman's tree spends: the sum of its inner nodes."""
    heap, total = list(counts), 0
    heapify(heap)
    while len(heap) > 1:
        node = heappop(heap) + heappop(heap)
        total += node
        heappush(heap, node)
    return total


def least_cost(counts: list[int], most: int) -> int:
    """Return the least bits of all codes with words of ``most`` bits, by trying all lengths."""
    best = 10**18

    def extend(place: int, room: Fraction, bits: int, length: int) -> None:
        nonlocal best
        if place == len(counts):
            best = min(best, bits)
            return
        for longer in range(length, most + 1):
            if room >= Fraction(1, 2**longer):
                left = room - Fraction(1, 2**longer)
                extend(place + 1, left, bits + counts[place] * longer, longer)

    extend(0, Fraction(1), 0, 1)
    return best


@given(counts_of)
def test_words_cost_what_the_tree_of_huffman_costs(given_counts: list[int]) -> None:
    counts = np.array(sorted(given_counts, reverse=True))

    lengths = find_lengths(counts)

    # Up to 40 counts up to 1e9: no word of the tree needs more than 32 bits at 1.5e9 : 1.
    if cost_of_tree(given_counts) != int((counts * lengths).sum()):
        assert lengths.max() == MAX_BITS
    assert sum(Fraction(1, 2 ** int(length)) for length in lengths) == 1
    assert (np.diff(lengths) >= 0).all()


@given(st.lists(st.integers(1, 200), min_size=2, max_size=6), st.integers(3, 5))
def test_limited_words_are_the_cheapest_of_all(given_counts: list[int], most: int) -> None:
    counts = sorted(given_counts, reverse=True)

    lengths = find_lengths(np.array(counts), most)

    assert lengths.max() <= most
    assert int((np.array(counts) * lengths).sum()) == least_cost(counts, most)


def fibonacci(levels: int) -> list[int]:
    found = [1, 1]
    while len(found) < levels:
        found.append(found[-1] + found[-2])
    return found[::-1]


def test_counts_that_want_long_words_are_held_to_32_bits() -> None:
    counts = np.array(fibonacci(45))  # Huffman's tree is 44 deep.

    code = make_code(counts)
    symbols = np.array([0, 44, 1, 43, 2, 42, *range(45)])
    words, bits = encode_symbols(code, symbols)

    assert len(code.sizes) == MAX_BITS
    assert sum(Fraction(size, 2 ** (at + 1)) for at, size in enumerate(code.sizes)) == 1
    found, end = decode_symbols(code, words, 0, len(symbols))
    assert np.array_equal(found, symbols)
    assert end == bits[-1]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=60), st.integers(0, 2**32 - 1))
def test_the_stream_is_the_words_one_after_the_other(given_counts: list[int], seed: int) -> None:
    code = make_code(np.array(sorted(given_counts, reverse=True)))
    symbols = np.random.default_rng(seed).integers(0, code.levels, size=70)

    words, bits = encode_symbols(code, symbols)

    text = "".join(format(int(code.words[one]), f"0{int(code.lengths[one])}b") for one in symbols)
    stream = "".join(format(int(word), "032b") for word in words)
    assert stream == text.ljust(-(-len(text) // WORD_BITS) * WORD_BITS, "0")
    for place in (0, 1, 33, 69):
        found, end = decode_symbols(code, words, int(bits[place]), 70 - place)
        assert np.array_equal(found, symbols[place:])
        assert end == len(text)
    check_padding(words, len(text))


@given(st.lists(st.integers(1, 400), min_size=2, max_size=60))
def test_no_word_begins_another_and_all_are_in_order(given_counts: list[int]) -> None:
    code = make_code(np.array(sorted(given_counts, reverse=True)))
    texts = [
        format(int(word), f"0{int(length)}b")
        for word, length in zip(code.words, code.lengths, strict=True)
    ]

    assert texts == sorted(texts)
    assert not any(two.startswith(one) for one, two in pairwise(texts))


@given(st.lists(st.integers(1, 400), max_size=60))
def test_a_code_is_read_as_it_was_written(given_counts: list[int]) -> None:
    code = make_code(np.array(sorted(given_counts, reverse=True), dtype=np.int64))
    writer = Writer()
    code.write(writer)
    reader = Reader(writer.finish())

    assert read_code(reader, len(given_counts)) == code
    reader.end()


@pytest.mark.parametrize(
    "data",
    [
        [0],  # no length at all
        [33, *[0] * 33],  # words of 33 bits
        [2, 1, 1],  # a word is missing
        [2, 1, 3],  # one too many
        [1, 3],  # three words of one bit
        [3, 1, 2, 0],  # the longest length has no word
        [1],  # ends
    ],
)
def test_lengths_that_make_no_code_are_refused(data: list[int]) -> None:
    with pytest.raises(FormatError):
        read_code(Reader(bytes(data)), 3)


def test_streams_that_end_or_mean_nothing_are_refused() -> None:
    code = Code((1, 2))
    words = np.array([0b1 << 31], dtype=np.uint32)  # 10, then zeros

    with pytest.raises(FormatError, match="too early"):
        decode_symbols(code, words, 0, 33)
    with pytest.raises(FormatError, match="too early"):
        decode_symbols(code, words, 0, 32)  # 31 words and a symbol of two bits
    with pytest.raises(FormatError, match="too early"):
        decode_symbols(code, words[:0], 0, 1)
    with pytest.raises(FormatError, match="too early"):
        decode_symbols(code, np.array([1], dtype=np.uint32), 31, 1)  # 1 and no more
    with pytest.raises(FormatError, match="no meaning"):
        decode_symbols(Code((1,)), words, 0, 2)
    with pytest.raises(FormatError, match="not zero"):
        check_padding(np.array([1], dtype=np.uint32), 31)
    with pytest.raises(FormatError, match="want 2 words of code, got 1"):
        check_padding(words, 33)
