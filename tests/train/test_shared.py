import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress.quantize.sharing import Means, share_values
from autocompress.train.loop import TrainSettings, fork_seed, score_model, train_model_
from autocompress.train.objective import accuracy, make_task_loss
from autocompress.train.shared import Group, bake_weights_, share_weights_

LOSS = make_task_loss(functional.cross_entropy)


class Blobs:
    """Three classes of small images around three patterns."""

    def __len__(self) -> int:
        return 96

    def batches(
        self, size: int, *, seed: int | None = None, augment: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(0 if seed is None else seed)
        size = min(size, len(self))
        for _ in range(len(self) // size):
            targets = torch.randint(0, 3, (size,), generator=generator)
            centres = functional.one_hot(targets, 16).float().reshape(-1, 1, 4, 4)
            yield torch.randn(size, 1, 4, 4, generator=generator) + 3 * centres, targets


def make_net() -> nn.Sequential:
    with fork_seed(0):
        return nn.Sequential(
            nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3)
        )


def share(net: nn.Module, *names: str, levels: int = 4) -> Group:
    weights = [net.get_parameter(f"{name}.weight") for name in names]
    kept = [one.abs() > one.abs().median() for one in weights]
    found = share_values(weights, Means(levels=levels), kept=kept)
    return Group(found.codebook, dict(zip(names, found.codes, strict=True)))


def look(net: nn.Module, name: str) -> Tensor:
    weight = net.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_sharing_and_baking_give_the_values_of_the_codes(dtype: torch.dtype) -> None:
    net = make_net().to(dtype)
    before = list(net.state_dict())
    group = share(net, "0", "3")

    (values,) = share_weights_(net, [group])
    assert torch.equal(values, group.codebook[1:])
    assert sum(parameter is values for parameter in net.parameters()) == 1
    for name, codes in group.codes.items():
        assert torch.equal(look(net, name), group.codebook[codes])
    bake_weights_(net)

    assert list(net.state_dict()) == before
    assert [type(one) for one in net] == [nn.Conv2d, nn.ReLU, nn.Flatten, nn.Linear]
    for name, codes in group.codes.items():
        assert torch.equal(net.get_parameter(f"{name}.weight"), group.codebook[codes])
        assert net.get_parameter(f"{name}.weight").requires_grad


def test_the_gradient_of_a_value_is_the_sum_over_its_weights() -> None:
    net, dense = make_net().double(), make_net().double()
    group = share(net, "0", "3")
    (values,) = share_weights_(net, [group])
    with torch.no_grad():
        for name, codes in group.codes.items():
            dense.get_parameter(f"{name}.weight").copy_(group.codebook[codes])
    inputs, targets = next(Blobs().batches(32))

    for one in (net, dense):
        functional.cross_entropy(one(inputs.double()), targets).backward()

    want = torch.zeros_like(group.codebook)
    for name, codes in group.codes.items():
        gradient = dense.get_parameter(f"{name}.weight").grad
        assert gradient is not None
        want.index_add_(0, codes.flatten(), gradient.flatten())
    assert values.grad is not None
    assert torch.allclose(values.grad, want[1:], rtol=1e-10, atol=1e-14)
    assert want[0] != 0  # Removed weights have gradients, which change nothing.


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("average", [0.0, 0.9])
def test_training_learns_with_the_same_codes_and_zeros(optimizer: str, average: float) -> None:
    net = make_net()
    dense = TrainSettings(epochs=10, batch_size=32, learning_rate=0.02)
    train_model_(net, Blobs(), dense, loss=LOSS, seed=1)
    first, second = share(net, "0"), share(net, "3", levels=3)
    trained = share_weights_(net, [first, second])
    before = score_model(net, Blobs(), loss=functional.cross_entropy, metric=accuracy)
    settings = TrainSettings(
        epochs=20,
        batch_size=32,
        learning_rate=0.01,
        optimizer="sgd" if optimizer == "sgd" else "adam",
        weight_decay=0.1,
        average=average,
        channels_last=True,
    )

    train_model_(net, Blobs(), settings, loss=LOSS, seed=0)
    after = score_model(net, Blobs(), loss=functional.cross_entropy, metric=accuracy)
    values = [one.detach().clone() for one in trained]
    bake_weights_(net)

    assert after.loss < 0.8 * before.loss
    for group, table in zip((first, second), values, strict=True):
        ((name, codes),) = group.codes.items()
        weight = net.get_parameter(f"{name}.weight")
        assert torch.equal(weight, torch.cat([torch.zeros(1), table])[codes])
        assert not weight[codes == 0].signbit().any()
        assert not torch.equal(table, group.codebook[1:])
        assert len(weight.unique()) == len(group.codebook)
    again = score_model(net, Blobs(), loss=functional.cross_entropy, metric=accuracy)
    assert again.loss == pytest.approx(after.loss, rel=1e-5)


def test_a_copy_shares_among_its_own_layers() -> None:
    net = make_net()
    group = share(net, "0", "3")
    (values,) = share_weights_(net, [group])

    other = copy.deepcopy(net)
    with torch.no_grad():
        values.mul_(2)

    assert torch.equal(look(other, "0"), group.codebook[group.codes["0"]])
    assert len(list(other.parameters())) == len(list(net.parameters())) == 3
    other.load_state_dict(net.state_dict())
    assert torch.equal(look(other, "3"), look(net, "3"))


def test_layers_that_share_nothing_are_left_alone() -> None:
    net = make_net()
    before = copy.deepcopy(net.state_dict())

    share_weights_(net, [share(net, "3")])
    bake_weights_(net)
    bake_weights_(net)

    assert torch.equal(net.get_parameter("0.weight"), before["0.weight"])
    assert list(before) == list(net.state_dict())


def test_groups_that_do_not_fit_change_nothing() -> None:
    net = make_net()
    good = share(net, "3")
    codes = good.codes["3"]
    wrong = [
        ([Group(good.codebook[1:], good.codes)], "first value is 0"),
        ([Group(good.codebook[:0], good.codes)], "first value is 0"),
        ([Group(good.codebook, {"3": codes.T})], "want codes of"),
        ([Group(good.codebook.double(), good.codes)], "want codes of"),
        ([Group(good.codebook[:2], good.codes)], "want codes below 2"),
        ([Group(good.codebook, {"3": -codes})], "want codes below"),
        ([Group(good.codebook, {"1": codes})], "with a weight"),
        ([good, good], "one group"),
    ]

    for groups, message in wrong:
        with pytest.raises(ValueError, match=message):
            share_weights_(net, groups)
        assert isinstance(net[3].weight, nn.Parameter)
    share_weights_(net, [good])
    with pytest.raises(ValueError, match="not shared yet"):
        share_weights_(net, [good])
