"""Open a data set by its settings."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from autocompress.data.read import READERS, Arrays
from autocompress.data.settings import DataSettings
from autocompress.data.source import DataSet, InputSpec, Source
from autocompress.data.split import split_samples
from autocompress.data.tensors import Augmentation, TensorSource
from autocompress.errors import DataError, SettingError

# Mean and standard deviation of the training images, per channel.
_KNOWN = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


def load_data(settings: DataSettings, device: torch.device) -> DataSet:
    """Return the data set; its test part is not read before ``open_test`` is called.

    Raises:
        DataError: Files are missing or malformed, or a part would be empty.
        SettingError: The settings ask for something that this data set cannot do.
    """
    arrays = READERS[settings.name](settings, "train")
    augmentation = Augmentation(crop=settings.crop, flip=settings.flip)
    if arrays.targets.ndim > 2 and augmentation != Augmentation():
        raise SettingError(
            "data.crop and data.flip: want 0 and false with a target per pixel, because only "
            f"the image would move; got {settings.crop} and {settings.flip}"
        )
    spec = _measure_spec(settings, arrays.images)
    whole = _hold(arrays, spec, device, settings)
    train, validation = split_samples(whole.targets, settings.validation, settings.split_seed)

    def open_test() -> Source:
        test = READERS[settings.name](settings, "test")
        if (shape := _shape(test.images)) != spec.shape:
            raise DataError(f"test images: want shape {spec.shape} as in training, got {shape}")
        return _hold(test, spec, device, settings)

    part = replace(whole.select(train), augmentation=augmentation)
    return DataSet(
        train=part.take(settings.train_limit or len(part), settings.split_seed),
        validation=whole.select(validation),
        open_test=open_test,
        input_spec=spec,
        classes=_count_outputs(arrays),
    )


def _shape(images: NDArray[np.generic]) -> tuple[int, ...]:
    """Return (channels, height, width)."""
    _, height, width, channels = images.shape
    return (channels, height, width)


def _hold(
    arrays: Arrays, spec: InputSpec, device: torch.device, settings: DataSettings
) -> TensorSource:
    """Return the samples as tensors, on the device when they fit there."""
    fits = arrays.images.nbytes <= settings.memory_limit_bytes
    home = device if fits else torch.device("cpu")
    # Channels last in files, channels first in PyTorch.
    images = torch.from_numpy(arrays.images).permute(0, 3, 1, 2).contiguous()
    targets = torch.from_numpy(arrays.targets)
    return TensorSource(images=images.to(home), targets=targets.to(home), spec=spec, device=device)


def _measure_spec(settings: DataSettings, images: NDArray[np.generic]) -> InputSpec:
    """Return shape and normalisation; the latter measured when the data set is not a known one."""
    shape = _shape(images)
    if settings.name in _KNOWN:
        mean, std = _KNOWN[settings.name]
        return InputSpec(shape=shape, mean=mean, std=std)
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    means = images.mean(axis=(0, 1, 2), dtype=np.float64) / scale
    stds = images.std(axis=(0, 1, 2), dtype=np.float64) / scale
    return InputSpec(
        shape=shape,
        mean=tuple(float(value) for value in means),
        # A channel that never changes stays as it is.
        std=tuple(float(value) if value > 1e-6 else 1.0 for value in stds),
    )


def _count_outputs(arrays: Arrays) -> int:
    """Return the classes of integer labels, or the values of one regression target."""
    if np.issubdtype(arrays.targets.dtype, np.integer):
        return int(arrays.targets.max()) + 1
    return int(arrays.targets.shape[1])
