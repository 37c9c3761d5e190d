"""Laws of weight densities and bit widths as dimensions of the search."""

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autocompress.errors import BudgetError, SettingError
from autocompress.jobs import Candidate
from autocompress.masks.cost import CostModel
from autocompress.search.anneal import Schedule
from autocompress.search.bounds import Bounds, Logits, make_bounds
from autocompress.search.budget import Budget
from autocompress.search.choose_searcher import make_searcher
from autocompress.search.counts import (
    count_cost,
    feasibility_table,
    make_candidate,
    make_counts,
    make_flat,
    measure_densities,
    name_counts,
    read_counts,
    read_logits,
    round_counts,
)
from autocompress.search.guide import Ground, count_starts, make_origin, make_start, move_logits
from autocompress.search.records import Record
from autocompress.search.relax import relax_densities
from autocompress.search.searcher import Searcher
from autocompress.search.settings import Objective, SearcherName, SearchSettings
from autocompress.search.space import SpaceSettings, read_space, write_space
from autocompress.search.warm import fits_space
from tests.fakes import make_importance, make_resnet_graph, make_small_graph

FULL = Candidate(filters={}, columns={})
GRAPH = make_resnet_graph(1)
COSTS = CostModel(GRAPH)
DENSE = COSTS.count_candidate(FULL)
BITS = (2, 3, 4, 8)
FINE = SpaceSettings(weight_density=(0.0, 1.0), bits=BITS)
ONLY_BITS = SpaceSettings(filter_density=(1.0, 1.0), column_density=(1.0, 1.0), bits=(2, 4, 8, 32))
NAMES: tuple[SearcherName, ...] = ("annealing", "random", "tpe", "nsga2", "uniform", "global")
SPACES = {
    "weights and bits": FINE,
    "weights": SpaceSettings(weight_density=(0.0, 1.0)),
    "bits": SpaceSettings(bits=(2, 8)),
    "only weights": replace(FINE, filter_density=(1.0, 1.0), column_density=(1.0, 1.0), bits=()),
}
CASES: tuple[tuple[Budget, tuple[Objective, ...]], ...] = (
    (Budget(coded_bytes=0.05), ("energy",)),
    (Budget(coded_bytes=0.02, macs=0.5), ("energy", "coded_bytes")),
    (Budget(weights=0.05, bytes=0.9), ("energy",)),
)


def make_ground(space: SpaceSettings = FINE, budget: Budget = CASES[0][0]) -> Ground:
    bounds = make_bounds(space, GRAPH, GRAPH, FULL)
    known = make_importance(GRAPH)
    counts = read_counts(bounds, FULL)
    return Ground(bounds, budget.limits(DENSE), counts, 0.3, importance=known)


def start_search(
    name: SearcherName, ground: Ground, objectives: tuple[Objective, ...] = ("energy",)
) -> Searcher:
    settings = SearchSettings(searcher=name, evaluations=40, objectives=objectives)
    starts = count_starts(ground, 40)
    schedule = Schedule(settings=settings, seed=0, round=0, starts=starts, limits=ground.limits)
    return make_searcher(schedule, ground)


def score(candidate: Candidate) -> float:
    """Return a smooth energy that wants other densities and widths of every layer."""
    loss = 0.0
    for place, layer in enumerate(GRAPH.layers):
        wanted, width = (0.1, 0.4, 0.03)[place % 3], BITS[place % 4]
        kept = candidate.weights.get(layer.name, layer.weights)
        loss += 0.2 * abs(math.log(kept / layer.weights / wanted))
        loss += 0.1 * abs(math.log2(candidate.bits.get(layer.name, 32) / width))
    return loss


def run_search(searcher: Searcher, evaluations: int) -> list[Record]:
    records: list[Record] = []
    for index in range(evaluations):
        proposal = searcher.propose(index, {one.candidate.key() for one in records})
        records.append(
            Record(
                seq=index,
                number=index,
                stage="fast",
                round=0,
                chain=proposal.chain,
                index=index,
                candidate=proposal.candidate,
                energy=score(proposal.candidate),
                metrics={
                    name: float(cost)
                    for name, cost in COSTS.count_candidate(proposal.candidate)
                    .list_known()
                    .items()
                },
            )
        )
        searcher.decide(records[-1])
    return records


