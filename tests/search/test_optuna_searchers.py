import logging
import math
from collections.abc import Iterator

import numpy as np
import pytest

from autocompress.jobs import Candidate
from autocompress.masks.cost import CostModel
from autocompress.pareto import find_front
from autocompress.search.anneal import Schedule
from autocompress.search.axes import REACH, Sample, make_axes
from autocompress.search.bounds import FULL as ALL_COLUMNS
from autocompress.search.bounds import Logits, make_bounds
from autocompress.search.budget import Budget
from autocompress.search.counts import make_candidate, read_counts
from autocompress.search.guide import Ground
from autocompress.search.optuna_searchers import (
    ELITE,
    RECENT,
    Nsga2Search,
    TpeSearch,
    drop_worst,
)
from autocompress.search.records import Record
from autocompress.search.settings import SearchSettings
from autocompress.search.space import SpaceSettings
from tests.fakes import make_resnet_graph, make_small_graph

FULL = Candidate(filters={}, columns={})
POPULATION = 10


def make_ground(*, large: bool = True, share: float = 0.3) -> Ground:
    graph = make_resnet_graph(1) if large else make_small_graph()
    bounds = make_bounds(SpaceSettings(), graph, graph, FULL)
    limits = Budget(weights=share).limits(CostModel(graph).count_candidate(FULL))
    return Ground(bounds, limits, read_counts(bounds, FULL), 0.3)


def make_schedule(settings: SearchSettings | None = None) -> Schedule:
    settings = settings or SearchSettings(evaluations=4 * POPULATION)
    return Schedule(settings=settings, seed=0, round=0, starts=3)


def make_record(seq: int, candidate: Candidate, energy: float) -> Record:
    return Record(
        seq=seq, number=seq, stage="fast", round=0, index=seq, candidate=candidate, energy=energy
    )


def draw_candidates(ground: Ground, number: int, spread: float = 0.6) -> Iterator[Candidate]:
    """Draw points of which none is near the border of the axes."""
    rng = np.random.default_rng(0)
    graph = ground.bounds.graph
    for _ in range(number):
        filters = rng.normal(scale=spread, size=len(graph.groups))
        columns = rng.normal(scale=spread, size=len(graph.layers))
        yield make_candidate(ground.bounds, Logits(filters, columns), ground.limits)


def count_full(ground: Ground, candidate: Candidate) -> float:
    """Return the share of layers that keep all columns."""
    counts = read_counts(ground.bounds, candidate)
    return float(np.mean(counts.columns == ground.bounds.model.count_open(counts.keeps)))


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_what_is_read_from_a_candidate_gives_it_back(share: float) -> None:
    ground = make_ground(share=share)
    axes = make_axes(ground, 1.5, ())

    for seq, candidate in enumerate(draw_candidates(ground, 20)):
        sample = axes.read_sample(make_record(seq, candidate, 1.0))
        again = axes.make_candidate(sample.params)

        # The filling of the budget may put its last filters and columns elsewhere.
        for name, keep in candidate.filters.items():
            assert abs(again.filters[name] - keep) <= 2
        densities = [again.columns[name] / count for name, count in candidate.columns.items()]
        assert min(densities) > 0.8
        assert max(densities) < 1.25


def test_a_layer_with_all_columns_is_read_as_such() -> None:
    ground = make_ground()
    axes = make_axes(ground, 1.5, ())
    graph = ground.bounds.graph
    columns = np.zeros(len(graph.layers))
    columns[2] = ALL_COLUMNS
    logits = Logits(np.zeros(len(graph.groups)), columns)
    candidate = make_candidate(ground.bounds, logits, ground.limits)

    params = axes.read_sample(make_record(0, candidate, 1.0)).params

    upper = [name for name, value in params.items() if value == REACH]
    assert upper == [f"columns/{graph.layers[2].name}"]


def test_only_what_can_be_chosen_has_an_axis() -> None:
    graph = make_resnet_graph(1)
    space = SpaceSettings(leave_alone=("s1.0.a",), columns={"fc": (1.0, 1.0)})
    bounds = make_bounds(space, graph, graph, FULL)
    limits = Budget(weights=0.6).limits(CostModel(graph).count_candidate(FULL))
    ground = Ground(bounds, limits, read_counts(bounds, FULL), 0.3)

    names = set(make_axes(ground, 1.5, ()).names)

    groups = {f"filters/{group.name}" for group in graph.groups}
    layers = {f"columns/{layer.name}" for layer in graph.layers}
    fixed = {"filters/out", "filters/s1.0.a", "columns/s1.0.a", "columns/fc"}
    assert names == (groups | layers) - fixed
    assert {*make_axes(ground, 1.5, ("macs",)).names} - names == {"fill"}


