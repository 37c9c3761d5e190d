import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.datasets import CIFAR10, CIFAR100

from autocompress.data.load import load_data
from autocompress.data.read import READERS, Arrays, Part, read_npz
from autocompress.data.settings import DataName, DataSettings
from autocompress.data.source import InputSpec
from autocompress.errors import DataError, SettingError

CPU = torch.device("cpu")


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def write_idx_set(folder: Path) -> None:
    """Write 20 training and 10 test images, filled with ten times their class."""
    for part, samples in (("train", 20), ("t10k", 10)):
        labels = (np.arange(samples) % 10).astype(np.uint8)
        images = np.broadcast_to(labels[:, None, None] * 10, (samples, 28, 28)).astype(np.uint8)
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels)


def write_npz(path: Path, **changes: NDArray[Any]) -> Path:
    """Write 20 training and 4 test images of 5 x 6 pixels in 3 colours and 2 classes."""
    rng = np.random.default_rng(0)
    arrays: dict[str, NDArray[Any]] = {}
    for part, samples in (("train", 20), ("test", 4)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (samples, 5, 6, 3), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(samples, dtype=np.uint8) % 2
    np.savez(path, **{**arrays, **changes})  # type: ignore[arg-type]
    return path


def test_digits_need_no_files() -> None:
    data = load_data(DataSettings(), CPU)

    assert (len(data.train), len(data.validation), len(data.open_test())) == (1294, 143, 360)
    assert data.classes == 10
    assert data.input_spec.shape == (1, 8, 8)
    inputs = torch.cat([x for x, _ in data.train.batches(500)])
    assert abs(float(inputs.mean())) < 0.02
    assert abs(float(inputs.std()) - 1) < 0.02


def test_parts_of_the_digits_do_not_overlap() -> None:
    data = load_data(DataSettings(), CPU)

    parts = [data.train, data.validation, data.open_test()]
    seen = [{x.numpy().tobytes() for batch, _ in p.batches(2000) for x in batch} for p in parts]

    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")]
)
def test_idx_files_are_read(tmp_path: Path, name: DataName, folder: str) -> None:
    write_idx_set(tmp_path / folder / "raw")

    data = load_data(DataSettings(name=name, root=str(tmp_path), validation=0.5), CPU)

    assert data.input_spec.shape == (1, 28, 28)
    assert data.classes == 10
    mean, std = data.input_spec.mean[0], data.input_spec.std[0]
    for source in (data.train, data.validation, data.open_test()):
        ((inputs, targets),) = source.batches(100)
        assert sorted(targets.tolist()) == list(range(10))
        pixels = (inputs[:, 0, 0, 0] * std + mean) * 255
        # float32 of numbers up to 255: rounding stays far below 1e-3.
        torch.testing.assert_close(pixels, targets * 10.0, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_a_missing_file_is_named_with_the_way_out(tmp_path: Path, name: DataName) -> None:
    with pytest.raises(DataError, match=r"is missing; put the .* set download = true") as caught:
        load_data(DataSettings(name=name, root=str(tmp_path)), CPU)

    assert str(tmp_path) in str(caught.value)


def test_a_missing_root_is_refused_with_the_settings() -> None:
    with pytest.raises(SettingError, match=r"data\.root: want the folder of the mnist files"):
        DataSettings(name="mnist")


def test_the_test_part_is_read_when_asked_for_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Part] = []

    def read_and_note(settings: DataSettings, part: Part) -> Arrays:
        asked.append(part)
        return read_npz(settings, part)

    monkeypatch.setitem(READERS, "npz", read_and_note)
    settings = DataSettings(name="npz", root=str(write_npz(tmp_path / "set.npz")))

    data = load_data(settings, CPU)
    before = list(asked)
    test = data.open_test()

    assert before == ["train"]
    assert asked == ["train", "test"]
    assert len(test) == 4


