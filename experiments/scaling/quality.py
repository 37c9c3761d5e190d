"""What jobs in flight cost a search: the best energy at equal evaluations, by workers and ahead.

    python -m experiments.scaling.quality [--evaluations 300] [--seeds 8]

The searcher alone, without a study: decisions take no time, jobs take lognormal times. Every
proposal that is made while k others fly knows k decisions less than it would in turn.
"""

import argparse
import heapq
import math
import statistics

from autocompress.graph.layers import LayerGraph
from autocompress.masks.cost import CostModel
from autocompress.search.anneal import Schedule
from autocompress.search.bounds import make_bounds
from autocompress.search.budget import Budget
from autocompress.search.choose_searcher import make_searcher
from autocompress.search.counts import read_counts
from autocompress.search.guide import Ground
from autocompress.search.records import Record
from autocompress.search.searcher import Proposal
from autocompress.search.settings import LEAST_PER_CHAIN, MOST_CHAINS, SearchSettings
from autocompress.search.space import SpaceSettings
from experiments.scaling.landscape import FULL, Landscape, trace_model
from experiments.scaling.simulated import draw_lognormal

CASES = ((1, 0), (1, 2), (10, 0), (10, 2), (10, 10), (100, 0), (100, 10), (100, 100))


def search(
    landscape: Landscape, settings: SearchSettings, flying: tuple[int, int], seed: int
) -> float:
    """Return the energy, without noise, of the candidate that scored best."""
    graph, (workers, ahead) = landscape.graph, flying
    bounds = make_bounds(SpaceSettings(), graph, graph, FULL)
    limits = Budget(weights=0.25).limits(CostModel(graph).count_candidate(FULL))
    ground = Ground(bounds, limits, read_counts(bounds, FULL), settings.prior)
    schedule = Schedule(settings=settings, seed=seed, round=0, starts=3, limits=limits)
    searcher, known, times_s = (
        make_searcher(schedule, ground),
        set[str](),
        draw_lognormal(1.0, seed),
    )
    now_s, free_s = 0.0, [0.0] * workers
    pending: list[tuple[float, int, Proposal]] = []
    asked = 0
    for seq in range(settings.evaluations):
        while len(pending) < workers + ahead and asked < settings.evaluations:
            proposal = searcher.propose(asked, known)
            known.add(proposal.candidate.key())
            end_s = max(now_s, heapq.heappop(free_s)) + next(times_s)
            heapq.heappush(free_s, end_s)
            heapq.heappush(pending, (end_s, asked, proposal))
            asked += 1
        now_s, index, proposal = heapq.heappop(pending)
        searcher.decide(
            Record(
                seq=seq,
                number=index,
                stage="fast",
                round=0,
                chain=proposal.chain,
                index=index,
                candidate=proposal.candidate,
                energy=landscape.score(proposal.candidate),
            )
        )
    assert searcher.best is not None
    return landscape.measure(searcher.best.candidate)


def describe(
    graph: LayerGraph, settings: SearchSettings, flying: tuple[int, int], seeds: int
) -> str:
    """Return the mean over seeds and its standard error."""
    found = [search(Landscape(graph), settings, flying, seed) for seed in range(seeds)]
    error = statistics.stdev(found) / math.sqrt(len(found))
    return f"{statistics.mean(found):.3f} ± {error:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--model", default="resnet20", help="of the zoo, for CIFAR-10")
    asked = parser.parse_args()
    graph, count = trace_model(asked.model), asked.evaluations
    print("| workers | ahead | one chain | chains by default | random |\n|---|---|---|---|---|")
    random = SearchSettings(evaluations=count, searcher="random")
    for workers, ahead in CASES:
        chains = max(1, min(MOST_CHAINS, count // LEAST_PER_CHAIN, workers))
        cells = [
            describe(
                graph, SearchSettings(evaluations=count, chains=1), (workers, ahead), asked.seeds
            ),
            f"{chains}: "
            + describe(
                graph,
                SearchSettings(evaluations=count, chains=chains),
                (workers, ahead),
                asked.seeds,
            )
            if chains > 1
            else "1",
            describe(graph, random, (workers, ahead), asked.seeds) if workers == 1 else "",
        ]
        print(f"| {workers} | {ahead} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
