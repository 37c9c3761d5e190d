"""How much of a search is left, and what a search will take."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import optuna

from autocompress.errors import StudyError
from autocompress.evaluate.task import open_task
from autocompress.graph.layers import LayerGraph
from autocompress.graph.trace import trace_graph
from autocompress.jobs import Stage
from autocompress.masks.cost import Cost
from autocompress.search.counts import feasibility_table
from autocompress.search.ledger import read_records
from autocompress.search.records import Record
from autocompress.search.rounds import Course, Plan, find_scored, plan_rounds
from autocompress.search.site import check_reachable, count_dense
from autocompress.search.spec import Settings, resolve_settings
from autocompress.search.study import open_study

TRIAL_BYTES = 10_000  # A row of a study with some forty densities takes 7 kB in SQLite.
RESULT_BYTES = 1_000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a search would take from here.

    Attributes:
        rounds: Rounds in all.
        left: Evaluations left by stage: ``fast``, ``round`` and ``full``.
        seconds: Time for them; None when no evaluation of some stage was timed yet.
        disk_bytes: Disk for them and the dense model.
        table: Cost of the smallest, the centroid and the full model of the space.
        limits: The budget in units of each resource.
    """

    rounds: int
    left: Mapping[Stage, int]
    seconds: float | None
    disk_bytes: int
    table: Mapping[str, Cost]
    limits: Mapping[str, float]


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


def estimate_graph(settings: Settings, graph: LayerGraph) -> Estimate:
    """Return :func:`estimate_search` for the dense model ``graph`` and resolved settings."""
    study = _find_study(settings)
    records = [] if study is None else read_records(study)
    dense_energy = 0.0 if study is None else float(study.user_attrs.get("dense_energy", 0.0))
    dense = count_dense(graph)
    course = make_course(settings, dense, dense_energy)
    check_reachable(settings, graph)
    plan = plan_rounds(course, records)
    left = count_left(course, plan, records)
    models = left["round"] + left["full"] + 1
    return Estimate(
        rounds=plan.rounds,
        left=left,
        seconds=estimate_seconds(left, records),
        disk_bytes=models * dense.bytes + sum(left.values()) * (TRIAL_BYTES + RESULT_BYTES),
        table=feasibility_table(settings.space, graph),
        limits=settings.budget.limits(dense),
    )


def make_course(settings: Settings, dense: Cost, dense_energy: float) -> Course:
    """Return what the plan of rounds follows from."""
    return Course(
        settings=settings.rounds,
        evaluations=settings.search.evaluations,
        finalize_top=settings.search.finalize_top,
        reduction=settings.budget.reduction(dense),
        dense_energy=dense_energy,
    )


def count_left(course: Course, plan: Plan, records: Sequence[Record]) -> dict[Stage, int]:
    """Return the evaluations left by stage, if no round is rolled back."""
    if plan.todo == "done":
        return {"fast": 0, "round": 0, "full": 0}
    later = plan.rounds - plan.round.number - 1
    fast = course.evaluations - len(find_scored(records, plan.round.number))
    done = sum(one.stage == "full" and one.round == plan.round.number for one in records)
    full = max(1, course.finalize_top - done) if plan.round.is_last else course.finalize_top
    return {"fast": max(0, fast) + later * course.evaluations, "round": later, "full": full}


def estimate_seconds(left: Mapping[Stage, int], records: Sequence[Record]) -> float | None:
    """Return the time for ``left`` at the mean speed of ``records``; None when unknown.

    A ``full`` evaluation that was not timed yet counts like a ``round``, and the reverse.
    """
    means: dict[str, float] = {}
    for stage in ("fast", "round", "full"):
        times = [one.metrics.get("seconds", math.nan) for one in records if one.stage == stage]
        times = [one for one in times if math.isfinite(one)]
        if times:
            means[stage] = fmean(times)
    means.setdefault("full", means.get("round", math.nan))
    means.setdefault("round", means["full"])
    total = sum(count * means.get(stage, math.nan) for stage, count in left.items() if count)
    return float(total) if math.isfinite(total) else None


def _find_study(settings: Settings) -> optuna.Study | None:
    try:
        return open_study(settings.name, settings.storage)
    except StudyError:
        return None
