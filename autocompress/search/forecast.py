"""How much of a search is left, and what a search will take."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import optuna

from autocompress.errors import StudyError
from autocompress.evaluate.task import open_task
from autocompress.graph.layers import LayerGraph
from autocompress.graph.trace import trace_graph
from autocompress.jobs import Stage
from autocompress.masks.cost import Cost
from autocompress.masks.latency import LatencyTable
from autocompress.search.book import Book
from autocompress.search.budget import Budget
from autocompress.search.counts import feasibility_table
from autocompress.search.ledger import read_records
from autocompress.search.rounds import Course, Plan, count_evaluations, plan_rounds
from autocompress.search.site import check_reachable, count_dense, find_smallest
from autocompress.search.spec import Settings, resolve_settings, uses_latency
from autocompress.search.study import open_study

TRIAL_BYTES = 10_000  # A row of a study with some forty densities takes 7 kB in SQLite.
RESULT_BYTES = 1_000
TABLE = "latency_table"  # The attribute of a study with its latency table.
NO_ATTRS: Mapping[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a search would take from here.

    Attributes:
        rounds: Rounds in all.
        left: Evaluations left by stage: ``fast``, ``round`` and ``full``.
        seconds: Time for them; None when no evaluation of some stage was timed yet.
        disk_bytes: Disk for them and the dense model.
        table: Cost of the smallest, the centroid and the full model of the space.
        limits: The budget in units of each resource, as far as they are known.
        is_timed: Whether latency is known where it is asked for; until then it is taken to fall
            as the MACs do.
    """

    rounds: int
    left: Mapping[Stage, int]
    seconds: float | None
    disk_bytes: int
    table: Mapping[str, Cost]
    limits: Mapping[str, float]
    is_timed: bool = True


def estimate_search(settings: Settings) -> Estimate:
    """Return what a search with ``settings`` would take; nothing is trained or written.

    Raises:
        BudgetError: The budget cannot be reached.
        SettingError: A setting is wrong.
    """
    settings = resolve_settings(settings)
    task = open_task(settings.task)
    graph = trace_graph(task.make_model().eval(), task.example())
    return estimate_graph(settings, graph)


def estimate_graph(
    settings: Settings, graph: LayerGraph, attrs: Mapping[str, Any] = NO_ATTRS
) -> Estimate:
    """Return :func:`estimate_search` for the dense model ``graph`` and resolved settings.

    Args:
        settings: Of the search.
        graph: The dense model.
        attrs: What a new study would say beside its settings.
    """
    study = _find_study(settings)
    attrs = attrs if study is None else study.user_attrs
    book = Book([] if study is None else read_records(study))
    table = recall_table(attrs)
    dense = count_dense(graph, table)
    course = make_course(settings, graph, attrs)
    check_reachable(settings, graph, table)
    plan = plan_rounds(course, book)
    left = count_left(course, plan, book)
    models = left["round"] + left["full"] + 1
    return Estimate(
        rounds=plan.rounds,
        left=left,
        seconds=estimate_seconds(left, book, settings.execute.workers),
        disk_bytes=models * dense.bytes + sum(left.values()) * (TRIAL_BYTES + RESULT_BYTES),
        table=feasibility_table(settings.space, graph, table),
        limits=list_limits(settings, dense),
        is_timed=table is not None or not uses_latency(settings),
    )


def make_course(settings: Settings, graph: LayerGraph, attrs: Mapping[str, Any]) -> Course:
    """Return what the plan of rounds follows from.

    Args:
        settings: Resolved settings.
        graph: The dense model.
        attrs: What the study says beside its settings.
    """
    table, settings = recall_table(attrs), assume_latency(settings, attrs)
    dense, budget = count_dense(graph, table), settings.budget
    smallest = find_smallest(settings, graph, table)
    way = {
        "reduction": budget.reduction(dense, smallest),
        "enough": budget.measure_enough(dense, smallest) if smallest else 0.0,
    }
    return _describe_course(settings, attrs, way)


