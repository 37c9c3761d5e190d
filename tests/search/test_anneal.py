import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from autocompress.errors import SettingError, StudyError
from autocompress.jobs import Candidate
from autocompress.masks.cost import CostModel
from autocompress.search.anneal import (
    Ladder,
    Purpose,
    Schedule,
    decide,
    draw,
    fold,
    measure_change,
    measure_step,
    measure_temperature,
)
from autocompress.search.bounds import Logits, make_bounds
from autocompress.search.budget import Budget
from autocompress.search.counts import make_candidate, read_counts
from autocompress.search.guide import Ground, count_starts, make_start, measure_weight
from autocompress.search.ladder import Annealing
from autocompress.search.records import Record, order_records
from autocompress.search.settings import SearchSettings
from autocompress.search.space import SpaceSettings
from tests.fakes import make_resnet_graph, make_small_graph

FULL = Candidate(filters={}, columns={})


def make_ground(*, prior: float = 0.3, share: float = 0.4, large: bool = False) -> Ground:
    graph = make_resnet_graph(2) if large else make_small_graph()
    bounds = make_bounds(SpaceSettings(), graph, graph, FULL)
    limits = Budget(weights=share).limits(CostModel(graph).count_candidate(FULL))
    return Ground(bounds, limits, read_counts(bounds, FULL), prior)


def make_record(seq: int, candidate: Candidate, energy: float, chain: int = 0) -> Record:
    return Record(
        seq=seq,
        number=seq,
        stage="fast",
        round=0,
        chain=chain,
        index=seq,
        candidate=candidate,
        energy=energy,
    )


def score(candidate: Candidate) -> float:
    loss = abs(math.log(candidate.filters["a"] / 7)) + abs(math.log(candidate.filters["b"] / 8))
    return loss + sum(0.1 * (1 - count / 108) ** 2 for count in candidate.columns.values())


def hash_low(candidate: Candidate) -> float:
    return int(candidate.key()[:6], 16) / 16**6


def run_walk(
    schedule: Schedule, ground: Ground, energy: Callable[[Candidate], float]
) -> tuple[list[Record], Ladder]:
    records: list[Record] = []
    searcher, known = Annealing(schedule, ground), set[str]()
    for index in range(schedule.settings.evaluations):
        proposal = searcher.propose(index, known)
        record = make_record(index, proposal.candidate, energy(proposal.candidate), proposal.chain)
        known.add(proposal.candidate.key())
        searcher.decide(record)
        records.append(record)
    return records, searcher.state[0]


def make_schedule(evaluations: int = 60, seed: int = 0, chains: int = 1) -> Schedule:
    settings = SearchSettings(evaluations=evaluations, chains=chains)
    return Schedule(settings=settings, seed=seed, round=0, starts=3)


@pytest.mark.parametrize("factor", [100.0, 0.01])
def test_the_walk_does_not_depend_on_the_scale_of_the_energy(factor: float) -> None:
    schedule, ground = make_schedule(), make_ground()

    records, walk = run_walk(schedule, ground, score)
    scaled, scaled_walk = run_walk(schedule, ground, lambda one: factor * score(one))

    assert [one.candidate for one in records] == [one.candidate for one in scaled]
    assert (walk.accepted, walk.moves) == (scaled_walk.accepted, scaled_walk.moves)


def test_folding_the_records_gives_the_walk() -> None:
    schedule = make_schedule()
    records, walk = run_walk(schedule, make_ground(), score)

    assert fold(schedule, records) == walk


def test_each_rung_is_hotter_than_the_one_below() -> None:
    schedule = make_schedule(chains=3)
    records, ladder = run_walk(schedule, make_ground(), score)

    heats = [measure_temperature(schedule, ladder, chain) or 0.0 for chain in range(3)]

    assert heats[2] / heats[0] == pytest.approx(schedule.settings.ladder)
    assert heats[0] < heats[1] < heats[2]
    assert [record.chain for record in records[:4]] == [0, 1, 2, 0]


