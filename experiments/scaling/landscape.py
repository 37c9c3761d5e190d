"""An evaluator that trains nothing: a rough formula over the densities of a model of the zoo."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from autocompress.graph.layers import LayerGraph
from autocompress.graph.trace import trace_graph
from autocompress.jobs import Candidate, Job, Outcome
from autocompress.search.bounds import Bounds, make_bounds
from autocompress.search.counts import count_shares, read_counts
from autocompress.search.space import SpaceSettings
from autocompress.zoo.make import ModelSettings, make_model

FULL = Candidate(filters={}, columns={})
NOISE = 0.02  # Standard deviation of a score: it is one short training.


def trace_model(name: str) -> LayerGraph:
    """Return the graph of a model of the zoo for CIFAR-10."""
    model = make_model(ModelSettings(name=name), (3, 32, 32), 10).eval()
    return trace_graph(model, torch.zeros(1, 3, 32, 32))


@dataclass
class Landscape:
    """Scores candidates by how far each density is from a best one of its own.

    Attributes:
        graph: The dense model.
        seed: Of the best densities and of how much each matters.
    """

    graph: LayerGraph
    seed: int = 0
    dense_key: str = "dense"
    dense_metrics: Mapping[str, float] = field(default_factory=lambda: {"val_metric": 0.9})

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        size = len(self.graph.groups), len(self.graph.layers)
        self._bounds: Bounds = make_bounds(SpaceSettings(), self.graph, self.graph, FULL)
        self._wanted = rng.uniform(0.15, 0.9, size[0])
        self._matters = np.exp(0.7 * rng.normal(size=size[0])) / size[0]
        self._prices = 0.3 * np.exp(0.7 * rng.normal(size=size[1])) / size[1]

    def has(self, key: str) -> bool:
        """Return True: there are no models that could be gone."""
        return True

    def describe(self, base: str) -> tuple[LayerGraph, Candidate]:
        """Return the dense graph, whatever the base."""
        return self.graph, FULL

    def run(self, job: Job) -> Outcome:
        """Return the score of the job's candidate."""
        if job.stage != "fast":
            energy = self.measure(job.candidate)
            metrics = {"val_metric": -energy, "weights": 100.0, "seconds": 1.0}
            return Outcome(energy=energy, metrics=metrics, artifact="model")
        energy = self.score(job.candidate)
        return Outcome(energy=energy, metrics={"val_loss": energy, "seconds": 1.0})

    def score(self, candidate: Candidate) -> float:
        """Return the energy of a candidate with the noise that follows from its key."""
        noise = np.random.default_rng(int(candidate.key()[:8], 16)).normal()
        return self.measure(candidate) + NOISE * float(noise)

    def measure(self, candidate: Candidate) -> float:
        """Return the energy of a candidate without noise."""
        kept, shares = count_shares(self._bounds, read_counts(self._bounds, candidate))
        filters = self._matters @ np.abs(np.log(kept / self._wanted))
        return float(filters + self._prices @ np.square(1 - shares))
