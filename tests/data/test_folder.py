from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autocompress.data.folder import FileSource
from autocompress.data.load import load_data
from autocompress.data.settings import DataSettings
from autocompress.data.tensors import TensorSource
from autocompress.errors import DataError

CPU = torch.device("cpu")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder of 2 classes with 10 training images and 1 test image each."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 1)):
        for name in ("cat", "dog"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path


def test_streamed_batches_equal_those_held_as_tensors(root: Path) -> None:
    settings = DataSettings(name="folder", root=str(root), crop=1, flip=True)
    held = load_data(settings, CPU)
    streamed = load_data(replace(settings, memory_limit_bytes=1000), CPU)

    assert isinstance(held.train, TensorSource)
    assert isinstance(streamed.train, FileSource)
    assert streamed.input_spec == held.input_spec
    assert streamed.classes == held.classes == 2
    for seed in (None, 3):
        left = list(held.train.batches(4, seed=seed, augment=True))
        right = list(streamed.train.batches(4, seed=seed, augment=True))
        assert len(left) == len(right)
        for (a, c), (b, d) in zip(left, right, strict=True):
            assert torch.equal(a, b)
            assert torch.equal(c, d)


def test_a_streamed_epoch_may_be_left_early(root: Path) -> None:
    settings = DataSettings(name="folder", root=str(root), memory_limit_bytes=0)
    epoch = load_data(settings, CPU).train.batches(2, seed=0)

    inputs, _ = next(iter(epoch))
    epoch.close()  # type: ignore[attr-defined]

    assert inputs.shape == (2, 3, 6, 8)


def test_a_streamed_subset_is_drawn_by_its_seed(root: Path) -> None:
    settings = DataSettings(name="folder", root=str(root), memory_limit_bytes=0, train_limit=5)

    data = load_data(settings, CPU)

    assert len(data.train) == 5
    assert len(data.train.take(3, 0)) == 3
    assert data.train.take(5, 0) is data.train


def test_images_are_scaled_when_asked(root: Path) -> None:
    data = load_data(DataSettings(name="folder", root=str(root), image_size=5), CPU)

    assert data.input_spec.shape == (3, 5, 5)


def test_images_of_two_sizes_need_a_size(root: Path) -> None:
    Image.new("RGB", (9, 9)).save(root / "train" / "dog" / "odd.png")

    with pytest.raises(DataError, match=r"odd\.png: want 8 x 6 pixels .* set data\.image_size"):
        load_data(DataSettings(name="folder", root=str(root)), CPU)


def test_grey_images_have_one_channel(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(3):
                Image.new("L", (4, 4), number).save(tmp_path / part / name / f"{number}.png")

    data = load_data(DataSettings(name="folder", root=str(tmp_path), validation=0.5), CPU)

    assert data.input_spec.shape == (1, 4, 4)


def test_the_test_images_are_not_opened_before_they_are_asked_for(root: Path) -> None:
    (root / "test" / "cat" / "0.png").write_text("no image")

    data = load_data(DataSettings(name="folder", root=str(root)), CPU)

    with pytest.raises(DataError, match=r"0\.png: cannot be read as an image"):
        data.open_test()


def test_test_labels_follow_the_training_classes(root: Path) -> None:
    (root / "test" / "cat" / "0.png").unlink()
    (root / "test" / "cat").rmdir()
    data = load_data(DataSettings(name="folder", root=str(root)), CPU)

    ((_, targets),) = data.open_test().batches(10)

    assert targets.tolist() == [1]


def test_an_unknown_test_class_is_refused(root: Path) -> None:
    (root / "test" / "cow").mkdir()
    data = load_data(DataSettings(name="folder", root=str(root)), CPU)

    with pytest.raises(DataError, match="want a class of the training set, got 'cow'"):
        data.open_test()


def test_a_missing_folder_says_where_images_go(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train is missing; put the images of each class into"):
        load_data(DataSettings(name="folder", root=str(tmp_path)), CPU)
