import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.store.pack.mixing import Pair, Tallies, Tree, code_mixed, code_plain
from autocompress.store.pack.range_coder import STEPS, BitCounter, BitReader, BitWriter, log2


@given(st.integers(0, 70_000), st.data())
def test_plain_numbers_come_back_at_their_price(most: int, data: st.DataObject) -> None:
    value = data.draw(st.integers(0, most))
    writer, counter = BitWriter(), BitCounter()
    assert code_plain(writer, value, most) == code_plain(counter, value, most) == value
    assert counter.cost == most.bit_length() * STEPS
    if most:
        assert code_plain(BitReader(writer.finish()), 0, most) == value


@given(st.integers(1, 400), st.data())
def test_a_tree_gives_its_numbers_back(size: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=60))
    writer, tree = BitWriter(), Tree(size)
    assert [tree.code(writer, value) for value in values] == values
    written = writer.finish()
    reader, tree = BitReader(written), Tree(size)
    assert [tree.code(reader, 0) for _ in values] == values
    reader.finish()


def test_a_tree_gives_each_number_its_share_before_it_has_seen_any() -> None:
    costs = []
    for value in range(7):
        counter = BitCounter()
        Tree(7).code(counter, value)
        costs.append(2 ** (-counter.cost / STEPS))
    assert costs == pytest.approx([1 / 7] * 7, rel=0.02)


@pytest.mark.parametrize("size", [2, 5, 16, 300])
def test_a_tree_learns_the_shares(size: int) -> None:
    shares = 0.5 ** np.arange(size)
    shares /= shares.sum()
    values = np.random.default_rng(0).choice(size, 3000, p=shares)
    counter, tree = BitCounter(), Tree(size)
    for value in values.tolist():
        tree.code(counter, value)
    counts = np.bincount(values)
    counts = counts[counts > 0]
    entropy = -(counts * np.log2(counts / counts.sum())).sum()
    assert entropy - 1 < counter.cost / STEPS < 1.01 * entropy + 9 * min(size, 40)


def test_hints_grow_with_evidence() -> None:
    tallies = Tallies(2, 3.0)
    assert tallies.hint(0) == tallies.hint(1) == 0
    hints = []
    for _ in range(40):
        tallies.add(0, 1, 2**18)
        hints.append(tallies.hint(0))
    assert hints == sorted(set(hints))
    assert hints[0] > 0
    assert hints[-1] < 2 * STEPS, "four times as often as expected, or almost"
    assert tallies.hint(1) == 0


def test_pairs_hold_the_odds() -> None:
    pair = Pair(8, 8)
    assert pair.odds == 0
    for _ in range(7):
        pair.add(1)
    assert pair.odds == log2(8 + 7 * 16) - log2(8)


def test_weights_learn_which_hint_is_right() -> None:
    rng = np.random.default_rng(0)
    weights = [0, 0]
    counter = BitCounter()
    for _ in range(2000):
        bit, noise = int(rng.random() < 0.5), int(rng.random() < 0.5)
        right = STEPS if (bit ^ (rng.random() < 0.2)) else -STEPS
        code_mixed(counter, bit, 0, (right, STEPS if noise else -STEPS), weights)
    assert weights[0] > 65536, "a hint that is right in 4 of 5 is worth two bits"
    assert abs(weights[1]) < 65536 // 3
    assert counter.cost / STEPS < 0.8 * 2000


@given(
    st.integers(-(10**6), 10**6),
    st.lists(st.tuples(st.integers(-(10**5), 10**5), st.integers(-(10**6), 10**6)), max_size=3),
    st.integers(0, 1),
)
def test_any_hints_give_bits_that_come_back(
    odds: int, hints: list[tuple[int, int]], bit: int
) -> None:
    values, writer = [hint for hint, _ in hints], BitWriter()
    weights = [weight for _, weight in hints]
    again = list(weights)
    assert code_mixed(writer, bit, odds, values, weights) == bit
    assert code_mixed(BitReader(writer.finish()), 0, odds, values, again) == bit
    assert again == weights
