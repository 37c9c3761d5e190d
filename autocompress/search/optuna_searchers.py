"""Optuna's TPE and NSGA-II behind the interface of a searcher.

Optuna's samplers read a study. Each proposal builds one in memory from what was decided, so
nothing has to be kept in step and a proposal follows from the decisions and its index alone.
"""

import copy
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import numpy as np
import optuna
from optuna.samplers import NSGAIISampler, TPESampler
from optuna.trial import TrialState, create_trial

from autocompress.jobs import Candidate
from autocompress.search.anneal import Purpose, Schedule, draw
from autocompress.search.axes import Axes, Sample, make_axes
from autocompress.search.baselines import find_unknown, is_better
from autocompress.search.guide import Ground
from autocompress.search.records import Record
from autocompress.search.searcher import Decision, Proposal

RECENT = 200  # What TPE is shown: these, and the best of all earlier ones. Its model of good
ELITE = 50  # points has 25 at most, so it is the same as that of the whole history.
FEWEST, MOST = 8, 50  # Population of NSGA-II; 50 is Optuna's own.

# Where Optuna's genetic samplers keep the generation of a trial: it has no public name, and
# without it each new study would begin with a random generation.
GENERATION = "NSGAIISampler:generation"


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What TPE knows.

    Attributes:
        best: The lowest energy so far.
        elite: The best of what is no longer recent.
        recent: The latest successes, in the order of decisions.
    """

    best: Record | None = None
    elite: tuple[Sample, ...] = ()
    recent: tuple[Sample, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Population:
    """Where NSGA-II stands.

    Attributes:
        best: The lowest energy so far.
        parents: The elite of all complete generations; empty during the first.
        members: Successes of the current generation, in the order of decisions.
    """

    best: Record | None = None
    parents: tuple[Sample, ...] = ()
    members: tuple[Sample, ...] = ()


class TpeSearch:
    """Multivariate TPE; the first ten successes are those of random search."""

    def __init__(self, schedule: Schedule, ground: Ground) -> None:
        self._schedule = schedule
        self._axes = make_axes(ground, schedule.settings.step, schedule.settings.resources)
        self._blank = make_study(self._axes)
        self._memory = Memory()

    @property
    def state(self) -> Memory:
        """Return the successes that TPE learns from."""
        return self._memory

    @property
    def best(self) -> Record | None:
        """Return the record of lowest energy; None before the first success."""
        return self._memory.best

    @property
    def accepted_share(self) -> float | None:
        """Return None: nothing is annealed."""
        return None

    def propose(self, index: int, known: Collection[str]) -> Proposal:
        """Return a point that TPE expects to be good; see :class:`Searcher`."""
        rng = draw(self._schedule, index, Purpose.MOVE)
        axes, memory = self._axes, self._memory
        study = fill_study(self._blank, axes, memory.elite + memory.recent)
        sampler = TPESampler(seed=_draw_seed(rng), multivariate=True, constant_liar=False)
        trial = create_trial(state=TrialState.WAITING)

        def sample_candidate(_: int) -> Candidate:
            params = sampler.sample_relative(study, trial, axes.space)
            return axes.make_candidate(axes.draw_params(rng) | params)

        return Proposal(candidate=find_unknown(sample_candidate, known))

    def decide(self, record: Record) -> Decision:
        """Take up the next decided evaluation; see :class:`Searcher`."""
        if not np.isfinite(record.energy):
            return Decision(accepted=False)
        memory = self._memory
        accepted = is_better(record, memory.best)
        recent, elite = (*memory.recent, self._axes.read_sample(record)), memory.elite
        if len(recent) > RECENT:
            recent, elite = recent[1:], drop_worst((*elite, recent[0]), ELITE)
        best = record if accepted else memory.best
        self._memory = Memory(best=best, elite=elite, recent=recent)
        return Decision(accepted=accepted)


class Nsga2Search:
    """NSGA-II; the first generation and mutated densities are drawn as in random search.

    A generation is a fixed number of successes, in the order of decisions: a quarter of the
    evaluations, 8 at least and 50 at most.
    """

    def __init__(self, schedule: Schedule, ground: Ground) -> None:
        self._schedule = schedule
        self._axes = make_axes(ground, schedule.settings.step, schedule.settings.resources)
        self._blank = make_study(self._axes)
        self._size = max(FEWEST, min(MOST, schedule.settings.evaluations // 4))
        self._population = Population()

    @property
    def state(self) -> Population:
        """Return the parents and the current generation."""
        return self._population

    @property
    def best(self) -> Record | None:
        """Return the record of lowest energy; None before the first success."""
        return self._population.best

    @property
    def accepted_share(self) -> float | None:
        """Return None: nothing is annealed."""
        return None

    def propose(self, index: int, known: Collection[str]) -> Proposal:
        """Return a child of two parents; see :class:`Searcher`."""
        rng = draw(self._schedule, index, Purpose.MOVE)
        axes = self._axes
        study = fill_study(self._blank, axes, self._population.parents)
        sampler = NSGAIISampler(population_size=self._size, seed=_draw_seed(rng))
        trial = create_trial(state=TrialState.WAITING, system_attrs={GENERATION: 1})

        def breed_candidate(_: int) -> Candidate:
            params = sampler.sample_relative(study, trial, axes.space)
            return axes.make_candidate(axes.draw_params(rng) | params)

        return Proposal(candidate=find_unknown(breed_candidate, known))

    def decide(self, record: Record) -> Decision:
        """Take up the next decided evaluation; see :class:`Searcher`."""
        if not np.isfinite(record.energy):
            return Decision(accepted=False)
        population = self._population
        accepted = is_better(record, population.best)
        parents = population.parents
        members = (*population.members, self._axes.read_sample(record))
        if len(members) == self._size:
            parents, members = self._select(parents + members), ()
        best = record if accepted else population.best
        self._population = replace(population, best=best, parents=parents, members=members)
        return Decision(accepted=accepted)

    def _select(self, samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
        """Return the elite, chosen by rank and crowding distance."""
        study = fill_study(self._blank, self._axes, samples)
        sampler = NSGAIISampler(population_size=self._size)
        return tuple(samples[one.number] for one in sampler.get_parent_population(study, 1))


def make_study(axes: Axes) -> optuna.Study:
    """Return an empty study in memory whose trials have the values of samples."""
    return optuna.create_study(directions=["minimize"] * (1 + len(axes.resources)))


def fill_study(blank: optuna.Study, axes: Axes, samples: Iterable[Sample]) -> optuna.Study:
    """Return a copy of ``blank`` with the samples as complete trials of one generation."""
    study = copy.deepcopy(blank)  # To create one for each proposal would log as many lines.
    for sample in samples:
        study.add_trial(
            create_trial(
                params=dict(sample.params),
                distributions=axes.space,
                values=list(sample.values),
                system_attrs={GENERATION: 0},
            )
        )
    return study


def drop_worst(samples: tuple[Sample, ...], most: int) -> tuple[Sample, ...]:
    """Return ``samples`` without those that most others dominate, ``most`` at most.

    With one objective these are the highest values. Of equal ones the last goes first.
    """
    if len(samples) <= most:
        return samples
    values = np.array([sample.values for sample in samples])
    as_low = (values[:, None] <= values[None]).all(axis=2)
    lower = (values[:, None] < values[None]).any(axis=2)
    order = np.argsort((as_low & lower).sum(axis=0), kind="stable")[:most]
    return tuple(samples[place] for place in sorted(order.tolist()))


def _draw_seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**32))
