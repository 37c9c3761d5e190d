"""What a search is about to do, before it does it: reachable costs, time and disk."""

import copy
import time
from collections.abc import Mapping
from dataclasses import replace

from autocompress.cli.progress import describe_time
from autocompress.cli.screen import print_pairs, print_table
from autocompress.evaluate.base import Base, make_base
from autocompress.evaluate.fast import evaluate_fast
from autocompress.evaluate.task import Task, open_task
from autocompress.graph.layers import LayerGraph
from autocompress.masks.cost import Cost
from autocompress.search.counts import feasibility_table
from autocompress.search.forecast import Estimate, estimate_graph, list_limits
from autocompress.search.preview import preview_source
from autocompress.search.spec import Settings, resolve_settings
from autocompress.search.storage import mask_url
from autocompress.train.loop import train_model_
from autocompress.train.objective import make_task_loss

TIMED_STEPS = 10
COSTS = ("weights", "params", "macs", "bytes", "coded_bytes")
UNTIMED = (
    "unknown until the first start, when a worker measures the layers; taken to fall as MACs do"
)


def print_feasibility(settings: Settings, graph: LayerGraph) -> None:
    """Print what the smallest, the centroid and the full model cost, and the budget.

    Raises:
        SettingError: The space names layers which the model does not have.
    """
    table = feasibility_table(resolve_settings(settings).space, graph)
    _print_costs(table, list_limits(settings, table["full"]), settings.budget.minimize)
    if settings.budget.uses_latency:
        print_pairs({"latency": UNTIMED})


def print_plan(settings: Settings, source: str = "") -> None:
    """Print the reachable models and the time and disk of a search; store nothing.

    Args:
        settings: Of the search.
        source: The study that it starts from, if it does.
    """
    settings = resolve_settings(settings)
    task = open_task(settings.task)
    base = make_base(task.make_model().eval(), task)
    taken = preview_source(settings, base.graph, source) if source else None
    plan = estimate_graph(settings, base.graph, taken.attrs if taken else {})
    _print_costs(plan.table, plan.limits, settings.budget.minimize)
    seconds = measure_search(settings, plan, task, base) if plan.seconds is None else plan.seconds
    left = ", ".join(f"{count} {stage}" for stage, count in plan.left.items() if count)
    print_pairs(
        {
            "rounds": f"{'at most ' if settings.budget.minimize else ''}{plan.rounds}",
            "evaluations left": left or "none, it is done",
            "time": f"about {describe_time(seconds)}",
            "disk": f"about {plan.disk_bytes / 1e6:.1f} MB in {settings.run_dir}",
            "study": mask_url(settings.storage),
            **({} if plan.is_timed else {"latency": UNTIMED}),
            **({f"from {taken.name}": taken.describe()} if taken else {}),
        }
    )


def measure_search(settings: Settings, plan: Estimate, task: Task, base: Base) -> float:
    """Return the seconds for what ``plan`` has left, from one fast evaluation and a few steps.

    Args:
        settings: Of the search.
        plan: What is left; nothing of it was timed yet.
        task: Its open task.
        base: The dense model, trained or not; not changed.
    """
    evaluate = settings.evaluate
    start = time.monotonic()
    evaluate_fast(base, base.count(), task, evaluate, seed=0)
    fast_s = time.monotonic() - start
    full = evaluate.full
    epochs = settings.task.train.epochs
    epochs += plan.left["round"] * (evaluate.round.prune.epochs + evaluate.round.retrain.epochs)
    epochs += plan.left["full"] * (full.prune.epochs + full.retrain.epochs + full.final.epochs)
    if settings.space.bits or settings.space.layer_bits:
        levels = full.quantize
        epochs += plan.left["full"] * (levels.train.epochs + levels.settle.epochs)
    return plan.left["fast"] * fast_s + epochs * time_epoch(settings, task, base)


def time_epoch(settings: Settings, task: Task, base: Base) -> float:
    """Return the seconds of a training epoch of the dense model, from a few steps of it."""
    train, samples = settings.task.train, max(1, len(task.data.train))
    share = min(1.0, TIMED_STEPS * train.batch_size / samples)
    model, loss = copy.deepcopy(base.model), make_task_loss(task.loss)
    start = time.monotonic()
    train_model_(model, task.data.train, replace(train, epochs=share), loss=loss, seed=0)
    return (time.monotonic() - start) / share


def _print_costs(table: Mapping[str, Cost], limits: Mapping[str, float], least: str) -> None:
    costs = {name: cost.list_known() for name, cost in table.items()}
    shown = [*COSTS, "latency"] if "latency" in costs["full"] else [*COSTS]
    rows = [(name, *(f"{cost[key]:,.0f}" for key in shown)) for name, cost in costs.items()]
    wanted = [f"{limits[key]:,.0f}" if key in limits else "-" for key in shown]
    if least in shown:
        wanted[shown.index(least)] = "least"
    heads = [one.replace("latency", "latency (us)") for one in shown]
    print_table("Reachable models", ("model", *heads), [*rows, ("budget", *wanted)])
