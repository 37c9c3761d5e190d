"""Why an actor gave no answer, in a sentence."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import (
    ActorUnavailableError,
    LocalRayletDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)

from autocompress.errors import ClusterError
from autocompress.execute.memory import describe_error

_NODE_DIED = "its node has died"
_WE_DIED = "its owner has died"
_USED = re.compile(r"was ([\d.]+\w+) used / ([\d.]+\w+) limit")
_MOST = 400  # Characters of a message of Ray's that is passed on.


def explain_death(error: RayError, node: str, place: str) -> tuple[str, bool]:
    """Return why an actor gave no answer, and whether that was no fault of its job.

    Args:
        error: What Ray raised.
        node: Ray's name of its machine; empty when it never had a place.
        place: Its process and machine, for people.

    Raises:
        ClusterError: It is this process that lost its cluster.
    """
    text = str(error)
    if isinstance(error, LocalRayletDiedError) or _WE_DIED in text:
        raise ClusterError("Ray has ended on this machine")
    if isinstance(error, OutOfMemoryError):
        used = _USED.search(text)
        much = f" ({used[1]} of {used[2]} used)" if used else ""
        return (
            f"out of memory: Ray ended {place} because its machine was short of memory{much}; "
            "want fewer workers on a machine, by a larger execute.cpus, or smaller batches",
            False,
        )
    if getattr(error, "preempted", False) or _NODE_DIED in text or is_gone(node):
        return f"{place} was lost with its machine", True
    if isinstance(error, ActorUnavailableError):
        return f"{place} could not be reached", True
    if isinstance(error, RayTaskError):
        return _explain_raised(error, place)
    if isinstance(error, RayActorError) and not getattr(error, "actor_init_failed", False):
        return f"{place} ended without an answer: killed, crashed or out of memory", False
    return f"{place} could not start: {_find_cause(text)}", False


@contextmanager
def name_failure_of_ray() -> Iterator[None]:
    """Turn what Ray raises of itself into one sentence.

    Raises:
        ClusterError: Ray raised something inside.
    """
    try:
        yield
    except (RayError, ConnectionError) as error:
        raise ClusterError(f"{type(error).__name__}: {_find_cause(str(error))}") from error


def is_gone(node: str) -> bool:
    """Return whether Ray counts a machine as dead."""
    return any(one["NodeID"] == node and not one["Alive"] for one in ray.nodes())


def _explain_raised(error: RayTaskError, place: str) -> tuple[str, bool]:
    """Return what a method of an actor raised; what Ray lost on the way is no job's fault."""
    cause = error.cause
    if isinstance(cause, RayError):
        return f"{place} did not get its files: {_find_cause(str(cause))}", True
    if isinstance(cause, Exception) and "\n" not in str(cause):
        return describe_error(cause), False
    return f"{place}: {_find_cause(str(error))}", False


def _find_cause(text: str) -> str:
    """Return the last line of a traceback in a message."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:_MOST] if lines else "Ray does not say why"
