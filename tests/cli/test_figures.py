import pytest
import torch
from torch import nn

from autocompress.cli.figures import describe_levels, list_totals, print_weights
from autocompress.evaluate.weights import WeightFigures, describe_weights
from autocompress.graph.trace import trace_graph
from autocompress.zoo.make import ModelSettings, make_model


def describe(levels: list[float], kept: int) -> WeightFigures:
    """Return the figures of Caffe's LeNet-5 with so many weights of these levels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make_model(ModelSettings(name="lenet5"), (1, 28, 28), 10)
    with torch.no_grad():
        for parameter in (one for one in model.parameters() if one.ndim > 1):
            count = parameter.numel() if kept < 0 else min(kept, parameter.numel())
            values = torch.tensor(levels)[torch.arange(count) % len(levels)]
            parameter.zero_().view(-1)[:count] = values
    graph = trace_graph(model, torch.zeros(1, 1, 28, 28))
    return describe_weights(model, graph)


def test_rates_are_given_with_and_without_biases() -> None:
    figures = describe([0.5, 0.25, -0.5], 437)

    shown = list_totals(figures)

    both = figures.kept + sum(layer.biases for layer in figures.layers)
    assert shown["weights kept"] == "1,748 of 430,500 (246x)"
    assert shown["  with biases"] == f"{both:,} of 431,080 ({431_080 / both:.0f}x)"
    assert shown["  on dead paths"].startswith(f"{figures.dead:,}, ")


def test_a_dense_model_has_no_rate_and_no_dead_paths() -> None:
    shown = list_totals(describe([0.5, -0.5], -1))

    assert shown["weights kept"] == "430,500 of 430,500"
    assert "  on dead paths" not in shown
    assert shown["entropy-coded"] == "53,812 bytes of values, 53,844 with tables of levels"
    assert shown["  with positions"] == "53,844 bytes, 56,164 with biases"


def test_a_table_of_layers_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_weights(describe([-0.3, -0.2, -0.1, 0.1, 0.2, 0.3], 400))

    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[-5].split() == ["layer", "weights", "kept", "density", "values", "bits", "levels"]
    assert lines[-2].split()[:5] == ["fc1", "400,000", "400", "0.10%", "6"]
    assert lines[-2].endswith("±0.1 x 1..3")


def test_no_levels_are_named_where_there_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.1, 0.25], [0.0, 0.0]]))

    print_weights(describe_weights(nn.Sequential(layer), None))

    lines = capsys.readouterr().out.splitlines()
    assert "levels" not in lines[-2]
    assert any("unknown" in line for line in lines)


def float32(values: list[float], scale: float = 1.0) -> list[float]:
    """Return rising values as they are after a product in float32."""
    return (torch.tensor(sorted(values)) * torch.tensor(scale)).tolist()


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ([], ""),
        (float32([-1, 1], 0.0413), "±0.0413"),
        (float32([1], 0.0413), "0.0413"),
        (float32([-1], 0.0413), "-0.0413"),
        (float32([*range(-7, 0), *range(1, 8)], 0.0132), "±0.0132 x 1..7"),
        (float32([-7, -2, 3, 5], 0.0132), "±0.0132 x 2..7"),
        (float32([s * 2.0**-k for s in (-1, 1) for k in range(7)], 0.64), "±0.01 x 2^0..6"),
        (float32([1, 2], 0.5), "0.5 x 1..2"),
        ([-0.51, 0.2, 0.333], ""),
    ],
)
def test_levels_are_named_by_their_rule(levels: list[float], words: str) -> None:
    assert describe_levels(levels) == words
