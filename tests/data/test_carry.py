import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autocompress.data.carry import CarriedSource, carry_data
from autocompress.data.load import load_data
from autocompress.data.settings import DataSettings
from autocompress.data.source import DataSet, Source
from autocompress.errors import DataError

CPU = torch.device("cpu")
DIGITS = DataSettings(crop=1, flip=True, train_limit=100)


def send(data: DataSet) -> DataSet:
    """Return ``data`` as another process gets it: from arrays that may not be written to."""
    carried = pickle.loads(pickle.dumps(carry_data(data)))
    for part in (carried.train, carried.validation, carried.test):
        if isinstance(part, CarriedSource):
            part.images.flags.writeable = False
    opened: DataSet = carried.open(CPU, 2**31)
    return opened


def read(source: Source) -> list[torch.Tensor]:
    """Return two epochs: in order, and shuffled and augmented."""
    epochs = (source.batches(32), source.batches(32, seed=3, augment=True))
    return [tensor for epoch in epochs for batch in epoch for tensor in batch]


def assert_equal(first: DataSet, second: DataSet) -> None:
    for one, other in (
        (first.train, second.train),
        (first.validation, second.validation),
        (first.open_test(), second.open_test()),
        (first.train.take(40, 5), second.train.take(40, 5)),
    ):
        pairs = list(zip(read(one), read(other), strict=True))
        assert pairs
        assert all(torch.equal(*pair) for pair in pairs)
    assert (first.classes, first.input_spec) == (second.classes, second.input_spec)


def test_carried_samples_are_the_same_in_the_same_order() -> None:
    data = load_data(DIGITS, CPU)

    assert_equal(data, send(data))


def test_targets_of_a_carried_set_may_be_written_to() -> None:
    _, targets = next(send(load_data(DIGITS, CPU)).train.batches(32))

    targets.add_(1)  # A loss of the user may; a read-only page would end the process.


def test_a_set_without_its_test_part_is_carried_until_someone_asks(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 1)).astype(np.uint8)
    labels = np.arange(40) % 4
    np.savez(path, train_images=images, train_labels=labels)
    data = load_data(DataSettings(name="npz", root=str(path)), CPU)
    with pytest.raises(DataError) as here:
        data.open_test()

    sent = send(data)

    assert len(sent.train) == len(data.train)
    with pytest.raises(DataError) as there:
        sent.open_test()
    assert str(there.value) == str(here.value)


def test_sets_that_are_streamed_stay_files(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for label in ("a", "b"):
            folder = tmp_path / part / label
            folder.mkdir(parents=True)
            for number in range(20):
                Image.new("L", (6, 6), number * 10).save(folder / f"{number}.png")
    settings = DataSettings(name="folder", root=str(tmp_path), memory_limit_bytes=100)
    data = load_data(settings, CPU)

    carried = carry_data(data)

    assert not isinstance(carried.train, CarriedSource)
    assert len(pickle.dumps(replace(carried, test=""))) < 20_000
    assert_equal(data, send(data))