def test_npz_images_become_normalised_inputs(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "set.npz")

    data = load_data(DataSettings(name="npz", root=str(path)), CPU)

    assert data.input_spec.shape == (3, 5, 6)
    assert data.classes == 2
    ((inputs, targets),) = data.open_test().batches(10)
    with np.load(path) as arrays:
        images = arrays["test_images"] / 255
    wanted = (images - np.array(data.input_spec.mean)) / np.array(data.input_spec.std)
    assert targets.dtype == torch.int64
    torch.testing.assert_close(inputs, torch.tensor(wanted.transpose(0, 3, 1, 2)).float())


def test_a_regression_target_has_the_shape_of_an_output(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 20)
    path = write_npz(tmp_path / "set.npz", train_labels=values)

    data = load_data(DataSettings(name="npz", root=str(path)), CPU)

    _, targets = next(data.train.batches(3))
    assert targets.shape == (3, 1)
    assert targets.dtype == torch.float32
    assert data.classes == 1


def test_augmentation_with_a_target_per_pixel_is_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "set.npz", train_labels=np.zeros((20, 5, 6), dtype=np.int64))

    with pytest.raises(SettingError, match="only the image would move"):
        load_data(DataSettings(name="npz", root=str(path), flip=True), CPU)


def test_a_set_above_the_limit_stays_in_host_memory_with_equal_batches(tmp_path: Path) -> None:
    settings = DataSettings(name="npz", root=str(write_npz(tmp_path / "set.npz")), crop=1)
    held = load_data(settings, CPU)
    streamed = load_data(replace(settings, memory_limit_bytes=0), CPU)

    pairs = zip(
        held.train.batches(4, seed=1, augment=True),
        streamed.train.batches(4, seed=1, augment=True),
        strict=True,
    )

    assert all(torch.equal(a, b) and torch.equal(c, d) for (a, c), (b, d) in pairs)


def damage_text(path: Path) -> None:
    path.write_text("not a zip")


def damage_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def lose_labels(path: Path) -> None:
    with np.load(path) as arrays:
        images = arrays["train_images"]
    np.savez(path, train_images=images)


def lose_samples(path: Path) -> None:
    write_npz(path, train_labels=np.zeros(19, dtype=np.int64))


@pytest.mark.parametrize(
    "damage", [Path.unlink, damage_text, damage_end, lose_labels, lose_samples]
)
def test_a_damaged_npz_is_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = write_npz(tmp_path / "set.npz")
    damage(path)

    with pytest.raises(DataError):
        load_data(DataSettings(name="npz", root=str(path)), CPU)


def test_an_npz_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "set.npz", train_labels=np.array([{}] * 20, dtype=object))

    with pytest.raises(DataError, match="allow_pickle"):
        load_data(DataSettings(name="npz", root=str(path)), CPU)


def test_test_images_of_another_shape_are_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "set.npz", test_images=np.zeros((4, 5, 5, 3), dtype=np.uint8))
    data = load_data(DataSettings(name="npz", root=str(path)), CPU)

    with pytest.raises(DataError, match=r"test images: want .* \(3, 5, 6\), got \(3, 5, 5\)"):
        data.open_test()


def test_cifar10_may_be_an_npz(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "cifar10.npz")

    data = load_data(DataSettings(name="cifar10", root=str(path)), CPU)

    assert data.input_spec.mean == (0.4914, 0.4822, 0.4465)


