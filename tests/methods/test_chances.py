import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autocompress.errors import ArtifactError
from autocompress.jobs import Candidate
from autocompress.masks.mask import Masks, count_kept, full_masks, open_columns
from autocompress.masks.project import rank_masks
from autocompress.methods.chances import Chances, join_groups, measure_change
from tests.asked import CANDIDATES
from tests.hand_made import MAKERS, draw_masks

GRAPH = MAKERS["sequential"]().graph
CANDIDATE = CANDIDATES["sequential"]
SHARES = st.floats(0.05, 0.9)


def make_chances(net: str = "sequential") -> Chances:
    graph = MAKERS[net]().graph
    return Chances(graph, full_masks(graph), CANDIDATES[net])


def draw_scores(chances: Chances, seed: int, jitter: float) -> Tensor:
    """Return scores of which a part changes with ``seed``."""
    fixed = torch.rand(len(chances.p), generator=torch.Generator().manual_seed(99))
    noise = torch.randn(len(chances.p), generator=torch.Generator().manual_seed(seed))
    return fixed * (jitter * noise).exp()


@given(target=st.floats(0.5, 5000), share=SHARES, step=st.floats(0.01, 1))
def test_the_curve_falls_from_the_step_to_zero_at_the_target(
    target: float, share: float, step: float
) -> None:
    ranks = torch.linspace(0, 3 * target, 400, dtype=torch.float64)
    ends = torch.tensor([0.0, target], dtype=torch.float64)

    change = measure_change(ranks, target, step=step, share=share)
    first, last = measure_change(ends, target, step=step, share=share).tolist()

    assert first == pytest.approx(step)
    assert last == pytest.approx(0, abs=1e-9 * step)
    assert bool((change.diff() < 0).all())
    assert bool((change[ranks > 1.001 * target] < 0).all())


@given(target=st.floats(1, 500), share=SHARES, distance=st.floats(0, 1))
def test_the_curve_is_its_own_mirror_image_where_it_turns(
    target: float, share: float, distance: float
) -> None:
    turn = -math.log(share) / (math.log(2) - math.log(share)) * target
    pair = torch.tensor([turn * (1 - distance), turn * (1 + distance)], dtype=torch.float64)

    change = measure_change(pair, target, step=0.05, share=share)

    assert float(change.sum()) == pytest.approx(2 * share * 0.05)


@pytest.mark.parametrize("net", MAKERS)
@pytest.mark.parametrize("jitter", [0.0, 0.5, 2.0])
def test_pools_end_with_exactly_the_count_however_ranks_jitter(net: str, jitter: float) -> None:
    chances, graph = make_chances(net), MAKERS[net]().graph
    step = 0.05
    for update in range(300):
        gone = chances.gone.clone()
        chances.update(draw_scores(chances, update, jitter), step=step, share=0.25)
        assert bool(chances.gone[gone].all())  # For good.
        assert all(chances.count_left(pool) >= 0 for pool in chances.pools)
        if chances.done:
            break

    assert chances.done
    assert jitter or chances.updates * step < 7.5  # As long as Spp gives it.
    assert chances.random == 0
    assert count_kept(graph, chances.masks()) == CANDIDATES[net]
    ranked = rank_masks(graph, chances.rank(), CANDIDATES[net])
    assert torch.equal(join_groups(graph, ranked), join_groups(graph, chances.masks()))


@given(seed=st.integers(0, 10**6), updates=st.integers(0, 60))
def test_stopped_at_any_update_it_leaves_enough_of_everything(seed: int, updates: int) -> None:
    """Within masks of an earlier round, where units have different numbers of columns."""
    bounds = draw_masks(GRAPH, seed, 0.7)
    candidate = Candidate(filters={"0": 2, "3": 1}, columns={"0": 3, "3": 4, "6": 9})
    chances = Chances(GRAPH, bounds, candidate)
    for update in range(updates):
        chances.update(draw_scores(chances, seed + update, 1.0), step=0.2, share=0.25)

    masks = rank_masks(GRAPH, chances.rank(), candidate, within=bounds)

    # What is gone stays gone, and still there is as much as was asked, or could be.
    assert not (join_groups(GRAPH, masks) & chances.gone).any()
    for layer in GRAPH.column_layers:
        opened = bounds.columns[layer.name] & open_columns(masks, layer)
        wanted = min(candidate.columns[layer.name], int(opened.sum()))
        assert int(masks.columns[layer.name].sum()) == wanted


