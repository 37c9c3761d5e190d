"""One round with everything that its proposals and decisions need."""

from dataclasses import dataclass, replace

from optuna import Study

from autocompress.errors import SpecMismatchError
from autocompress.graph.layers import LayerGraph
from autocompress.jobs import Candidate
from autocompress.masks.cost import Cost, CostModel
from autocompress.masks.importance import Importance
from autocompress.masks.latency import LatencyTable
from autocompress.search.anneal import Schedule
from autocompress.search.bounds import make_bounds
from autocompress.search.choose_searcher import make_searcher
from autocompress.search.counts import feasibility_table, read_counts
from autocompress.search.guide import Ground, count_starts, make_start
from autocompress.search.rounds import Round
from autocompress.search.searcher import Searcher
from autocompress.search.spec import Settings, uses_latency

FULL = Candidate(filters={}, columns={})


@dataclass(frozen=True)
class Dense:
    """The dense model as a search knows it.

    Attributes:
        graph: Its layers and groups.
        table: Predicts the latency of what is left of it, where that is asked for.
    """

    graph: LayerGraph
    table: LatencyTable | None = None


@dataclass(frozen=True)
class Start:
    """The model where a round starts.

    Attributes:
        graph: Its layers and groups.
        kept: Its counts.
        hints: Candidates of it that did well under other limits.
        importance: What its units and columns matter, for searchers that rank them.
    """

    graph: LayerGraph
    kept: Candidate
    hints: tuple[Candidate, ...] = ()
    importance: Importance | None = None


@dataclass(frozen=True)
class Site:
    """One round, where it may go, and what searches it."""

    round: Round
    ground: Ground
    searcher: Searcher


def make_site(settings: Settings, current: Round, dense: Dense, start: Start) -> Site:
    """Return the site of a round.

    Args:
        settings: Resolved settings.
        current: The round.
        dense: The dense model.
        start: The model where the round starts.

    Raises:
        BudgetError: The round's goal cannot be reached from its base.
    """
    graph, table = dense.graph, dense.table
    bounds = make_bounds(settings.space, graph, start.graph, start.kept, table)
    whole, smallest = count_dense(graph, table), find_smallest(settings, graph, table)
    limits = settings.budget.limits(whole, current.goal, smallest)
    if "latency" in settings.search.resources and whole.latency is not None:
        # Widths are then chosen as they are executed, though nothing else limits latency.
        limits.setdefault("latency", whole.latency)
    ground = Ground(
        bounds,
        limits,
        read_counts(bounds, start.kept),
        settings.search.prior,
        start.hints,
        start.importance,
    )
    make_start(ground, 0)
    schedule = Schedule(
        settings=settings.search,
        seed=settings.seed,
        round=current.number,
        starts=count_starts(ground, settings.search.evaluations),
        limits=limits,
    )
    return Site(current, ground, make_searcher(schedule, ground))


def check_reachable(
    settings: Settings, graph: LayerGraph, table: LatencyTable | None = None
) -> None:
    """Refuse a budget that the smallest model of the space exceeds.

    Args:
        settings: Resolved settings.
        graph: The dense model.
        table: Predicts latency; until it is there, limits on latency are not looked at.

    Raises:
        BudgetError: The budget cannot be reached.
        SettingError: The space names a group or layer that the model does not have.
    """
    if table is None and uses_latency(settings):
        settings = replace(settings, budget=settings.budget.drop_latency())
        if settings.budget.is_empty:
            make_bounds(settings.space, graph, graph, FULL)
            return
    current = Round(number=0, base="", start=0.0, goal=1.0)
    make_site(settings, current, Dense(graph, table), Start(graph, FULL))


def count_dense(graph: LayerGraph, table: LatencyTable | None = None) -> Cost:
    """Return what the dense model costs: its latency as measured, not as predicted.

    A finished model's is measured as a share of it.
    """
    cost = CostModel(graph, table).count_candidate(FULL)
    return cost if table is None else replace(cost, latency=table.dense_us)


def find_smallest(
    settings: Settings, dense: LayerGraph, table: LatencyTable | None = None
) -> Cost | None:
    """Return the cost of the smallest model where the budget minimises, None elsewhere."""
    if not settings.budget.minimize:
        return None
    return feasibility_table(settings.space, dense, table)["smallest"]


def check_dense(study: Study, key: str) -> None:
    """Refuse to go on with another dense model than the study's decisions are about.

    Raises:
        SpecMismatchError: The data, the checkpoint or a source of the user changed.
    """
    stored = study.user_attrs.get("dense_key", key)
    if stored != key:
        what = "task (its data, checkpoint, or the file of your own functions)"
        raise SpecMismatchError(study.study_name, {what: (stored[:12], key[:12])})
