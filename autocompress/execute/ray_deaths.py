"""Why an actor has ended, in a sentence."""

import ray
from ray.exceptions import RayError

NODE_WORDS = ("its node has died", "node was terminated", "node is dead")


def explain_death(error: RayError, node: str, address: str) -> tuple[str, bool]:
    """Return why an actor gave no answer, and whether that was no fault of its job.

    Args:
        error: What Ray raised.
        node: Ray's name of its machine; empty when it never had a place.
        address: Network address of that machine.
    """
    text = str(error)
    place = address or "an unknown machine"
    if getattr(error, "preempted", False):
        return f"the machine {place} was taken away", True
    if any(words in text for words in NODE_WORDS) or is_gone(node):
        return f"the machine {place} was lost", True
    return f"the worker on {place} died: {text}", False


def is_gone(node: str) -> bool:
    """Return whether Ray counts a machine as dead."""
    return any(one["NodeID"] == node and not one["Alive"] for one in ray.nodes())