@given(seed=st.integers(0, 10**6), density=st.floats(0.3, 1))
def test_pools_hold_what_there_is_and_nothing_else(seed: int, density: float) -> None:
    """Or shares of them, such as the margin and what recovered, would be of groups long gone."""
    bounds = draw_masks(GRAPH, seed, density)
    nothing = Candidate(
        filters={one.name: 0 for one in GRAPH.groups},
        columns={layer.name: 0 for layer in GRAPH.column_layers},
    )

    pools = Chances(GRAPH, bounds, nothing).pools

    found = torch.cat([pool.places for pool in pools]).sort().values
    there = join_groups(GRAPH, bounds)
    for group in (one for one in GRAPH.groups if not one.prunable):
        there[group.start : group.start + group.size] = False
    assert torch.equal(found, there.nonzero().squeeze(1))


def test_columns_wait_for_units_that_could_take_too_many_along() -> None:
    """Of the units of layer 0 the best has two columns left in layer 3, the others nine."""
    full = full_masks(GRAPH)
    few = full.columns["3"].clone()
    few[2:9] = False
    bounds = Masks(full.units, {**full.columns, "3": few})
    candidate = Candidate(filters={"0": 1}, columns={"3": 2})
    chances = Chances(GRAPH, bounds, candidate)
    scores = torch.linspace(1, 2, len(chances.p), dtype=torch.float64)  # Its columns go first,
    scores[0] = 3.0  # but the unit stays.

    while not chances.done:
        chances.update(scores, step=0.1, share=0.25)

    masks = chances.masks()
    assert masks.units[:4].tolist() == [True, False, False, False]
    assert masks.columns["3"].nonzero().flatten().tolist() == [0, 1]


def test_a_group_that_was_ranked_wrongly_at_first_recovers() -> None:
    chances = make_chances()
    scores = torch.linspace(1, 2, len(chances.p), dtype=torch.float64)
    wrong = int(chances.pools[-1].places[-1])  # The best column of the last layer, but for now.
    first = scores.clone()
    first[wrong] = 0.0
    chances.update(first, step=0.05, share=0.25)
    risen = float(chances.p[wrong])

    for _ in range(12):
        chances.update(scores * 2, step=0.05, share=0.25)

    assert risen == pytest.approx(0.05)
    assert float(chances.p[wrong]) == 0
    groups = sum(len(pool.places) for pool in chances.pools)
    assert chances.recovery >= 1 / groups
    assert bool(chances.recovered[wrong])


def test_nothing_recovers_while_ranks_stay() -> None:
    chances = make_chances()
    while not chances.done:
        chances.update(draw_scores(chances, 0, 0.0), step=0.05, share=0.25)

    assert chances.recovery == 0


def test_groups_are_left_out_as_often_as_their_probability_says() -> None:
    chances = make_chances()
    for update in range(8):
        chances.update(draw_scores(chances, update, 0.3), step=0.1, share=0.25)
    generator, times = torch.Generator().manual_seed(0), 4000
    kept = torch.stack([chances.draw(generator) for _ in range(times)]).double().mean(0)

    units = (1 - chances.p)[: GRAPH.units]
    # A column takes part when it is not left out, nor the unit that it reads.
    reads = torch.tensor(GRAPH.by_name["3"].in_units).repeat_interleave(9)
    columns = (1 - chances.p)[GRAPH.units + 9 : GRAPH.units + 45] * units[reads]
    wanted = torch.cat([units, columns])
    found = torch.cat([kept[: GRAPH.units], kept[GRAPH.units + 9 : GRAPH.units + 45]])
    spread = (wanted * (1 - wanted) / times).sqrt()
    assert bool(((found - wanted).abs() <= 5 * spread).all())
    assert 0 < float(chances.p.max()) < 1


def test_it_goes_on_from_its_state() -> None:
    whole, first, second = make_chances(), make_chances(), make_chances()
    for update in range(20):
        whole.update(draw_scores(whole, update, 1.0), step=0.1, share=0.25)
        if update < 9:
            first.update(draw_scores(first, update, 1.0), step=0.1, share=0.25)
    second.load_state_dict(first.state_dict())

    for update in range(9, 20):
        second.update(draw_scores(second, update, 1.0), step=0.1, share=0.25)

    for name, value in whole.state_dict().items():
        other = second.state_dict()[name]
        assert torch.equal(value, other) if isinstance(value, Tensor) else value == other


def test_the_state_of_another_model_is_refused() -> None:
    with pytest.raises(ArtifactError, match="want 162 probabilities"):
        make_chances().load_state_dict(make_chances("residual").state_dict())
