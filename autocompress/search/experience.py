"""What the scored candidates of a round say about candidates that were not scored yet.

A Gaussian process over logits of densities: a linear part for layers that matter by themselves,
a radial part for all else, and noise, since a score is one short training. Which of them holds
is decided by the likelihood of the scores.
"""

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import NormalDist

import numpy as np

from autocompress.jobs import Candidate
from autocompress.search.bounds import Fine, Floats, Ints, Logits
from autocompress.search.counts import count_shares, read_counts
from autocompress.search.guide import Ground
from autocompress.search.relax import relax_densities

LEAST = 5  # Scores before anything is concluded.
MOST_BEST, MOST_LATEST = 40, 80  # A thousand scores say little more of where a chain stands.
REACH = 5.0  # Densities beyond odds of 150 to 1 are alike.
LENGTHS, LINEAR, NOISES = (1.0, 2.5), (0.0, 1.0), (0.02, 0.1, 0.4)
OPTIMISM = 0.5  # Standard deviations by which what is unknown is taken for better.


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A fitted Gaussian process.

    Attributes:
        points: Shape (scores, axes); standardised.
        centre: Shape (axes,).
        spread: Of the points, one number for all axes.
        factor: Lower Cholesky factor of the covariance of the scores.
        pulls: Shape (scores,); the mean at a point is its covariances times these.
        length: Of the radial part.
        linear: Weight of the linear part.
        scale: Variance of the process.
    """

    points: Floats
    centre: Floats
    spread: float
    factor: Floats
    pulls: Floats
    length: float
    linear: float
    scale: float

    def promise(self, points: Floats) -> Floats:
        """Return an optimistic score of each point, less is better; only the order counts.

        Args:
            points: Shape (candidates, axes).
        """
        near = (points - self.centre) / self.spread
        cross = _correlate(near, self.points, self.length, self.linear)
        solved = np.linalg.solve(self.factor, cross.T)
        own = 1.0 + self.linear * np.square(near).mean(axis=1)
        unknown = np.sqrt(self.scale * np.maximum(own - np.square(solved).sum(axis=0), 0.0))
        promised: Floats = cross @ self.pulls - OPTIMISM * unknown
        return promised


@dataclass(frozen=True, order=True)
class Scored:
    """A scored candidate as the surrogate sees it.

    Attributes:
        energy: Its score, finite.
        place: Its place in the order of decisions.
        point: Logits of its densities.
    """

    energy: float
    place: int
    point: tuple[float, ...]


@dataclass(frozen=True)
class Memory:
    """The best and the latest scores of a round.

    Attributes:
        count: Scores taken up.
        best: The best, best first.
        latest: The latest, oldest first.
    """

    count: int = 0
    best: tuple[Scored, ...] = ()
    latest: tuple[Scored, ...] = ()

    def add(self, point: tuple[float, ...], energy: float) -> "Memory":
        """Return a memory with one more score."""
        scored = Scored(energy=energy, place=self.count, point=point)
        best = [*self.best]
        insort(best, scored)
        return Memory(
            count=self.count + 1,
            best=tuple(best[:MOST_BEST]),
            latest=(*self.latest, scored)[-MOST_LATEST:],
        )

    @property
    def scored(self) -> list[Scored]:
        """Return what is remembered, in the order of decisions."""
        return sorted({*self.best, *self.latest}, key=lambda one: one.place)


def read_point(ground: Ground, candidate: Candidate) -> tuple[float, ...]:
    """Return the logits of a candidate's densities: groups, columns, weights; then its bits.

    Only layers with a choice of weights or of bits are among the last two.
    """
    bounds, fine = ground.bounds, ground.bounds.fine
    counts = read_counts(bounds, candidate)
    densities = counts.weights / bounds.open_weights(counts.keeps, counts.columns)[0]
    shares = [*count_shares(bounds, counts), densities[fine.free_weights]]
    steps = _centre_places(fine.find_places(counts.bits), fine)
    return (*_clip_logits(np.concatenate(shares)).tolist(), *steps.tolist())


def fit_surrogate(memory: Memory) -> Surrogate | None:
    """Return what the scores teach; None while they are too few or all alike."""
    chosen = memory.scored
    if len(chosen) < LEAST:
        return None
    points = np.array([one.point for one in chosen])
    energies = np.array([one.energy for one in chosen], dtype=np.float64)
    centre, spread = points.mean(axis=0), float(points.std(axis=0).mean())
    if not (np.ptp(energies) > 0 and spread > 0):
        return None
    points = (points - centre) / spread
    scores = _spread_ranks(energies)
    fits = []
    for length, linear in product(LENGTHS, LINEAR):
        alike = _correlate(points, points, length, linear)
        for noise in NOISES:
            factor = np.linalg.cholesky(alike + noise * np.eye(len(scores)))
            pulls = np.linalg.solve(factor.T, np.linalg.solve(factor, scores))
            scale = max(float(scores @ pulls) / len(scores), 1e-12)
            surprise = 0.5 * len(scores) * math.log(scale) + np.log(np.diag(factor)).sum()
            fits.append((float(surprise), length, linear, scale, factor, pulls))
    _, length, linear, scale, factor, pulls = min(fits, key=lambda fit: fit[0])
    return Surrogate(
        points=points,
        centre=centre,
        spread=spread,
        factor=np.asarray(factor, dtype=np.float64),
        pulls=np.asarray(pulls, dtype=np.float64),
        length=length,
        linear=linear,
        scale=scale,
    )


def rank_drafts(
    surrogate: Surrogate, ground: Ground, drafts: Sequence[Logits], limits: dict[str, float]
) -> list[int]:
    """Return the places of ``drafts`` in the order of what they promise, the best first.

    Args:
        surrogate: What was learnt.
        ground: Where the round searches.
        drafts: Points that use up ``limits`` once they are shifted.
        limits: Most units of each resource.
    """
    fine = ground.bounds.fine
    densities = _clip_logits(relax_densities(ground.bounds, drafts, limits))
    steps = np.array([_centre_places(one.places, fine) for one in drafts])
    points = np.concatenate([densities, steps], axis=1)
    order: list[int] = np.argsort(surrogate.promise(points), kind="stable").tolist()
    return order


def _centre_places(places: Ints, fine: Fine) -> Floats:
    """Return the places of bit widths that can be chosen, 0 in the middle: a step is a logit."""
    free = fine.free_bits
    centred: Floats = places[free] - fine.steps[free] / 2
    return centred


def _spread_ranks(energies: Floats) -> Floats:
    """Return normal scores: losses at chance are no further away than their order says."""
    _, places, counts = np.unique(energies, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2 - 0.5  # Equal energies share their mean rank.
    normal = NormalDist()
    return np.array([normal.inv_cdf(rank / len(energies)) for rank in ranks[places]])


def _correlate(one: Floats, other: Floats, length: float, linear: float) -> Floats:
    """Return the covariances of two sets of points, for a process of variance 1."""
    axes = one.shape[1]
    products = one @ other.T
    squares = np.square(one).sum(axis=1)[:, None] + np.square(other).sum(axis=1) - 2 * products
    radial = np.exp(-np.maximum(squares, 0.0) / axes / (2 * length**2))
    correlated: Floats = radial + linear * products / axes
    return correlated


def _clip_logits(shares: Floats) -> Floats:
    inside = np.clip(shares, 1e-9, 1 - 1e-9)
    logits: Floats = np.clip(np.log(inside / (1 - inside)), -REACH, REACH)
    return logits
