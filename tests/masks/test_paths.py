from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autocompress.graph.layers import LayerGraph
from autocompress.graph.trace import trace_graph
from autocompress.masks.paths import WeightMasks, find_live_units, keep_live
from tests.hand_made import IMAGE, MAKERS, HandMade

SEEDS = range(6)


class Shortcut(nn.Module):
    """A stem, a block that adds to what it reads, and a classifier, without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.inner = nn.Conv2d(4, 3, 3, padding=1, bias=False)
        self.outer = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.last = nn.Linear(4, 2, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images).relu()
        maps = (maps + self.outer(self.inner(maps).relu())).relu()
        return self.last(maps.mean((2, 3)))


def make_shortcut() -> HandMade:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Shortcut()
    return HandMade(model, trace_graph(model, torch.zeros(1, *IMAGE)))


NETS = {**MAKERS, "shortcut": make_shortcut}


def drop_constants_(model: nn.Module) -> nn.Module:
    """Set biases and shifts to 0, so that a filter of zeros gives zeros."""
    model.double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    return model


def draw_masks(graph: LayerGraph, model: nn.Module, seed: int) -> WeightMasks:
    generator = torch.Generator().manual_seed(seed)
    return {
        layer.name: torch.rand(
            model.get_parameter(f"{layer.name}.weight").shape, generator=generator
        )
        < (0.04 + 0.04 * seed)
        for layer in graph.layers
    }


@torch.no_grad()
def run_masked(model: nn.Module, masks: WeightMasks, images: Tensor) -> Tensor:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for name, mask in masks.items():
        model.get_parameter(f"{name}.weight").mul_(mask)
    outputs = model(images)
    model.load_state_dict(before)
    return outputs


def count(masks: WeightMasks) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())
def test_what_is_called_dead_changes_no_output(make: Callable[[], HandMade], seed: int) -> None:
    net = make()
    model = drop_constants_(net.model)
    images = torch.randn(3, *IMAGE, dtype=torch.float64)
    masks = draw_masks(net.graph, model, seed)

    live = keep_live(net.graph, masks)

    torch.testing.assert_close(run_masked(model, masks, images), run_masked(model, live, images))
    assert all(bool((masks[name] | ~live[name]).all()) for name in masks)


@pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())
def test_some_of_the_masks_drawn_above_have_dead_weights(make: Callable[[], HandMade]) -> None:
    net = make()
    drawn = [draw_masks(net.graph, net.model, seed) for seed in SEEDS]

    assert any(0 < count(keep_live(net.graph, masks)) < count(masks) for masks in drawn)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["residual", "concat"])
def test_every_living_weight_changes_an_output(name: str, seed: int) -> None:
    # Positive weights and images leave nothing to cancel.
    net = MAKERS[name]()
    model = drop_constants_(net.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    images = torch.rand(1, *IMAGE, dtype=torch.float64) + 0.1
    live = keep_live(net.graph, draw_masks(net.graph, model, seed))
    outputs = run_masked(model, live, images)

    for layer, mask in live.items():
        for place in mask.nonzero().tolist():
            without = {**live, layer: mask.clone()}
            without[layer][tuple(place)] = False

            assert not torch.equal(run_masked(model, without, images), outputs)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())
def test_living_masks_are_a_fixed_point(make: Callable[[], HandMade], seed: int) -> None:
    net = make()
    masks = draw_masks(net.graph, net.model, seed)

    live = keep_live(net.graph, masks)
    again = keep_live(net.graph, live)

    assert all(torch.equal(live[name], again[name]) for name in live)
    units = find_live_units(net.graph, masks)
    assert torch.equal(units, find_live_units(net.graph, live))


def test_a_unit_that_only_feeds_itself_is_dead() -> None:
    net = make_shortcut()
    masks = {
        layer.name: torch.ones_like(
            net.model.get_parameter(f"{layer.name}.weight"), dtype=torch.bool
        )
        for layer in net.graph.layers
    }
    unit = net.graph.by_name["stem"].out_units[1]
    masks["stem"][1] = False
    masks["inner"][:] = False
    masks["inner"][0, 1] = True  # The block reads what it alone makes.
    masks["outer"][:] = False
    masks["outer"][1, 0] = True

    units = find_live_units(net.graph, masks)

    assert not units[unit]
    assert not keep_live(net.graph, masks)["inner"].any()
    masks["stem"][1, 0, 0, 0] = True
    assert find_live_units(net.graph, masks)[unit]


def test_outputs_and_what_a_fixed_layer_makes_are_alive() -> None:
    net = make_shortcut()
    graph = trace_graph(net.model, torch.zeros(1, *IMAGE), leave_alone=["inner"])
    masks = {
        layer.name: torch.zeros_like(
            net.model.get_parameter(f"{layer.name}.weight"), dtype=torch.bool
        )
        for layer in graph.layers
    }

    alive = find_live_units(graph, masks).nonzero().flatten().tolist()

    fixed = graph.by_name["inner"].out_units + graph.by_name["last"].out_units
    assert alive == sorted(fixed)


def test_a_layer_without_a_mask_keeps_all_its_weights() -> None:
    net = MAKERS["sequential"]()
    mask = torch.zeros(4, 1, 3, 3, dtype=torch.bool)
    mask[2, 0, 1, 1] = True

    units = find_live_units(net.graph, {"0": mask})

    assert units.nonzero().flatten().tolist() == [2, 4, 5, 6, 7, 8]