def test_chains_stand_at_decided_candidates_and_change_places() -> None:
    swaps = 0
    for seed in range(4):
        schedule = make_schedule(seed=seed, chains=4)
        records, ladder = run_walk(schedule, make_ground(large=True), hash_low)

        assert len(ladder.currents) == 4
        assert all(one in records for one in ladder.currents)
        assert fold(schedule, records) == ladder
        swaps += ladder.swaps

    assert swaps > 0


def test_a_cold_chain_that_is_worse_always_changes_places_with_a_hot_one() -> None:
    schedule = make_schedule(chains=2)
    candidate = make_start(make_ground(), 0)
    warm = [make_record(seq, candidate, 1.0 + 0.1 * (seq % 2)) for seq in range(9)]
    ladder = fold(schedule, warm)

    better = decide(schedule, ladder, make_record(9, candidate, 0.5, chain=1))

    assert better.swaps == 1
    assert better.currents[0].energy == 0.5


def test_a_resource_among_the_objectives_is_worth_its_trade() -> None:
    settings = SearchSettings(objectives=("energy", "macs"), trade=2.0)
    schedule = Schedule(settings=settings, seed=0, round=0, starts=3)
    candidate = make_start(make_ground(), 0)
    ladder = fold(schedule, [make_record(seq, candidate, 1.0 + seq) for seq in range(9)])
    big, small = (
        replace(make_record(9, candidate, 5.0), metrics={"macs": macs}) for macs in (8.0, 2.0)
    )

    typical = 4.5  # Four probes find 4, 5, 6 and 7 where the chain stands at 1.

    assert measure_change(schedule, ladder, big, small) == pytest.approx(-2 * 2.0 * typical)


def test_an_excess_over_a_limit_is_penalised() -> None:
    schedule = replace(make_schedule(), limits={"macs": 100.0})
    candidate = make_start(make_ground(), 0)
    ladder = fold(schedule, [make_record(seq, candidate, 1.0 + seq) for seq in range(9)])
    within, beyond = (
        replace(make_record(9, candidate, 5.0), metrics={"macs": macs}) for macs in (90.0, 150.0)
    )

    assert measure_change(schedule, ladder, within, beyond) > 0
    assert measure_change(schedule, ladder, beyond, within) < 0


def test_the_same_seed_gives_the_same_walk_and_another_one_another() -> None:
    ground = make_ground()

    first, _ = run_walk(make_schedule(30), ground, score)
    again, _ = run_walk(make_schedule(30), ground, score)
    other, _ = run_walk(make_schedule(30, seed=1), ground, score)

    assert [one.candidate for one in first] == [one.candidate for one in again]
    assert [one.candidate for one in first] != [one.candidate for one in other]


def test_a_typical_bad_move_is_accepted_as_the_settings_say() -> None:
    schedule = make_schedule(60)
    candidate = make_start(make_ground(), 0)
    records = [make_record(0, candidate, 1.0)]
    records += [make_record(seq, candidate, 1.5) for seq in range(1, 9)]
    walk = fold(schedule, records)

    first = measure_temperature(schedule, walk)
    for seq in range(9, 59):
        walk = decide(schedule, walk, make_record(seq, candidate, math.nan))
    last = measure_temperature(schedule, walk)

    assert first is not None
    assert last is not None
    assert math.exp(-0.5 / first) == pytest.approx(schedule.settings.accept_first)
    smaller = schedule.settings.last_step / schedule.settings.step
    assert math.exp(-0.5 * smaller / last) == pytest.approx(0.01)
    assert measure_step(schedule, walk) == pytest.approx(schedule.settings.last_step)


def test_equal_energies_and_failures_do_not_stop_the_walk() -> None:
    schedule = make_schedule(40)

    _, flat = run_walk(schedule, make_ground(), lambda one: 0.0)
    _, failed = run_walk(schedule, make_ground(), lambda one: math.nan)

    assert flat.decided == 40
    assert flat.currents
    assert failed.currents == ()


def test_better_moves_are_accepted_and_the_best_is_remembered() -> None:
    schedule = make_schedule()
    records, walk = run_walk(schedule, make_ground(), score)

    assert walk.best is not None
    assert walk.best.energy == min(record.energy for record in records)
    assert 0 < walk.accepted < walk.moves