def test_parents_are_the_best_of_all_that_was_decided() -> None:
    ground = make_ground(large=False)
    searcher = Nsga2Search(make_schedule(), ground)
    rng = np.random.default_rng(0)
    energies: list[float] = []

    for seq, candidate in enumerate(draw_candidates(ground, 4 * POPULATION)):
        energies.append(float(rng.normal()))
        searcher.decide(make_record(seq, candidate, energies[-1]))
        complete = energies[: len(energies) // POPULATION * POPULATION]

        parents = sorted(sample.values[0] for sample in searcher.state.parents)

        assert parents == sorted(complete)[:POPULATION]


def test_children_have_what_all_parents_have() -> None:
    ground = make_ground()
    searcher = Nsga2Search(make_schedule(), ground)
    graph = ground.bounds.graph
    rng = np.random.default_rng(0)
    for seq in range(POPULATION):
        filters = rng.normal(size=len(graph.groups))
        logits = Logits(filters, np.full(len(graph.layers), ALL_COLUMNS))
        candidate = make_candidate(ground.bounds, logits, ground.limits)
        searcher.decide(make_record(seq, candidate, float(seq)))

    children = [searcher.propose(index, set()).candidate for index in range(20)]

    # One of 14 densities mutates on average; random search keeps all columns of 4 in 10 layers.
    assert np.mean([count_full(ground, child) for child in children]) > 0.9
    assert len({child.key() for child in children}) > 15


def test_failures_do_not_belong_to_a_generation() -> None:
    ground = make_ground(large=False)
    plain, failing = (Nsga2Search(make_schedule(), ground) for _ in range(2))

    for seq, candidate in enumerate(draw_candidates(ground, 25)):
        plain.decide(make_record(seq, candidate, 1.0 / (1 + seq)))
        failing.decide(make_record(seq, candidate, 1.0 / (1 + seq)))
        failing.decide(make_record(seq, candidate, math.nan))

    assert plain.state == failing.state


def test_tpe_is_shown_the_latest_and_the_best_of_all_earlier() -> None:
    ground = make_ground(large=False)
    searcher = TpeSearch(make_schedule(), ground)
    candidates = list(draw_candidates(ground, 20))
    rng = np.random.default_rng(0)
    energies = rng.normal(size=ELITE + RECENT + 60).tolist()

    for seq, energy in enumerate(energies):
        searcher.decide(make_record(seq, candidates[seq % 20], energy))

    assert [one.values[0] for one in searcher.state.recent] == energies[-RECENT:]
    elite = sorted(one.values[0] for one in searcher.state.elite)
    assert elite == sorted(energies[:-RECENT])[:ELITE]


def test_tpe_goes_where_the_energy_is_low() -> None:
    ground = make_ground()
    searcher = TpeSearch(make_schedule(), ground)
    layer = "s2.0.b"
    widths = {one.name: one.columns for one in ground.bounds.graph.layers}
    shares = []
    for seq, candidate in enumerate(draw_candidates(ground, 60, spread=1.5)):
        shares.append(candidate.columns[layer] / widths[layer])
        searcher.decide(make_record(seq, candidate, shares[-1]))

    proposed = [
        searcher.propose(index, set()).candidate.columns[layer] / widths[layer]
        for index in range(60, 72)
    ]

    assert np.mean(proposed) < 0.6 * np.mean(shares)


def test_the_worst_is_what_most_others_dominate() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 2))
    samples = tuple(Sample({}, (one, other)) for one, other in values.tolist())
    front = [samples[place] for place in np.flatnonzero(find_front(values)).tolist()]

    kept = drop_worst(samples, 20)

    assert len(kept) == 20
    assert all(one in kept for one in front)
    assert list(kept) == [one for one in samples if one in kept]


@pytest.mark.parametrize("kind", [TpeSearch, Nsga2Search])
def test_sizes_are_traded_against_the_energy(kind: type[TpeSearch] | type[Nsga2Search]) -> None:
    ground = make_ground()
    settings = SearchSettings(evaluations=40, objectives=("energy", "weights"))
    searcher = kind(make_schedule(settings), ground)
    costs = CostModel(ground.bounds.graph)
    weights = []

    for index in range(60):
        candidate = searcher.propose(index, set()).candidate
        weights.append(costs.count_candidate(candidate).list_known()["weights"])
        searcher.decide(make_record(index, candidate, 1e4 / weights[-1]))

    # Every size is on the front, so a search that sees both objectives gives none of them up.
    late = np.array(weights[30:]) / ground.limits["weights"]
    assert late.min() < 0.5
    assert late.max() > 0.6


@pytest.mark.parametrize("kind", [TpeSearch, Nsga2Search])
def test_proposals_log_nothing(
    kind: type[TpeSearch] | type[Nsga2Search], caplog: pytest.LogCaptureFixture
) -> None:
    ground = make_ground(large=False)
    with caplog.at_level(logging.INFO):
        searcher = kind(make_schedule(), ground)
        caplog.clear()

        for seq, candidate in enumerate(draw_candidates(ground, 12)):
            searcher.propose(seq, set())
            searcher.decide(make_record(seq, candidate, 1.0))

    assert caplog.records == []
