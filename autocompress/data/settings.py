"""Which data set a task reads and how it is split and augmented."""

from dataclasses import dataclass
from typing import Literal

from autocompress.errors import SettingError

DataName = Literal["digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "folder", "npz"]


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Name a data set; also its TOML table.

    Attributes:
        name: ``digits`` needs no files; ``folder`` reads ``root/train/CLASS/*`` and
            ``root/test/CLASS/*``; ``npz`` reads one file with ``train_images``,
            ``train_labels``, ``test_images`` and ``test_labels``.
        root: Folder of the files, or the ``.npz`` file itself (``npz`` and ``cifar10``).
        download: Fetch missing files of the sets that torchvision knows.
        validation: Share of the training set cut off for selection, between 0 and 1.
        split_seed: Seed of that cut.
        crop: Shift each training image by up to so many pixels, filling with black.
        flip: Mirror half of the training images.
        train_limit: Train on so many images of the training part; 0 takes all.
        image_size: Side to which the images of a ``folder`` are scaled and centre-cropped;
            0 keeps them, and all must then have one size.
        memory_limit_bytes: Sets above this size are streamed and not held on the device.
    """

    name: DataName = "digits"
    root: str = ""
    download: bool = False
    validation: float = 0.1
    split_seed: int = 0
    crop: int = 0
    flip: bool = False
    train_limit: int = 0
    image_size: int = 0
    memory_limit_bytes: int = 2**31

    def __post_init__(self) -> None:
        if not 0 < self.validation < 1:
            raise SettingError(
                f"data.validation: want a share between 0 and 1, got {self.validation}"
            )
        for key in ("split_seed", "crop", "train_limit", "image_size", "memory_limit_bytes"):
            if not getattr(self, key) >= 0:
                raise SettingError(f"data.{key}: want 0 or more, got {getattr(self, key)}")
        if self.name != "digits" and not self.root:
            raise SettingError(
                f"data.root: want the folder of the {self.name} files, got nothing; set it, "
                'or use data.name = "digits", which needs no files'
            )