def draw_point(bounds: Bounds, seed: int) -> Logits:
    rng = np.random.default_rng(seed)
    groups, layers = len(bounds.graph.groups), len(bounds.graph.layers)
    return Logits(
        rng.normal(size=groups),
        rng.normal(size=layers),
        rng.normal(size=layers),
        rng.integers(bounds.fine.steps + 1),
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("space", list(SPACES))
def test_every_proposal_meets_every_limit_and_is_new(name: SearcherName, space: str) -> None:
    # Without filters and columns, or without weights, the smallest model exceeds the others.
    cases = CASES[:1] if "only" in space or space == "bits" else CASES
    for budget, objectives in cases:
        ground = make_ground(SPACES[space], budget)

        records = run_search(start_search(name, ground, objectives), 8)

        for resource, limit in ground.limits.items():
            assert max(one.metrics[resource] for one in records) <= limit
        assert all(fits_space(ground.bounds, one.candidate) for one in records)
        if space == "weights and bits":
            assert len({one.candidate.key() for one in records}) == len(records)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_decisions_give_the_same_state_and_proposals(name: SearcherName) -> None:
    searcher, replayed = (start_search(name, make_ground()) for _ in range(2))
    records = run_search(searcher, 25)

    for record in records:
        replayed.decide(record)

    known = {one.candidate.key() for one in records}
    assert replayed.state == searcher.state
    assert replayed.propose(25, known) == searcher.propose(25, known)


@pytest.mark.parametrize("seed", range(6))
def test_a_budget_is_used_up_to_a_weight_of_each_layer(seed: int) -> None:
    ground = make_ground()

    counts = make_counts(ground.bounds, draw_point(ground.bounds, seed), ground.limits)

    limit = ground.limits["coded_bytes"]
    room = 8 * (limit - count_cost(ground.bounds, counts).coded_bytes)
    # Each layer misses at most one weight with its position, and the sum is whole bytes.
    assert 0 <= room <= len(GRAPH.layers) * (8 + 17) + 8


def test_a_proposal_takes_less_than_50_ms() -> None:
    graph = make_resnet_graph(3)
    bounds = make_bounds(FINE, graph, graph, FULL)
    limits = Budget(coded_bytes=0.02, macs=0.5).limits(CostModel(graph).count_candidate(FULL))
    times = []

    for seed in range(5):
        point = draw_point(bounds, seed)
        start = time.process_time()
        make_candidate(bounds, point, limits)
        times.append(time.process_time() - start)

    assert min(times) < 0.05


def test_counts_survive_logits_and_names() -> None:
    ground = make_ground()
    counts = make_counts(ground.bounds, draw_point(ground.bounds, 3), ground.limits)

    again = round_counts(ground.bounds, read_logits(ground.bounds, counts), 0.0)
    named = read_counts(ground.bounds, name_counts(ground.bounds, counts))

    for field in ("keeps", "columns", "weights", "bits"):
        wanted = getattr(counts, field).tolist()
        assert getattr(again, field).tolist() == getattr(named, field).tolist() == wanted


@pytest.mark.parametrize("share", [0.07, 0.1, 0.3, 0.9])
def test_where_only_bits_can_be_chosen_they_are_moved_by_steps_until_they_fit(
    share: float,
) -> None:
    bounds = make_bounds(ONLY_BITS, GRAPH, GRAPH, FULL)
    limits = Budget(coded_bytes=share).limits(DENSE)

    for place in (0, 3):
        counts = make_counts(bounds, make_flat(bounds, place=place), limits)

        assert count_cost(bounds, counts).coded_bytes <= limits["coded_bytes"]
        for layer in range(len(GRAPH.layers)):
            wider = bounds.fine.find_places(counts.bits)
            wider[layer] += 1
            more = replace(counts, bits=bounds.fine.find_bits(wider))
            if wider[layer] <= bounds.fine.steps[layer]:
                assert count_cost(bounds, more).coded_bytes > limits["coded_bytes"]


def test_an_unreachable_budget_says_what_the_fewest_weights_and_bits_reach() -> None:
    smallest = feasibility_table(ONLY_BITS, GRAPH)["smallest"]
    bounds = make_bounds(ONLY_BITS, GRAPH, GRAPH, FULL)

    with pytest.raises(BudgetError) as error:
        make_counts(bounds, make_flat(bounds), {"coded_bytes": 100.0})

    assert error.value.reachable == smallest.coded_bytes
    assert smallest.coded_bytes < DENSE.coded_bytes / 15


def test_moves_reach_the_weights_and_bits_of_every_layer() -> None:
    ground = make_ground()
    origin = make_origin(ground, read_counts(ground.bounds, make_start(ground, 0)))
    rng = np.random.default_rng(0)
    weights = np.zeros(len(GRAPH.layers), dtype=np.bool_)
    steps = np.zeros(len(GRAPH.layers), dtype=np.int64)

    for _ in range(400):
        moved = move_logits(origin, 1.0, rng)
        weights |= moved.weights != origin.logits.weights
        steps = np.maximum(steps, abs(moved.places - origin.logits.places))
        assert ((moved.places >= 0) & (moved.places <= origin.steps)).all()

    assert weights.all()
    assert (steps == 1).all()


def test_relaxed_densities_are_near_those_of_real_counts() -> None:
    ground = make_ground()
    drafts = [draw_point(ground.bounds, seed) for seed in range(5)]

    relaxed = relax_densities(ground.bounds, drafts, ground.limits)

    groups, layers = len(GRAPH.groups), len(GRAPH.layers)
    assert relaxed.shape == (5, groups + 2 * layers)
    for row, draft in zip(relaxed, drafts, strict=True):
        counts = make_counts(ground.bounds, draft, ground.limits)
        block = ground.bounds.open_weights(counts.keeps, counts.columns)[0]
        real = (counts.weights / block).tolist()
        # Whole filters of narrow layers are a coarse grain: half a logit is what is asked.
        shift = np.log(row[groups + layers :]) - np.log(real)
        assert abs(np.median(shift)) < 0.5


def test_a_later_round_stays_within_the_weights_of_its_base() -> None:
    dense, base = make_small_graph(), make_small_graph((8, 10))
    kept = Candidate(
        filters={"a": 8, "b": 10},
        columns={"a": 20, "b": 36, "fc": 10},
        weights={"a": 80, "b": 90, "fc": 50},
    )
    bounds = make_bounds(FINE, dense, base, kept)

    top = make_candidate(bounds, make_flat(bounds), {"weights": 1e9})
    left_out = make_bounds(SpaceSettings(), dense, base, kept)

    assert top.weights == kept.weights
    # Also a search without that dimension counts what the base still has.
    assert name_counts(left_out, read_counts(left_out, kept)).weights == kept.weights
    assert measure_densities(bounds, kept)["weights/b"] == 90 / (24 * 108)


def test_without_the_new_dimensions_candidates_do_not_mention_them() -> None:
    ground = make_ground(SpaceSettings(), Budget(coded_bytes=0.2))

    candidate = make_start(ground, 0)

    assert candidate.weights == {}
    assert candidate.bits == {}
    names = measure_densities(ground.bounds, candidate)
    assert all(name.startswith(("filters/", "columns/")) for name in names)


def test_densities_and_widths_are_named_where_they_are_chosen() -> None:
    space = replace(FINE, leave_alone=("stem",), layer_bits={"fc": ()})
    ground = make_ground(space)

    candidate = make_start(ground, 0)
    names = measure_densities(ground.bounds, candidate)

    assert "stem" not in {*candidate.weights, *candidate.bits}
    assert "fc" in candidate.weights
    assert "fc" not in candidate.bits
    assert 0 < names["weights/fc"] < 1
    assert names["bits/s0.0.a"] == candidate.bits["s0.0.a"]
    assert "bits/fc" not in names


def test_annealing_beats_a_blind_search_of_weights_and_bits() -> None:
    lowest = {}
    for name in NAMES[:2]:
        searcher = start_search(name, make_ground())
        run_search(searcher, 40)
        assert searcher.best is not None
        lowest[name] = searcher.best.energy

    assert lowest["annealing"] < lowest["random"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": (1, 2)}, "space.bits: want rising widths"),
        ({"bits": (4, 2)}, "space.bits: want rising widths"),
        ({"layer_bits": {"fc": (9,)}}, "space.layer_bits.fc: want rising widths"),
        ({"weight_density": (0.5, 0.2)}, "space.weight_density: want"),
        ({"weights": {"fc": (0.0, 0.0)}}, "space.weights.fc: want"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        replace(SpaceSettings(), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["weights", "layer_bits"])
def test_a_layer_left_alone_cannot_be_asked_for(key: str) -> None:
    value = {"weights": {"fc": (0.1, 1.0)}, "layer_bits": {"fc": (4,)}}[key]
    space = replace(SpaceSettings(leave_alone=("fc",)), **{key: value})  # type: ignore[arg-type]

    with pytest.raises(SettingError, match=f"space.{key}: no 'fc' to choose"):
        make_bounds(space, GRAPH, GRAPH, FULL)


def test_a_written_space_says_what_its_settings_say(tmp_path: Path) -> None:
    settings = replace(FINE, leave_alone=("stem",), weights={"fc": (0.1, 0.5)})
    path = tmp_path / "space.toml"

    write_space(path, GRAPH, settings)
    plain = tmp_path / "plain.toml"
    write_space(plain, GRAPH)

    found = make_bounds(read_space(path), GRAPH, GRAPH, FULL).fine
    wanted = make_bounds(settings, GRAPH, GRAPH, FULL).fine
    for field in ("low", "high", "table", "steps"):
        assert getattr(found, field).tolist() == getattr(wanted, field).tolist()
    assert "[weights]" not in plain.read_text()
