"""What an entropy coder needs, against exact counts of possibilities."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.jobs import Candidate
from autocompress.masks.coded import FLOAT_BITS, count_weight_bits, log2_choose
from autocompress.masks.cost import CostModel, count_masks
from autocompress.masks.mask import Masks, count_kept, weight_mask
from tests.hand_made import MAKERS, draw_masks

NETS = st.sampled_from(sorted(MAKERS))
SEEDS = st.integers(0, 2**31)
WIDTHS = st.sampled_from([2, 3, 4, 8, FLOAT_BITS])


@pytest.mark.parametrize("full", [1, 2, 7, 50, 2000])
def test_ways_to_choose_are_counted_as_by_whole_numbers(full: int) -> None:
    kept = np.arange(full + 1)

    found = log2_choose(np.full(full + 1, full), kept)

    exact = [math.log2(math.comb(full, int(one))) for one in kept]
    # Differences of logarithms of factorials up to 1e4: their rounding stays below 1e-9.
    assert found == pytest.approx(exact, abs=1e-8)
    assert found[0] == found[-1] == 0.0


def test_ways_to_choose_of_a_large_layer() -> None:
    exact = math.lgamma(400_001) - math.lgamma(1_238) - math.lgamma(400_001 - 1_237)

    found = log2_choose(np.array([400_000]), np.array([1_237]))

    assert found[0] == pytest.approx(exact / math.log(2), rel=1e-10)


@given(st.integers(1, 300), WIDTHS)
def test_more_weights_never_cost_less_and_all_of_them_need_no_positions(
    full: int, width: int
) -> None:
    kept = np.arange(1, full + 1)

    bits = count_weight_bits(np.full(full, full), kept, np.full(full, width))

    scale = 0 if width == FLOAT_BITS else 32
    assert (np.diff(bits) >= -1e-9).all()
    assert bits[-1] == full * width + scale
    assert bits[0] == pytest.approx(min(math.log2(full) + width, full * width) + scale)


def draw_fine(net: str, seed: int, density: float) -> tuple[Masks, dict[str, int]]:
    """Return random masks with single weights in some layers, and random widths of some."""
    graph = MAKERS[net]().graph
    masks = draw_masks(graph, seed, density)
    rng = np.random.default_rng(seed)
    weights, bits = {}, {}
    for layer in graph.layers:
        block = weight_mask(masks, layer)
        if rng.random() < 0.7:
            weights[layer.name] = block.logical_and(
                block.new_tensor(rng.random(tuple(block.shape)) < 0.5)
            )
        if rng.random() < 0.7:
            bits[layer.name] = int(rng.choice([2, 4, 8]))
    return Masks(masks.units, masks.columns, weights), bits


@given(NETS, SEEDS, st.floats(0.0, 1.0))
def test_coded_bytes_are_the_possibilities_counted_by_hand(
    net: str, seed: int, density: float
) -> None:
    graph = MAKERS[net]().graph
    masks, bits = draw_fine(net, seed, density)
    total = 0.0
    for layer in graph.layers:
        kept = int(weight_mask(masks, layer).sum())
        whole = weight_mask(Masks(masks.units, masks.columns), layer)
        width = bits.get(layer.name, 32)
        size = int(whole.sum())
        total += min(math.log2(math.comb(size, kept)) + kept * width, size * width)
        total += 32 if layer.name in bits else 0
        alive = [unit < 0 or bool(masks.units[unit]) for unit in layer.in_units]
        if layer.groups == 1:
            left = layer.area * sum(alive)
            total += math.log2(math.comb(left, int(masks.columns[layer.name].sum())))
        rows = int(masks.units[list(layer.out_units)].sum())
        total += 32 * rows * layer.has_bias
    for norm in graph.norms:
        channels = sum(unit < 0 or bool(masks.units[unit]) for unit in norm.units)
        total += 32 * channels * (4 if norm.affine else 2)

    cost = count_masks(graph, masks, bits)

    assert cost.weights == sum(int(weight_mask(masks, one).sum()) for one in graph.layers)
    # Logarithms are rounded: a sum next to a whole byte may fall to either side.
    assert math.ceil(total / 8 - 1e-6) <= cost.coded_bytes <= math.ceil(total / 8 + 1e-6)


@given(NETS, SEEDS, st.floats(0.0, 1.0))
def test_costs_of_counts_are_those_of_any_masks_with_them(
    net: str, seed: int, density: float
) -> None:
    graph = MAKERS[net]().graph
    masks, bits = draw_fine(net, seed, density)
    counts = count_kept(graph, masks)
    candidate = Candidate(
        filters=counts.filters, columns=counts.columns, weights=counts.weights, bits=bits
    )

    foreseen, found = CostModel(graph).count_candidate(candidate), count_masks(graph, masks, bits)

    for name in ("weights", "params", "macs"):
        assert getattr(foreseen, name) == getattr(found, name)
    assert found.bytes <= foreseen.bytes
    assert found.coded_bytes <= foreseen.coded_bytes


@given(NETS, SEEDS)
def test_without_weights_and_bits_the_code_is_the_float32_model(net: str, seed: int) -> None:
    graph = MAKERS[net]().graph
    masks = draw_masks(graph, seed, 1.0)

    cost = count_masks(graph, masks)

    assert cost.coded_bytes <= cost.bytes
    assert CostModel(graph).count_candidate(Candidate(filters={}, columns={})).coded_bytes == (
        CostModel(graph).count_candidate(Candidate(filters={}, columns={})).bytes
    )
