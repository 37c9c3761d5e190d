import pytest
import torch
from torch import nn

from autocompress.graph.trace import trace_graph
from autocompress.masks.mask import apply_masks_, parameter_masks
from autocompress.shrink.columns import make_column_layer
from autocompress.shrink.compact import compact_model
from autocompress.shrink.expand import expand_columns
from tests.nets import draw_input, draw_masks, make_random


@pytest.mark.parametrize("name", ["digits_cnn", "lenet5", "resnet20"])
def test_a_model_without_column_layers_computes_the_same(name: str) -> None:
    model = make_random(name)
    graph = trace_graph(model, draw_input(name))
    compact = compact_model(model, graph, draw_masks(graph))
    before = str(compact)

    expanded = expand_columns(compact)

    inputs = draw_input(name)
    assert torch.allclose(expanded(inputs), compact(inputs), atol=1e-10)
    assert "Column" in str(compact)
    assert "Column" not in str(expanded)
    assert str(compact) == before


def test_expanding_a_masked_model_gives_it_back() -> None:
    model = make_random("digits_cnn")
    graph = trace_graph(model, draw_input("digits_cnn"))
    masks = draw_masks(graph, units=2.0)  # All units, so that only columns are gone.
    compact = compact_model(model, graph, masks)
    apply_masks_(model, parameter_masks(graph, masks, model))

    state = expand_columns(compact).state_dict()

    assert [*state] == [*model.state_dict()]
    assert all(torch.equal(state[name], one) for name, one in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 4, 2, padding="same"),
        nn.Conv2d(3, 4, (3, 2), padding="same", dilation=(1, 3)),
        nn.Conv2d(3, 4, (1, 3), padding=(2, 1), stride=2),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect", bias=False),
        nn.Conv2d(3, 4, 3, padding=2, dilation=2),
        nn.Conv2d(3, 4, 3, padding="valid"),
    ],
)
def test_every_padding_comes_back(conv: nn.Conv2d) -> None:
    kept = torch.arange(conv.weight[0].numel()) % 3 != 1
    model = nn.Sequential(make_column_layer(conv, kept)).double()
    inputs = torch.randn(2, 3, 6, 7, generator=torch.Generator().manual_seed(0)).double()

    expanded = expand_columns(model)

    assert torch.allclose(expanded(inputs), model(inputs), atol=1e-12)