def recall_table(attrs: Mapping[str, Any]) -> LatencyTable | None:
    """Return the latency table of a study; None for one that has not measured any.

    Args:
        attrs: What the study says beside its settings.
    """
    return LatencyTable.from_json(attrs[TABLE]) if TABLE in attrs else None


def list_limits(settings: Settings, dense: Cost) -> dict[str, float]:
    """Return the budget in units of each resource, without latency while that is unknown."""
    if dense.latency is not None or not settings.budget.uses_latency:
        return settings.budget.limits(dense)
    known = settings.budget.drop_latency()
    return {} if known.is_empty else known.limits(dense)


def assume_latency(settings: Settings, attrs: Mapping[str, Any]) -> Settings:
    """Return ``settings``; for a study that has not measured yet, MACs stand for latency.

    So one can say beforehand what about a search will take.
    """
    budget = settings.budget
    if TABLE in attrs or not budget.uses_latency:
        return settings
    is_share = budget.latency is not None and budget.latency <= 1
    macs = budget.macs or (budget.latency if is_share else None)
    least = "macs" if budget.minimize == "latency" else budget.minimize
    assumed = replace(budget, latency=None, macs=macs, minimize=least)
    return replace(settings, budget=Budget(macs=1.0) if assumed.is_empty else assumed)


def recall_course(settings: Settings, attrs: Mapping[str, Any]) -> Course | None:
    """Return :func:`make_course` without the model; None for a study that does not tell.

    Args:
        settings: Resolved settings.
        attrs: What the study says beside its settings.
    """
    return _describe_course(settings, attrs, attrs["way"]) if "way" in attrs else None


def _describe_course(
    settings: Settings, attrs: Mapping[str, Any], way: Mapping[str, float]
) -> Course:
    start = attrs.get("start", {})
    return Course(
        settings=settings.rounds,
        evaluations=settings.search.evaluations,
        extra=int(attrs.get("extra_evaluations", 0)),
        finalize_top=int(attrs.get("finalize_top", settings.search.finalize_top)),
        reduction=way["reduction"],
        dense_energy=float(attrs.get("dense_energy", 0.0)),
        worst_energy=find_worst_energy(settings),
        enough=way["enough"],
        base=str(start.get("base", "")),
        start=float(start.get("progress", 0.0)),
    )


def find_worst_energy(settings: Settings) -> float | None:
    """Return the energy that ``budget.worst_metric`` is for a model; None without one."""
    worst = settings.budget.worst_metric
    if worst is None:
        return None
    return -worst if settings.task.metric_direction == "maximize" else worst


def count_left(course: Course, plan: Plan, book: Book) -> dict[Stage, int]:
    """Return the evaluations left by stage, if no round is rolled back."""
    if plan.todo in ("full", "done"):
        return {"fast": 0, "round": 0, "full": len(plan.chosen)}
    current = plan.round
    if current.is_last:
        later, models = 0, 0
    else:
        later = plan.rounds - current.number - 1
        models = later if course.worst_energy is None else later + 1
    fast = count_evaluations(course, current) - book.count_asked(current.number)
    fast += later * course.evaluations + (0 if current.is_last else course.extra)
    return {"fast": fast, "round": models, "full": course.finalize_top}


def estimate_seconds(left: Mapping[Stage, int], book: Book, workers: int = 1) -> float | None:
    """Return the time for ``left`` at the mean speed so far; None when unknown.

    A ``full`` evaluation that was not timed yet counts like a ``round``, and the reverse.
    Candidates are scored by all workers, models of rounds by one.
    """
    means = {stage: book.measure_seconds(stage) for stage in left}
    means["full"] = means["full"] or means["round"]
    means["round"] = means["round"] or means["full"]
    total = 0.0
    for stage, count in left.items():
        mean = means[stage]
        if count and mean is None:
            return None
        at_once = {"fast": workers, "round": 1, "full": min(workers, max(1, count))}[stage]
        total += count * (mean or 0.0) / at_once
    return total


def _find_study(settings: Settings) -> optuna.Study | None:
    try:
        return open_study(settings.name, settings.storage)
    except StudyError:
        return None
