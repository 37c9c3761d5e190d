"""How far a search is, in words, for who looks at it from elsewhere."""

from dataclasses import dataclass
from datetime import datetime

from autocompress.cli.find import Found
from autocompress.cli.progress import describe_time
from autocompress.report.page import format_count, format_metric
from autocompress.search.lock import Holder, find_holder
from autocompress.search.outage import name_outage
from autocompress.search.sight import Sight, look
from autocompress.search.storage import find_file, mask_url

DOING = {
    "fast": "scoring candidates",
    "round": "pruning to the best candidate",
    "full": "finishing the best candidates",
    "done": "done",
    "failed": "cannot go on",
}


@dataclass(frozen=True, kw_only=True)
class View:
    """What one look at a study found.

    Attributes:
        sight: What the study says.
        holder: Who works on it; None for nobody.
        now: When it was looked at, with a time zone.
        is_file: Whether only controllers on this machine can be seen.
        metric: Name of the task's metric.
    """

    sight: Sight
    holder: Holder | None
    now: datetime
    is_file: bool = False
    metric: str = "metric"


def list_head(found: Found) -> dict[str, str]:
    """Return which study it is and where, by name."""
    settings = found.settings
    return {
        "study": settings.name,
        "storage": mask_url(settings.storage),
        "run folder": found.folder.place,
    }


def view_study(found: Found, now: datetime) -> View:
    """Return how far the search of a study is.

    Raises:
        StudyLostError: The server of its database cannot be reached.
    """
    name, storage = found.settings.name, found.settings.storage
    with name_outage(name):
        sight = look(found.study, found.settings, now)
    return View(
        sight=sight,
        holder=find_holder(name, storage),
        now=now,
        is_file=find_file(storage) is not None,
        metric=found.settings.task.metric,
    )


def list_view(view: View) -> dict[str, str]:
    """Return what a person wants to know of a search, by name."""
    sight = view.sight
    return {
        "controller": describe_holder(view),
        "phase": describe_phase(sight) + (f": {sight.error}" if sight.error else ""),
        "decided": describe_decided(view),
        "last decision": "none yet" if sight.last is None else describe_ago(sight.last, view.now),
        "running now": describe_running(view),
        "repeated": describe_trouble(sight),
        "best energy": "-" if sight.best is None else f"{sight.best:.4g}",
        "best model": describe_model(view),
        "time left": "-" if sight.left_s is None else f"about {describe_time(sight.left_s)}",
    }


def describe_view(view: View) -> str:
    """Return :func:`list_view` in one line."""
    sight = view.sight
    parts = [describe_phase(sight), f"{describe_decided(view)} decided"]
    parts += [] if sight.todo == "done" else [f"{sight.running} running"]
    parts += [] if sight.best is None else [f"best energy {sight.best:.4g}"]
    if sight.todo != "done":
        parts += [] if sight.left_s is None else [f"about {describe_time(sight.left_s)} left"]
        parts += [] if view.holder is not None else [f"controller: {describe_holder(view)}"]
    return f"{view.now.astimezone():%H:%M:%S} {', '.join(parts)}"


def describe_phase(sight: Sight) -> str:
    """Return the round and what is done in it."""
    rounds = "" if sight.rounds is None else f" of {sight.rounds}"
    return f"round {sight.round + 1}{rounds}" + (f", {DOING[sight.todo]}" if sight.todo else "")


def describe_decided(view: View) -> str:
    """Return how many decisions there are, of how many, and how fast they come."""
    total, speed = view.sight.total, view.sight.per_minute
    of_all = "" if total is None else f" of {total}"
    is_at_work = speed is not None and view.holder is not None
    return f"{view.sight.decided}{of_all}" + (f", {speed:.3g} per minute" if is_at_work else "")


def describe_running(view: View) -> str:
    """Return what runs and what waits for a worker."""
    running, waiting = view.sight.running, view.sight.waiting
    if running and view.holder is None and not view.is_file:
        return f"none; {running} begun by a controller that ended, queued again by the next one"
    return f"{running}" + (f", and {waiting} that wait for a worker" if waiting else "")


def describe_trouble(sight: Sight) -> str:
    """Return what was evaluated again or given up, and why."""
    parts = {
        "after failures": sight.retried,
        "lost with their worker or controller": sight.lost,
        "given up": sight.rejected,
    }
    return ", ".join(f"{count} {what}" for what, count in parts.items() if count) or "none"


def describe_holder(view: View) -> str:
    """Return whose process works on a study, and for how long."""
    if view.holder is None:
        return "none on this machine" if view.is_file else "none"
    since = view.holder.since
    ago = "" if since is None else f", for {describe_time(max(0.0, view.now.timestamp() - since))}"
    return f"{view.holder.describe()}{ago}"


def describe_model(view: View) -> str:
    """Return the figures of the best finished model."""
    best = view.sight.model
    if best is None:
        return "none yet"
    metrics = best.metrics
    figures = [
        f"{split} {view.metric} {format_metric(metrics[key])}"
        for split, key in (("validation", "val_metric"), ("test", "test_metric"))
        if key in metrics
    ]
    figures += [f"{format_count(metrics['weights'])} weights"] if "weights" in metrics else []
    return f"trial {best.number}: {', '.join(figures)}"


def describe_ago(then: datetime, now: datetime) -> str:
    """Return a moment as its distance and on the clock of this machine."""
    seconds = max(0.0, now.timestamp() - then.timestamp())
    return f"{describe_time(seconds)} ago ({then.astimezone():%Y-%m-%d %H:%M:%S})"
