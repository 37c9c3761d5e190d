import pytest
import torch

from autocompress.data.source import InputSpec
from autocompress.data.tensors import Augmentation, TensorSource, normalise

CPU = torch.device("cpu")
PLAIN = InputSpec(shape=(1, 4, 4), mean=(0.0,), std=(1.0,))


def make_source(samples: int, augmentation: Augmentation | None = None) -> TensorSource:
    """Return a source whose images are filled with 1, 2, ... and whose targets number them."""
    numbers = torch.arange(samples)
    images = (numbers + 1).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    return TensorSource(
        images=images,
        targets=numbers,
        spec=PLAIN,
        device=CPU,
        augmentation=augmentation or Augmentation(),
    )


def read_targets(source: TensorSource, size: int, seed: int | None) -> list[int]:
    return [int(target) for _, batch in source.batches(size, seed=seed) for target in batch]


def test_without_a_seed_every_sample_comes_in_order() -> None:
    source = make_source(7)

    assert read_targets(source, 3, None) == list(range(7))


def test_a_seed_shuffles_and_drops_the_short_last_batch() -> None:
    source = make_source(7)

    drawn = read_targets(source, 3, 0)

    assert len(drawn) == len(set(drawn)) == 6
    assert drawn != sorted(drawn)


@pytest.mark.parametrize("samples", [2, 6])
def test_a_seed_keeps_an_only_batch_and_whole_batches(samples: int) -> None:
    source = make_source(samples)

    assert sorted(read_targets(source, 3, 0)) == list(range(samples))


def test_one_seed_gives_one_epoch_and_another_seed_another() -> None:
    source = make_source(40, Augmentation(crop=1, flip=True))

    first = [x for x, _ in source.batches(8, seed=5, augment=True)]
    again = [x for x, _ in source.batches(8, seed=5, augment=True)]
    other = [x for x, _ in source.batches(8, seed=6, augment=True)]

    assert torch.equal(torch.cat(first), torch.cat(again))
    assert not torch.equal(torch.cat(first), torch.cat(other))


def test_inputs_follow_their_targets() -> None:
    source = make_source(20)

    for inputs, targets in source.batches(8, seed=3):
        # Pixels are (target + 1) / 255: float32 rounds to 6e-8 of 1.
        torch.testing.assert_close(inputs[:, 0, 0, 0] * 255, targets + 1.0)


def test_each_sample_is_cropped_and_mirrored_by_its_own_draw() -> None:
    image = torch.arange(1, 17, dtype=torch.uint8).view(1, 4, 4)
    images = image.expand(400, 1, 4, 4)
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))
    windows = [padded[:, y : y + 4, x : x + 4] for y in range(3) for x in range(3)]
    possible = [w for window in windows for w in (window, window.flip(2))]

    drawn = Augmentation(crop=1, flip=True).apply(images, torch.Generator().manual_seed(0))

    found = [[torch.equal(one, window) for window in possible] for one in drawn]
    assert all(sum(row) == 1 for row in found)
    # 400 draws of 18 equally likely windows: each is missed with p < 2e-10.
    assert all(any(row[index] for row in found) for index in range(18))


def test_augmentation_waits_to_be_asked_for() -> None:
    source = make_source(6, Augmentation(crop=2, flip=True))

    plain = torch.cat([x for x, _ in source.batches(6, seed=1)])
    in_order = torch.cat([x for x, _ in source.batches(6, augment=True)])

    assert plain.min() > 0  # A crop would have brought in black.
    assert in_order.min() > 0


def test_bytes_and_floats_are_normalised_alike() -> None:
    spec = InputSpec(shape=(2, 1, 2), mean=(0.5, 0.25), std=(0.5, 0.125))
    pixels = torch.tensor([[[[0, 255]], [[51, 102]]]], dtype=torch.uint8)

    inputs = normalise(pixels, spec)

    torch.testing.assert_close(inputs, torch.tensor([[[[-1.0, 1.0]], [[-0.4, 1.2]]]]))
    torch.testing.assert_close(normalise(pixels / 255, spec), inputs)


def test_a_subset_is_drawn_by_its_seed() -> None:
    source = make_source(30)

    subset = source.take(10, 0)

    assert len(subset) == 10
    assert torch.equal(subset.targets, source.take(10, 0).targets)
    assert not torch.equal(subset.targets, source.take(10, 1).targets)
    assert source.take(30, 0) is source


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="size of a batch must be 1 or more, got 0"):
        next(make_source(3).batches(0))
