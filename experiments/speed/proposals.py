"""Time feasible proposals for the models of the zoo, from density 0.5 to 0.01: proposals.py."""

import time
from statistics import median

import numpy as np
import torch

from autocompress.errors import BudgetError
from autocompress.graph.trace import trace_graph
from autocompress.masks.mask import count_kept, full_masks
from autocompress.search.bounds import Logits, make_bounds
from autocompress.search.budget import Budget
from autocompress.search.counts import make_candidate
from autocompress.search.space import SpaceSettings
from autocompress.zoo.make import ModelSettings, make_model

SHAPES = {"lenet5": (1, 28, 28), "resnet20": (3, 32, 32), "resnet56": (3, 32, 32)}
SHARES = (0.5, 0.25, 0.1, 0.05, 0.01)
PROPOSALS = 30


def main() -> None:
    """Print one row per model: median and slowest milliseconds per proposal, by MACs kept."""
    print("| model | choices | " + " | ".join(f"{share:g} of MACs" for share in SHARES) + " |")
    print("|---|---|" + "---|" * len(SHARES))
    for name, shape in SHAPES.items():
        model = make_model(ModelSettings(name=name), shape, 10)
        graph = trace_graph(model, torch.zeros(1, *shape))
        kept = count_kept(graph, full_masks(graph))
        bounds = make_bounds(SpaceSettings(), graph, graph, kept)
        dense = bounds.model.count_candidate(kept)
        cells = []
        for share in SHARES:
            limits = Budget(macs=share, params=share).limits(dense)
            seconds = []
            for number in range(PROPOSALS):
                rng = np.random.default_rng(number)
                sizes = len(graph.groups), len(graph.layers)
                logits = Logits(rng.normal(size=sizes[0]), rng.normal(size=sizes[1]))
                start = time.perf_counter()
                try:
                    make_candidate(bounds, logits, limits)
                except BudgetError:
                    seconds = []
                    break
                seconds.append(1000 * (time.perf_counter() - start))
            cells.append(
                f"{median(seconds):.1f} ({max(seconds):.1f})" if seconds else "out of reach"
            )
        choices = len(kept.filters) + len(kept.columns)
        print(f"| {name} | {choices} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