@pytest.mark.parametrize(
    ("name", "kind", "folder", "label", "parts"),
    [
        (
            "cifar10",
            CIFAR10,
            "cifar-10-batches-py",
            "labels",
            [f"data_batch_{number}" for number in range(1, 6)],
        ),
        ("cifar100", CIFAR100, "cifar-100-python", "fine_labels", ["train"]),
    ],
)
def test_cifar_files_are_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: DataName,
    kind: type[CIFAR10],
    folder: str,
    label: str,
    parts: list[str],
) -> None:
    test, meta = kind.test_list[0][0], kind.meta["filename"]
    rng = np.random.default_rng(0)
    (tmp_path / folder).mkdir()
    for file in [*parts, test]:
        batch = {"data": rng.integers(0, 256, (10, 3072), dtype=np.uint8), label: [*range(10)]}
        (tmp_path / folder / file).write_bytes(pickle.dumps(batch))
    (tmp_path / folder / meta).write_bytes(pickle.dumps({kind.meta["key"]: ["x"] * 10}))
    # The small files have other checksums than the real ones.
    monkeypatch.setattr(kind, "train_list", [[file, None] for file in parts])
    monkeypatch.setattr(kind, "test_list", [[test, None]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": None})

    data = load_data(DataSettings(name=name, root=str(tmp_path), validation=0.2), CPU)

    assert len(data.train) + len(data.validation) == 10 * len(parts)
    assert len(data.open_test()) == 10
    assert data.input_spec.shape == (3, 32, 32)


def test_training_may_be_limited_without_touching_validation(tmp_path: Path) -> None:
    settings = DataSettings(name="npz", root=str(write_npz(tmp_path / "set.npz")))

    data = load_data(replace(settings, train_limit=5), CPU)

    assert (len(data.train), len(data.validation)) == (5, 2)


def test_a_given_input_spec_is_used(tmp_path: Path) -> None:
    settings = DataSettings(name="npz", root=str(write_npz(tmp_path / "set.npz")))
    spec = InputSpec(shape=(3, 5, 6), mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))

    data = load_data(settings, CPU, input_spec=spec)

    assert data.input_spec == spec


@pytest.mark.parametrize("validation", [0.0, 1.0, float("nan")])
def test_a_share_without_two_parts_is_refused(validation: float) -> None:
    with pytest.raises(SettingError, match=r"data\.validation: want a share between 0 and 1"):
        DataSettings(validation=validation)


@pytest.mark.gpu
def test_cuda_gives_the_batches_of_the_cpu(tmp_path: Path) -> None:
    settings = DataSettings(
        name="npz", root=str(write_npz(tmp_path / "set.npz")), crop=1, flip=True
    )
    left, right = (load_data(settings, torch.device(kind)).train for kind in ("cpu", "cuda"))

    for (a, c), (b, d) in zip(
        left.batches(4, seed=1, augment=True), right.batches(4, seed=1, augment=True), strict=True
    ):
        assert b.is_cuda
        assert d.is_cuda
        # One fused multiply-add less on one side: float32 rounding of values below 3.
        torch.testing.assert_close(a, b.cpu(), atol=1e-6, rtol=0)
        assert torch.equal(c, d.cpu())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train_labels": np.full(20, -1)}, "want classes numbered from 0, got -1"),
        ({"train_labels": np.full(20, "cat")}, "want labels that are numbers"),
        ({"train_labels": np.full(20, np.nan)}, "want labels that are finite"),
        ({"train_images": np.full((20, 5, 6), np.nan)}, "want images of finite numbers"),
        ({"train_images": np.full((20, 5, 6), 256)}, r"want images of whole numbers in 0\.\.255"),
    ],
)
def test_values_that_mean_nothing_are_refused(
    changes: dict[str, NDArray[Any]], sentence: str, tmp_path: Path
) -> None:
    path = write_npz(tmp_path / "set.npz", **changes)

    with pytest.raises(DataError, match=sentence):
        read_npz(DataSettings(name="npz", root=str(path)), "train")


def test_whole_numbers_of_any_width_are_the_same_images_and_classes(tmp_path: Path) -> None:
    images = np.arange(20 * 30).reshape(20, 5, 6) % 256
    labels = np.arange(20).reshape(20, 1) % 2
    path = write_npz(tmp_path / "set.npz", train_images=images, train_labels=labels)

    arrays = read_npz(DataSettings(name="npz", root=str(path)), "train")

    assert arrays.images.dtype == np.uint8
    assert np.array_equal(arrays.images[..., 0], images)
    assert arrays.targets.tolist() == labels[:, 0].tolist()


def test_a_class_that_only_the_test_set_has_is_named(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "set.npz", test_labels=np.arange(4))
    data = load_data(DataSettings(name="npz", root=str(path)), CPU)

    with pytest.raises(DataError, match=r"want classes of the training set, 0\.\.1, got 3"):
        data.open_test()
