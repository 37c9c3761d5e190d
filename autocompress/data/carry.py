"""A data set as arrays, to be opened again where its files are not."""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autocompress.data.folder import FileSource
from autocompress.data.source import DataSet, InputSpec, Source
from autocompress.data.tensors import Augmentation, TensorSource
from autocompress.errors import DataError


@dataclass(frozen=True, kw_only=True)
class CarriedSource:
    """What a :class:`~autocompress.data.tensors.TensorSource` holds.

    Attributes:
        images: As there.
        strides: Of those images: one channel can have several, and kernels that are chosen by
            them round differently.
        targets: As there.
        spec: As there.
        augmentation: As there.
    """

    images: NDArray[np.uint8 | np.float32]
    strides: tuple[int, ...]
    targets: NDArray[Any]
    spec: InputSpec
    augmentation: Augmentation

    def open(self, device: torch.device, memory_limit_bytes: int) -> TensorSource:
        """Return the source; its images share the array's memory unless they go to a GPU.

        Args:
            device: Where batches go.
            memory_limit_bytes: Larger sets stay in host memory.
        """
        with warnings.catch_warnings():
            # The array may be read-only; so are images to everyone who gets batches of them.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            images = torch.from_numpy(self.images)
        home = device if self.images.nbytes <= memory_limit_bytes else torch.device("cpu")
        return TensorSource(
            images=images.as_strided(images.shape, self.strides).to(home),
            targets=torch.from_numpy(self.targets.copy()).to(home),
            spec=self.spec,
            device=device,
            augmentation=self.augmentation,
        )


# Sets that are streamed stay paths of files, which every machine must then see.
Carried = CarriedSource | FileSource


@dataclass(frozen=True, kw_only=True)
class CarriedData:
    """The parts of a data set, the test set among them; nothing here looks into it.

    Attributes:
        train: Training samples.
        validation: Validation samples.
        test: Test samples, or why they cannot be read.
        input_spec: Shape and normalisation of an input.
        classes: Outputs that a model needs.
    """

    train: Carried
    validation: Carried
    test: Carried | str
    input_spec: InputSpec
    classes: int

    def open(self, device: torch.device, memory_limit_bytes: int) -> DataSet:
        """Return the data set, with its batches on ``device``."""

        def open_part(part: Carried) -> Source:
            if isinstance(part, CarriedSource):
                return part.open(device, memory_limit_bytes)
            return replace(part, device=device)

        def open_test() -> Source:
            if isinstance(self.test, str):
                raise DataError(self.test)
            return open_part(self.test)

        return DataSet(
            train=open_part(self.train),
            validation=open_part(self.validation),
            open_test=open_test,
            input_spec=self.input_spec,
            classes=self.classes,
        )


def carry_data(data: DataSet) -> CarriedData:
    """Return ``data`` as arrays; reads its test set."""
    test: Carried | str
    try:
        test = carry_source(data.open_test())
    except DataError as error:  # It matters to whoever finishes a model, and not before.
        test = str(error)
    return CarriedData(
        train=carry_source(data.train),
        validation=carry_source(data.validation),
        test=test,
        input_spec=data.input_spec,
        classes=data.classes,
    )


def carry_source(source: Source) -> Carried:
    """Return a source of :func:`~autocompress.data.load.load_data` as arrays.

    Raises:
        TypeError: It is another source.
    """
    if isinstance(source, FileSource):
        return replace(source, device=torch.device("cpu"))
    if not isinstance(source, TensorSource):
        raise TypeError(f"want a source of tensors or files, got {type(source).__name__}")
    images = source.images.cpu().contiguous()
    return CarriedSource(
        images=images.numpy(),
        strides=images.stride(),
        targets=source.targets.cpu().numpy(),
        spec=source.spec,
        augmentation=source.augmentation,
    )
