"""Read the files of a data set into arrays: one function per data set, one part per call."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, FashionMNIST

from autocompress.data.settings import DataSettings
from autocompress.errors import DataError

Part = Literal["train", "test"]
_DIGITS_SEED = 1797  # The test part of the digits is the same in every run.


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """One part of a data set.

    Attributes:
        images: Shape (samples, height, width, channels); uint8, or float32 in [0, 1].
        targets: Shape (samples, ...); int64 class labels or float32 values.
    """

    images: NDArray[Any]
    targets: NDArray[Any]

    def __post_init__(self) -> None:
        if self.images.ndim != 4:
            raise DataError(
                "images: want shape (samples, height, width) or (samples, height, width, "
                f"channels), got {self.images.shape}"
            )
        if len(self.images) != len(self.targets):
            raise DataError(
                f"images and labels must be as many, got {len(self.images)} and "
                f"{len(self.targets)}"
            )
        if not len(self.images):
            raise DataError("want at least one sample, got none")


Reader = Callable[[DataSettings, Part], Arrays]


def read_digits(settings: DataSettings, part: Part) -> Arrays:  # noqa: ARG001 - a Reader
    """Return a part of scikit-learn's 1,797 digits of 8 x 8; a fixed fifth is the test part."""
    bunch = load_digits()
    labels = np.asarray(bunch.target, dtype=np.int64)
    shuffled = np.random.default_rng(_DIGITS_SEED).permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    is_test = np.arange(len(order)) % 5 == 0  # Every fifth of the sorted ones: stratified.
    places = np.sort(order[is_test if part == "test" else ~is_test])
    images = np.asarray(bunch.images, dtype=np.float32)[places] / 16
    return Arrays(images=images[..., None], targets=labels[places])


def read_mnist(settings: DataSettings, part: Part) -> Arrays:
    """Return a part of MNIST from ``root/MNIST/raw/*-ubyte``."""
    _check_files(settings, "MNIST/raw", _IDX_FILES)
    data = MNIST(settings.root, train=part == "train", download=settings.download)
    return Arrays(images=data.data.numpy()[..., None], targets=data.targets.numpy())


def read_fashion_mnist(settings: DataSettings, part: Part) -> Arrays:
    """Return a part of FashionMNIST from ``root/FashionMNIST/raw/*-ubyte``."""
    _check_files(settings, "FashionMNIST/raw", _IDX_FILES)
    data = FashionMNIST(settings.root, train=part == "train", download=settings.download)
    return Arrays(images=data.data.numpy()[..., None], targets=data.targets.numpy())


def read_cifar10(settings: DataSettings, part: Part) -> Arrays:
    """Return a part of CIFAR-10 from ``root/cifar-10-batches-py`` or an ``.npz`` file."""
    if Path(settings.root).suffix == ".npz":
        return read_npz(settings, part)
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch", "batches.meta"]
    _check_files(settings, "cifar-10-batches-py", names)
    data = CIFAR10(settings.root, train=part == "train", download=settings.download)
    return Arrays(images=data.data, targets=np.asarray(data.targets, dtype=np.int64))


def read_cifar100(settings: DataSettings, part: Part) -> Arrays:
    """Return a part of CIFAR-100 from ``root/cifar-100-python``."""
    _check_files(settings, "cifar-100-python", ["train", "test", "meta"])
    data = CIFAR100(settings.root, train=part == "train", download=settings.download)
    return Arrays(images=data.data, targets=np.asarray(data.targets, dtype=np.int64))


def read_npz(settings: DataSettings, part: Part) -> Arrays:
    """Return a part of an ``.npz`` file; the arrays of the other part are not read.

    Integer labels become int64, floating point ones float32; a regression target of one
    dimension becomes (samples, 1), the shape of a model's output.

    Raises:
        DataError: The file is missing or damaged, or lacks an array.
    """
    path = Path(settings.root)
    if not path.is_file():
        raise DataError(f"data.root: want an .npz file, found no file {path}")
    try:
        # allow_pickle stays False: a data file cannot run code.
        with path.open("rb") as file, np.load(file) as arrays:
            images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
    except (KeyError, ValueError, OSError, EOFError, BadZipFile) as error:
        raise DataError(
            f"{path}: want an .npz file with {part}_images and {part}_labels, got: {error}"
        ) from error
    images = _convert_images(path, images)
    targets = _convert_labels(path, labels)
    return Arrays(images=images[..., None] if images.ndim == 3 else images, targets=targets)


def _convert_images(path: Path, images: NDArray[Any]) -> NDArray[Any]:
    """Return uint8 of whole numbers, float32 of others."""
    if np.issubdtype(images.dtype, np.integer):
        if images.size and not (images.min() >= 0 and images.max() <= 255):
            raise DataError(
                f"{path}: want images of whole numbers in 0..255, got {images.min()} to "
                f"{images.max()}; store others as floats"
            )
        return images.astype(np.uint8, copy=False)
    if not np.issubdtype(images.dtype, np.floating) or not np.isfinite(images).all():
        raise DataError(f"{path}: want images of finite numbers, got {images.dtype} with others")
    return images.astype(np.float32, copy=False)


def _convert_labels(path: Path, labels: NDArray[Any]) -> NDArray[Any]:
    """Return int64 classes, one dimension for one class per sample, or float32 values."""
    if np.issubdtype(labels.dtype, np.floating):
        if not np.isfinite(labels).all():
            raise DataError(f"{path}: want labels that are finite, got some that are not")
        values = labels.astype(np.float32)
        return values[:, None] if values.ndim == 1 else values
    if not np.issubdtype(labels.dtype, np.integer) and labels.dtype != np.bool_:
        raise DataError(f"{path}: want labels that are numbers, got {labels.dtype}")
    classes = labels.astype(np.int64)
    if classes.ndim == 2 and classes.shape[1] == 1:
        classes = classes[:, 0]
    if classes.ndim == 1 and classes.size and classes.min() < 0:
        raise DataError(f"{path}: want classes numbered from 0, got {classes.min()}")
    return classes


READERS: dict[str, Reader] = {
    "digits": read_digits,
    "mnist": read_mnist,
    "fashion_mnist": read_fashion_mnist,
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "npz": read_npz,
}

_IDX_FILES = [
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
]


def _check_files(settings: DataSettings, folder: str, names: list[str]) -> None:
    """Refuse a root that lacks one of the files, unless they may be downloaded."""
    missing = [name for name in names if not (Path(settings.root) / folder / name).is_file()]
    if missing and not settings.download:
        raise DataError(
            f"data.root: {Path(settings.root) / folder / missing[0]} is missing; put the "
            f"{settings.name} files there or set download = true in [data]"
        )
