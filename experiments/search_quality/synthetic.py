"""Compare searchers on energies that cost nothing: how the defaults of annealing were chosen.

python experiments/search_quality/synthetic.py [--seeds 8]

The graph is a CIFAR ResNet of 14 layers; each group wants a density of its own and each layer
minds lost columns more or less, by random weights that do not follow the size of the layer. So
the prior cannot help, and only what is learnt from scores can.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna

sys.path.append(str(Path(__file__).parents[2]))

from autocompress.graph.layers import LayerGraph
from autocompress.jobs import Candidate
from autocompress.masks.cost import CostModel
from autocompress.search.anneal import Schedule
from autocompress.search.bounds import make_bounds
from autocompress.search.budget import Budget
from autocompress.search.choose_searcher import make_searcher
from autocompress.search.counts import read_counts
from autocompress.search.guide import Ground
from autocompress.search.records import Record
from autocompress.search.settings import SearchSettings
from autocompress.search.space import SpaceSettings
from tests.fakes import make_resnet_graph

FULL = Candidate(filters={}, columns={})
CASES = ((11, 0.3, 60), (23, 0.3, 24), (23, 0.1, 60), (37, 0.2, 40))  # formula, budget, scores
VARIANTS: dict[str, dict[str, object]] = {
    "prior, hot start": {"drafts": 1, "accept_first": 0.8},
    "prior": {"drafts": 1},
    "guided, hot start": {"accept_first": 0.8},
    "guided": {},
    "tempering": {"chains": 4},
    "random": {"searcher": "random"},
    "tpe": {"searcher": "tpe"},
    "nsga2": {"searcher": "nsga2"},
    "uniform": {"searcher": "uniform"},
}


def make_energy(graph: LayerGraph, seed: int) -> Callable[[Candidate], float]:
    """Return an energy with a best density for each group and a price of each layer's columns."""
    rng = np.random.default_rng(seed)
    wants = {
        group.name: (math.exp(0.7 * rng.normal()), rng.uniform(0.15, 0.9), group.size)
        for group in graph.groups
        if group.prunable
    }
    prices = {layer.name: 0.3 * math.exp(0.7 * rng.normal()) for layer in graph.column_layers}
    model = CostModel(graph)

    def measure(candidate: Candidate) -> float:
        keeps = np.array([candidate.filters.get(one.name, one.size) for one in graph.groups])
        names = [layer.name for layer in graph.layers]
        left = dict(zip(names, model.count_open(keeps).tolist(), strict=True))
        filters = sum(
            weight * abs(math.log(candidate.filters[name] / size / want))
            for name, (weight, want, size) in wants.items()
        )
        columns = sum(
            price * (1 - candidate.columns[name] / left[name]) ** 2
            for name, price in prices.items()
        )
        return float(filters + columns)

    return measure


def search(settings: SearchSettings, case: tuple[int, float], seed: int) -> float:
    """Return the best energy that one search finds."""
    formula, share = case
    graph = make_resnet_graph(2)
    bounds = make_bounds(SpaceSettings(), graph, graph, FULL)
    limits = Budget(weights=share).limits(CostModel(graph).count_candidate(FULL))
    ground = Ground(bounds, limits, read_counts(bounds, FULL), settings.prior)
    measure = make_energy(graph, formula)
    schedule = Schedule(settings=settings, seed=seed, round=0, starts=3, limits=limits)
    searcher, known = make_searcher(schedule, ground), set[str]()
    for index in range(settings.evaluations):
        proposal = searcher.propose(index, known)
        known.add(proposal.candidate.key())
        record = Record(
            seq=index,
            number=index,
            stage="fast",
            round=0,
            chain=proposal.chain,
            index=index,
            candidate=proposal.candidate,
            energy=measure(proposal.candidate),
        )
        searcher.decide(record)
    assert searcher.best is not None
    return searcher.best.energy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=8)
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    heads = [f"energy {formula}, {share:.0%}, {count}" for formula, share, count in CASES]
    print("| searcher |", " | ".join(heads), "|")
    print("|---" * (len(heads) + 1) + "|")
    for name, changes in VARIANTS.items():
        cells = []
        for formula, share, count in CASES:
            settings = SearchSettings(evaluations=count, **changes)  # type: ignore[arg-type]
            found = [search(settings, (formula, share), seed) for seed in range(asked.seeds)]
            error = statistics.stdev(found) / math.sqrt(len(found))
            cells.append(f"{statistics.mean(found):.2f} ± {error:.2f}")
        print(f"| {name} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
