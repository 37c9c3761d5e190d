"""What training and evaluation ask of data."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """How an image becomes an input: ``(image - mean) / std`` with the image in [0, 1].

    Attributes:
        shape: (channels, height, width).
        mean: One value per channel.
        std: One value per channel, above 0.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Source(Protocol):
    """A set of samples to go through in batches."""

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def batches(
        self, size: int, *, seed: int | None = None, augment: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one epoch of (inputs, targets) on the device, inputs normalised float32.

        Args:
            size: Samples of a batch, 1 or more.
            seed: Shuffles by this seed and drops a short last batch unless it is the only
                one; None yields every sample in order.
            augment: Crop and flip each sample as the settings say; needs a seed.
        """
        ...

    def take(self, count: int, seed: int) -> "Source":
        """Return a subset of ``count`` samples drawn by ``seed``; all when there are fewer."""
        ...


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """The parts of a data set.

    Attributes:
        train: What models learn from.
        validation: Cut out of the training set by seed; every selection uses this.
        open_test: Reads the test set; to be called for a finished model only.
        input_spec: Shape and normalisation of an input.
        classes: Outputs that a model needs: classes, or values of a regression target.
    """

    train: Source
    validation: Source
    open_test: Callable[[], Source]
    input_spec: InputSpec
    classes: int
