import pytest
import torch
from torch import nn

from autocompress.train.average import Average


def walk_(net: nn.Module, steps: int, average: Average) -> list[torch.Tensor]:
    """Move the weight at random and return where it was at the start and after each step."""
    generator = torch.Generator().manual_seed(1)
    weight = net.get_parameter("weight")
    places = [weight.detach().clone()]
    for step in range(steps):
        with torch.no_grad():
            weight.add_(torch.randn(weight.shape, generator=generator))
        average.take_(step)
        places.append(weight.detach().clone())
    return places


@pytest.mark.parametrize("decay", [0.05, 0.5, 0.99])
def test_the_mean_is_the_sum_that_its_definition_says(decay: float) -> None:
    net = nn.Linear(3, 2)
    average = Average(net, decay)
    places = walk_(net, 30, average)
    shares = [min(decay, (1 + step) / (10 + step)) for step in range(30)]

    average.give_()

    mean = places[0].double()
    for share, place in zip(shares, places[1:], strict=True):
        mean = share * mean + (1 - share) * place.double()
    # 30 float32 steps on values of about 5.
    torch.testing.assert_close(net.weight.detach().double(), mean, rtol=1e-5, atol=1e-5)


def test_no_decay_leaves_the_parameters_as_they_are() -> None:
    net = nn.Linear(3, 2)
    average = Average(net, 0.0)
    places = walk_(net, 3, average)

    average.give_()

    assert torch.equal(net.weight, places[-1])
    assert average.means == []


def test_what_was_zero_from_the_start_is_zero_in_the_mean() -> None:
    net = nn.Linear(4, 4)
    with torch.no_grad():
        net.weight[:, 1] = 0
    average = Average(net, 0.9)
    for step in range(9):
        with torch.no_grad():
            net.weight[:, 0] += 1
            net.weight[:, 2] *= 0.5
        average.take_(step)

    average.give_()

    assert not net.weight[:, 1].any()
    assert net.weight[:, 2].all()


def test_small_moves_of_narrow_parameters_add_up() -> None:
    net = nn.Linear(1, 1).to(torch.bfloat16)
    with torch.no_grad():
        net.weight.fill_(1.0)
    average = Average(net, 0.999)
    with torch.no_grad():
        net.weight.fill_(1.0078125)  # The next value of bfloat16: no mean of it lies between.
    for step in range(20_000, 20_400):
        average.take_(step)

    assert average.means[0].dtype == torch.float32
    # 1 - 0.999^400 of the way.
    expected = 1 + 0.0078125 * (1 - 0.999**400)
    assert average.means[0].item() == pytest.approx(expected, abs=1e-6)


def test_buffers_and_integers_are_left_alone() -> None:
    net = nn.BatchNorm1d(2)
    net.register_parameter("codes", nn.Parameter(torch.tensor([1, 2]), requires_grad=False))
    average = Average(net, 0.9)
    with torch.no_grad():
        net.running_mean = torch.ones(2)
        net.get_parameter("codes").add_(1)

    average.take_(0)
    average.give_()

    assert torch.equal(net.running_mean, torch.ones(2))
    assert net.get_parameter("codes").tolist() == [2, 3]


def test_a_state_goes_on_as_its_owner_would() -> None:
    net = nn.Linear(3, 2)
    first = Average(net, 0.9)
    walk_(net, 5, first)
    second = Average(net, 0.9)

    second.load_state_dict(first.state_dict())
    for average in (first, second):
        average.take_(5)

    assert all(torch.equal(a, b) for a, b in zip(first.means, second.means, strict=True))
