"""Samples held as tensors: shuffled, augmented and normalised in whole batches."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from autocompress.data.source import InputSpec


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Draw a shift and a mirror image per sample.

    Attributes:
        crop: Largest shift in pixels, each way, 0 or more; the border is black.
        flip: Mirror half of the samples left to right.
    """

    crop: int = 0
    flip: bool = False

    def apply(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return shifted and mirrored copies, each sample by its own draw.

        Args:
            images: Shape (samples, channels, height, width), before normalisation.
            generator: On the CPU, so that the draws are the same on every device.
        """
        samples, _, height, width = images.shape
        if self.crop:
            shifts = torch.randint(2 * self.crop + 1, (2, samples), generator=generator)
            row, column = shifts.to(images.device, non_blocking=True)
            windows = pad(images, (self.crop,) * 4).unfold(2, height, 1).unfold(3, width, 1)
            images = windows[torch.arange(samples, device=images.device), :, row, column]
        if self.flip:
            coins = torch.randint(2, (samples, 1, 1, 1), generator=generator).bool()
            mirrored = coins.to(images.device, non_blocking=True)
            images = torch.where(mirrored, images.flip(3), images)
        return images


@dataclass(frozen=True, kw_only=True)
class TensorSource:
    """A :class:`~autocompress.data.source.Source` of tensors.

    Attributes:
        images: Shape (samples, channels, height, width); uint8, or float in [0, 1]. On the
            device, or in host memory when the device cannot hold them.
        targets: Shape (samples, ...), where the images are.
        spec: How images become inputs.
        device: Where the batches go.
        augmentation: Used when asked for.
    """

    images: Tensor
    targets: Tensor
    spec: InputSpec
    device: torch.device
    augmentation: Augmentation = Augmentation()

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.images)

    def batches(
        self, size: int, *, seed: int | None = None, augment: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one epoch, see :class:`~autocompress.data.source.Source`."""
        generator = make_generator(seed)
        for places in split_epoch(len(self), size, generator):
            # A slice is a view: reading in order copies nothing.
            place = places if isinstance(places, slice) else places.to(self.images.device)
            images, targets = self.images[place], self.targets[place]
            if augment and generator is not None:
                images = self.augmentation.apply(images, generator)
            images = images.to(self.device, non_blocking=True)
            yield normalise(images, self.spec), targets.to(self.device, non_blocking=True)

    def take(self, count: int, seed: int) -> "TensorSource":
        """Return a copy with ``count`` samples drawn by ``seed``; self when there are fewer."""
        if count >= len(self):
            return self
        return self.select(draw_subset(len(self), count, seed))

    def select(self, places: Tensor) -> "TensorSource":
        """Return a copy of the samples at ``places``, int64 of shape (count,)."""
        places = places.to(self.images.device)
        return replace(self, images=self.images[places], targets=self.targets[places])


def make_generator(seed: int | None) -> torch.Generator | None:
    """Return a stream for one epoch; None when nothing is to be drawn."""
    return None if seed is None else torch.Generator().manual_seed(seed)


def split_epoch(
    samples: int, size: int, generator: torch.Generator | None
) -> Iterator[slice | Tensor]:
    """Yield the places of each batch: slices in order, or shuffled index tensors.

    Args:
        samples: Samples in the set.
        size: Samples of a batch, 1 or more.
        generator: Shuffles, and drops a short last batch unless it is the only one.
    """
    if size < 1:
        raise ValueError(f"size of a batch must be 1 or more, got {size}")
    if generator is None:
        for start in range(0, samples, size):
            yield slice(start, min(start + size, samples))
        return
    order = torch.randperm(samples, generator=generator)
    stop = samples if samples < size else samples - samples % size
    for start in range(0, stop, size):
        yield order[start : start + size]


def draw_subset(samples: int, count: int, seed: int) -> Tensor:
    """Return ``count`` different places below ``samples`` in rising order."""
    if count < 1:
        raise ValueError(f"count must be 1 or more, got {count}")
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(samples, generator=generator)[:count].sort().values


def normalise(images: Tensor, spec: InputSpec) -> Tensor:
    """Return float32 inputs of uint8 (0..255) or floating point images (0..1)."""
    scale = 255.0 if images.dtype == torch.uint8 else 1.0
    std = torch.tensor(spec.std).mul_(scale).reciprocal_()
    mean = torch.tensor(spec.mean).div_(torch.tensor(spec.std)).neg_()
    factor = std.view(-1, 1, 1).to(images.device, non_blocking=True)
    shift = mean.view(-1, 1, 1).to(images.device, non_blocking=True)
    return images.to(torch.float32).mul(factor).add_(shift)