def test_annealing_beats_the_starting_points_and_random_search() -> None:
    ground = make_ground(large=True, share=0.2)
    rng = np.random.default_rng(5)
    groups, layers = len(ground.bounds.graph.groups), len(ground.bounds.graph.layers)
    by_group, by_layer = np.exp(rng.normal(size=groups)), np.exp(rng.normal(size=layers))

    def lose(candidate: Candidate) -> float:
        counts = read_counts(ground.bounds, candidate)
        filters = 1 - counts.keeps / ground.bounds.dense_sizes
        columns = 1 - counts.columns / ground.bounds.model.count_open(counts.keeps)
        return float(by_group @ filters**2 + 0.5 * by_layer @ columns**2)

    records, walk = run_walk(make_schedule(80), ground, lose)
    points = [Logits(rng.normal(size=groups), rng.normal(size=layers)) for _ in range(80)]
    guesses = [lose(make_candidate(ground.bounds, one, ground.limits)) for one in points]

    assert walk.best is not None
    assert walk.best.energy < 0.8 * min(record.energy for record in records[:3])
    assert walk.best.energy < 0.9 * min(guesses)


def test_candidates_are_not_repeated_while_others_are_found() -> None:
    records, _ = run_walk(
        make_schedule(60), make_ground(large=True), lambda one: one.key()[0] < "8"
    )

    assert len({record.candidate.key() for record in records}) == 60


def test_the_prior_starts_larger_layers_lower_but_is_no_order() -> None:
    ground = make_ground(large=True)
    sizes, _ = measure_weight(ground, ground.base)
    densities = {}
    for name, index in (("flat", 0), ("prior", 1)):
        counts = read_counts(ground.bounds, make_start(ground, index))
        densities[name] = counts.keeps / ground.bounds.dense_sizes
    movable = ground.bounds.keeps_low < ground.bounds.keeps_high

    assert np.corrcoef(sizes[movable], densities["prior"][movable])[0, 1] < -0.8
    assert np.ptp(densities["flat"][movable]) < 0.1
    records, _ = run_walk(
        make_schedule(60), ground, lambda one: -one.filters["s2.0.a"] / one.filters["s0.0.a"]
    )
    best = min(records, key=lambda record: record.energy).candidate
    assert best.filters["s2.0.a"] / 64 > best.filters["s0.0.a"] / 16


def test_a_later_round_also_starts_from_what_its_base_keeps() -> None:
    dense, base = make_small_graph(), make_small_graph((11, 5))
    kept = Candidate(filters={"a": 11, "b": 5}, columns={"a": 27, "b": 99, "fc": 5})
    bounds = make_bounds(SpaceSettings(), dense, base, kept)
    ground = Ground(bounds, {"weights": 300.0}, read_counts(bounds, kept), 0.3)

    assert count_starts(ground, 40) == 4
    assert count_starts(ground, 2) == 2
    assert count_starts(make_ground(), 40) == 3
    assert make_start(ground, 3).filters["a"] > make_start(ground, 3).filters["b"]


def test_streams_differ_by_purpose_round_chain_and_index() -> None:
    schedule = make_schedule()
    other = Schedule(settings=schedule.settings, seed=0, round=1, starts=3)
    chain = make_schedule(chains=2)
    streams = [
        draw(schedule, 0, Purpose.MOVE),
        draw(schedule, 0, Purpose.ACCEPT),
        draw(schedule, 1, Purpose.MOVE),
        draw(schedule, 3, Purpose.MOVE),
        draw(other, 0, Purpose.MOVE),
        draw(chain, 3, Purpose.MOVE),
    ]

    assert len({stream.random() for stream in streams}) == 6


def test_a_missing_decision_is_an_error() -> None:
    candidate = make_start(make_ground(), 0)

    with pytest.raises(StudyError, match="decision 1 is missing, found 2"):
        order_records([make_record(2, candidate, 1.0), make_record(0, candidate, 1.0)])


@pytest.mark.parametrize(
    "wrong", [{"evaluations": 0}, {"prior": -1.0}, {"accept_last": 0.9}, {"last_step": 2.0}]
)
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError, match=r"search\."):
        SearchSettings(**wrong)  # type: ignore[arg-type]
