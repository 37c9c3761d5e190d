"""Open a data set by its settings."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autocompress.data.folder import FileSource, decode_all, find_form, list_images
from autocompress.data.read import READERS, Arrays, Part
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
_MEASURED = 4096  # So many images, evenly spaced, say how inputs are normalised.


def load_data(
    settings: DataSettings, device: torch.device, *, input_spec: InputSpec | None = None
) -> DataSet:
    """Return the data set; its test part is not read before ``open_test`` is called.

    Args:
        settings: Which data set, and how it is split and augmented.
        device: Where the batches go.
        input_spec: Normalise by this, for example by a stored model's; None measures the
            training set.

    Raises:
        DataError: Files are missing or malformed, or a part would be empty.
        SettingError: The settings ask for something that this data set cannot do.
    """
    whole = _open_part(settings, "train", device, input_spec)
    spec = whole.spec
    augmentation = Augmentation(crop=settings.crop, flip=settings.flip)
    if whole.targets.ndim > 2 and augmentation != Augmentation():
        raise SettingError(
            "data.crop and data.flip: want 0 and false with a target per pixel, because only "
            f"the image would move; got {settings.crop} and {settings.flip}"
        )
    places, held_out = split_samples(whole.targets, settings.validation, settings.split_seed)
    train = replace(whole.select(places), augmentation=augmentation)

    def open_test() -> Source:
        test = _open_part(settings, "test", device, spec)
        known, found = _count_outputs(whole.targets), _count_outputs(test.targets)
        if test.targets.ndim == 1 and found > known:
            raise DataError(
                f"test labels: want classes of the training set, 0..{known - 1}, got {found - 1}"
            )
        return test

    return DataSet(
        train=train.take(settings.train_limit or len(train), settings.split_seed),
        validation=whole.select(held_out),
        open_test=open_test,
        input_spec=spec,
        classes=_count_outputs(whole.targets),
    )


def _open_part(
    settings: DataSettings, part: Part, device: torch.device, spec: InputSpec | None
) -> TensorSource | FileSource:
    """Return all samples of a part; ``spec`` None is measured on them."""
    if settings.name == "folder":
        source = _open_folder(settings, part, device, spec)
    else:
        source = _hold(settings, READERS[settings.name](settings, part), device, spec)
    if spec is not None and source.spec.shape != spec.shape:
        raise DataError(
            f"{part} images: want (channels, height, width) {spec.shape}, got {source.spec.shape}"
        )
    return source


def _open_folder(
    settings: DataSettings, part: Part, device: torch.device, spec: InputSpec | None
) -> TensorSource | FileSource:
    """Return the images of a folder, decoded now when they fit into memory."""
    paths, labels = list_images(settings, part)
    # The first training image decides for the test images too.
    form = find_form(
        settings, paths[0] if part == "train" else list_images(settings, "train")[0][0]
    )
    if len(paths) * int(np.prod(form.shape)) <= settings.memory_limit_bytes:
        return _hold(settings, decode_all(form, paths, labels), device, spec)
    if spec is None:
        stride = -(-len(paths) // _MEASURED)
        sample = decode_all(form, paths[::stride], labels[::stride])
        spec = _make_spec(settings, sample.images)
    return FileSource(
        paths=tuple(paths),
        targets=torch.tensor(labels),
        form=form,
        spec=replace(spec, shape=form.shape),
        device=device,
    )


def _hold(
    settings: DataSettings, arrays: Arrays, device: torch.device, spec: InputSpec | None
) -> TensorSource:
    """Return the samples as tensors, on the device when they fit there."""
    _, height, width, channels = arrays.images.shape
    if spec is None:
        spec = _make_spec(settings, arrays.images)
    fits = arrays.images.nbytes <= settings.memory_limit_bytes
    home = device if fits else torch.device("cpu")
    # Channels last in files, channels first in PyTorch.
    images = torch.from_numpy(arrays.images).permute(0, 3, 1, 2).contiguous()
    return TensorSource(
        images=images.to(home),
        targets=torch.from_numpy(arrays.targets).to(home),
        spec=replace(spec, shape=(channels, height, width)),
        device=device,
    )


def _make_spec(settings: DataSettings, images: NDArray[np.uint8 | np.float32]) -> InputSpec:
    """Return shape and normalisation; the latter measured unless the data set is well known."""
    _, height, width, channels = images.shape
    shape = (channels, height, width)
    if settings.name in _KNOWN and channels == len(_KNOWN[settings.name][0]):
        mean, std = _KNOWN[settings.name]
        return InputSpec(shape=shape, mean=mean, std=std)
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    sample = images[:: -(-len(images) // _MEASURED)]
    means = sample.mean(axis=(0, 1, 2), dtype=np.float64) / scale
    stds = sample.std(axis=(0, 1, 2), dtype=np.float64) / scale
    return InputSpec(
        shape=shape,
        mean=tuple(float(value) for value in means),
        # A channel that never changes is only shifted.
        std=tuple(float(value) if value > 1e-6 else 1.0 for value in stds),
    )


def _count_outputs(targets: Tensor) -> int:
    """Return the classes of integer labels, or the values of one regression target."""
    if targets.is_floating_point():
        return int(targets.shape[1])
    return int(targets.max()) + 1
