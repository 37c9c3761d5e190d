"""A loss that ends its process's training after a while, as a kill would."""

from torch import Tensor
from torch.nn import functional

left: int | None = None


class Cut(BaseException):
    """The training was cut off; no code of ours catches it."""


def limited_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy; raise :class:`Cut` when ``left`` calls are used up."""
    global left  # noqa: PLW0603 - settings name a function, which has no other memory
    if left is not None and outputs.requires_grad:
        if left == 0:
            raise Cut
        left -= 1
    return functional.cross_entropy(outputs, targets)
