import math
from collections import Counter
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autocompress.quantize.entropy import (
    count_distinct,
    measure_bits,
    measure_entropy,
    position_bits,
)

VALUES = st.lists(st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, 3.0]), max_size=40)


@pytest.mark.parametrize(("entries", "kept"), [*product(range(12), range(12)), (5_000, 77)])
def test_places_cost_the_logarithm_of_their_number(entries: int, kept: int) -> None:
    if kept > entries:
        with pytest.raises(ValueError, match=f"want 0\\.\\.{entries}, got {kept}"):
            position_bits(entries, kept)
        return

    # Sums of lgamma below 1e5 lose some 1e-11.
    assert position_bits(entries, kept) == pytest.approx(
        math.log2(math.comb(entries, kept)), abs=1e-9
    )


def test_places_of_many_weights_are_finite_and_below_the_entropy_of_a_mask() -> None:
    share = 1_750 / 430_500
    mask = 430_500 * -(share * math.log2(share) + (1 - share) * math.log2(1 - share))

    assert mask - 20 < position_bits(430_500, 1_750) < mask


@given(VALUES)
def test_bits_are_those_of_the_histogram_of_what_is_not_zero(values: list[float]) -> None:
    nonzero = Counter(value for value in values if value)
    kept = nonzero.total()
    code = -sum(count * math.log2(count / kept) for count in nonzero.values())

    bits = measure_bits(torch.tensor(values))

    assert bits.kept == kept
    assert bits.distinct == len(nonzero) == count_distinct(torch.tensor(values))
    assert bits.places == pytest.approx(math.log2(math.comb(len(values), kept)), abs=1e-9)
    assert bits.values + bits.table == pytest.approx(
        min(code + 32 * len(nonzero), 32 * kept), abs=1e-9
    )
    assert bits.table in (0, 32 * len(nonzero))


def test_values_that_all_differ_cost_their_own_bits() -> None:
    bits = measure_bits(torch.arange(100.0))

    assert (bits.kept, bits.distinct, bits.values, bits.table) == (99, 99, 99 * 32, 0)


@pytest.mark.parametrize("bits", range(7))
def test_equally_frequent_symbols_cost_whole_bits(bits: int) -> None:
    assert measure_entropy(torch.full((2**bits,), 3)) == bits


def test_symbols_that_never_occur_cost_nothing() -> None:
    assert measure_entropy(torch.tensor([0, 4, 0])) == 0
    assert measure_entropy(torch.tensor([5, 0, 5])) == 1
    assert measure_entropy(torch.tensor([], dtype=torch.int64)) == 0


def test_the_shape_of_a_tensor_does_not_matter() -> None:
    weight = torch.tensor([0.0, 1.0, 1.0, -2.0] * 6)

    assert measure_bits(weight.reshape(2, 3, 2, 2)) == measure_bits(weight)
