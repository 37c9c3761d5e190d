"""Image folders: held as tensors when they fit, decoded batch by batch when they do not."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from autocompress.data.read import Arrays, Part
from autocompress.data.settings import DataSettings
from autocompress.data.source import InputSpec
from autocompress.data.tensors import (
    Augmentation,
    draw_subset,
    make_generator,
    normalise,
    split_epoch,
)
from autocompress.errors import DataError

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"))
_AHEAD = 3  # Batches decoded while the device works on one.


@dataclass(frozen=True, kw_only=True)
class ImageForm:
    """The form that every image of a folder is brought into.

    Attributes:
        shape: (channels, height, width); one channel is grey, three are red, green, blue.
        scaled: Whether images are scaled and centre-cropped to it; otherwise they must have it.
    """

    shape: tuple[int, int, int]
    scaled: bool

    def decode(self, path: Path) -> NDArray[np.uint8]:
        """Return one image, shape (height, width, channels).

        Raises:
            DataError: The file is no image, or has another size.
        """
        channels, height, width = self.shape
        try:
            with Image.open(path) as file:
                image = file.convert("L" if channels == 1 else "RGB")
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path}: cannot be read as an image: {error}") from error
        if self.scaled:
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        elif image.size != (width, height):
            raise DataError(
                f"{path}: want {width} x {height} pixels as in the first image, got "
                f"{image.width} x {image.height}; set data.image_size to scale all images"
            )
        return np.asarray(image, dtype=np.uint8).reshape(height, width, channels)


@dataclass(frozen=True, kw_only=True)
class FileSource:
    """A :class:`~autocompress.data.source.Source` of image files, decoded in threads.

    Attributes:
        paths: One file per sample.
        targets: Class labels, int64 of shape (samples,), in host memory.
        form: What images are brought into.
        spec: How images become inputs.
        device: Where the batches go.
        augmentation: Used when asked for.
    """

    paths: tuple[Path, ...]
    targets: Tensor
    form: ImageForm
    spec: InputSpec
    device: torch.device
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.paths)

    def batches(
        self, size: int, *, seed: int | None = None, augment: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one epoch, see :class:`~autocompress.data.source.Source`.

        Raises:
            DataError: A file is no image, or has another size.
        """
        generator = make_generator(seed)
        everything = torch.arange(len(self))
        for places, decoded in self._decode(split_epoch(len(self), size, generator), everything):
            images = decoded
            if augment and generator is not None:
                images = self.augmentation.apply(decoded, generator)
            inputs = normalise(images.to(self.device, non_blocking=True), self.spec)
            yield inputs, self.targets[places].to(self.device, non_blocking=True)

    def take(self, count: int, seed: int) -> "FileSource":
        """Return ``count`` of the files drawn by ``seed``; self when there are fewer."""
        if count >= len(self):
            return self
        return self.select(draw_subset(len(self), count, seed))

    def select(self, places: Tensor) -> "FileSource":
        """Return the files at ``places``, int64 of shape (count,)."""
        paths = tuple(self.paths[place] for place in places.tolist())
        return replace(self, paths=paths, targets=self.targets[places])

    def _decode(
        self, epoch: Iterator[slice | Tensor], everything: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (places, uint8 images) in order, some batches ahead of the reader."""
        queue: deque[tuple[Tensor, list[Future[NDArray[np.uint8]]]]] = deque()
        # Threads suffice: Pillow decodes outside of Python's lock.
        pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
        try:
            for places in epoch:
                batch = everything[places]
                futures = [
                    pool.submit(self.form.decode, self.paths[place]) for place in batch.tolist()
                ]
                queue.append((batch, futures))
                if len(queue) > _AHEAD:
                    yield _collect(*queue.popleft())
            while queue:
                yield _collect(*queue.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _collect(places: Tensor, futures: list[Future[NDArray[np.uint8]]]) -> tuple[Tensor, Tensor]:
    images = np.stack([future.result() for future in futures])
    return places, torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def list_images(settings: DataSettings, part: Part) -> tuple[list[Path], list[int]]:
    """Return the files of ``root/PART/CLASS/`` and their labels, by the names in ``train``.

    Raises:
        DataError: A folder is missing or holds no images, or a class is not in ``train``.
    """
    classes = [folder.name for folder in _list_classes(Path(settings.root) / "train")]
    paths: list[Path] = []
    labels: list[int] = []
    for folder in _list_classes(Path(settings.root) / part):
        if folder.name not in classes:
            raise DataError(f"{folder}: want a class of the training set, got {folder.name!r}")
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not files:
            raise DataError(f"{folder}: want at least one image, found none")
        paths.extend(files)
        labels.extend([classes.index(folder.name)] * len(files))
    return paths, labels


def find_form(settings: DataSettings, first: Path) -> ImageForm:
    """Return the form that the settings ask for, otherwise that of the ``first`` image.

    Raises:
        DataError: The file is no image.
    """
    try:
        with Image.open(first) as image:
            channels = 1 if image.mode in {"1", "L", "I;16"} else 3
            width, height = image.size
    except OSError as error:
        raise DataError(f"{first}: cannot be read as an image: {error}") from error
    side = settings.image_size
    shape = (channels, side, side) if side else (channels, height, width)
    return ImageForm(shape=shape, scaled=bool(side))


def decode_all(form: ImageForm, paths: list[Path], labels: list[int]) -> Arrays:
    """Return all images as arrays."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        images = np.stack(list(pool.map(form.decode, paths)))
    return Arrays(images=images, targets=np.asarray(labels, dtype=np.int64))


def _list_classes(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(
            f"data.root: {folder} is missing; put the images of each class into {folder / 'CLASS'}"
        )
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    if not classes:
        raise DataError(f"{folder}: want one folder per class, found none")
    return classes
