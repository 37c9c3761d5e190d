"""Folding changes how a model is executed and nothing of what it computes."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from autocompress.deploy.fold import fold_norms
from autocompress.graph.trace import trace_graph
from autocompress.shrink.columns import ColumnConv2d, ColumnLinear, make_column_layer
from autocompress.shrink.compact import compact_model
from tests.nets import draw_input, draw_masks, make_random, randomise_


class Net(nn.Module):
    """Layers by name and a function that runs them."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        self.kept: Any = None
        for name, layer in layers.items():
            self.add_module(name, layer)
        randomise_(self)

    def forward(self, maps: Tensor) -> Any:
        return self.run(self, maps)


SLOW_RESNET = pytest.param("resnet18", marks=pytest.mark.slow)


def count_norms(model: nn.Module) -> int:
    return sum(isinstance(one, nn.BatchNorm1d | nn.BatchNorm2d) for one in model.modules())


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def conv(inputs: int = 3, outputs: int = 4, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def check(model: nn.Module, inputs: Tensor, left: int) -> nn.Module:
    """Fold ``model``, see that it computes the same elsewhere too, and has ``left`` norms."""
    before = copy.deepcopy(model.state_dict())

    folded = fold_norms(model, inputs)

    evaluated = copy.deepcopy(model).eval()
    with torch.no_grad():
        for seed in (1, 2):
            other = draw(*inputs.shape, seed=seed).to(inputs)
            want, got = evaluated(other), folded(other)
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    assert count_norms(folded) == left
    assert not folded.training
    after = model.state_dict()
    assert all(torch.equal(after[name], one) for name, one in before.items())
    return folded


@pytest.mark.parametrize("name", ["digits_cnn", "lenet5", "resnet20", "vgg16", SLOW_RESNET])
def test_models_of_the_zoo_lose_all_norms(name: str) -> None:
    check(make_random(name), draw_input(name), 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "left"),
    # DenseNet's first norm follows a convolution; one in each layer does too; the rest come first.
    [("mobilenet_v2", 0), ("densenet121", 62), ("googlenet", 0), ("regnet_x_400mf", 0)],
)
def test_models_of_torchvision(name: str, left: int) -> None:
    options = {"aux_logits": False} if name == "googlenet" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The default initialisation of googlenet will change.
        made = torchvision.models.get_model(name, weights=None, num_classes=10, **options)
    model = randomise_(made)

    check(model, draw(2, 3, 64, 64), left)

    assert count_norms(model) > left


def test_float32_agrees_to_1e_4() -> None:
    model, inputs = make_random("resnet20").float(), draw_input("resnet20").float()

    folded = fold_norms(model, inputs)

    with torch.no_grad():
        torch.testing.assert_close(folded(inputs), model(inputs), rtol=1e-4, atol=1e-4)
    assert {one.dtype for one in folded.parameters()} == {torch.float32}


def test_bfloat16_is_folded_in_float32_and_rounded_once() -> None:
    model = Net(lambda n, x: n.norm(n.a(x)), a=conv(), norm=nn.BatchNorm2d(4)).bfloat16()

    folded = fold_norms(model, draw(2, 3, 5, 5).bfloat16())

    wide = fold_norms(copy.deepcopy(model).float(), draw(2, 3, 5, 5).float())
    want = {name: one.bfloat16() for name, one in wide.state_dict().items()}
    assert {*want} == {"a.weight", "a.bias"}
    assert all(torch.equal(folded.state_dict()[name], one) for name, one in want.items())


@pytest.mark.parametrize("name", ["digits_cnn", "resnet20"])
def test_column_layers_are_folded(name: str) -> None:
    model, inputs = make_random(name), draw_input(name)
    graph = trace_graph(model, inputs)
    compact = compact_model(model, graph, draw_masks(graph))
    assert any(isinstance(one, ColumnConv2d) for one in compact.modules())

    check(compact, inputs, 0)


def test_a_column_layer_of_features_is_folded() -> None:
    kept = torch.tensor([True, False, True])
    linear = make_column_layer(nn.Linear(3, 4), kept).double()
    model = Net(lambda n, x: n.norm(n.a(x)), a=linear, norm=nn.BatchNorm1d(4))

    assert isinstance(check(model, draw(5, 3), 0).get_submodule("a"), ColumnLinear)


def pair(layer: nn.Module, norm: nn.Module | None = None) -> Net:
    return Net(plain, a=layer, norm=norm or nn.BatchNorm2d(4))


def plain(net: Any, maps: Tensor) -> Tensor:
    return net.norm(net.a(maps))


def name_twice(net: Net) -> Net:
    net.other, net.again = net.get_submodule("norm"), net.get_submodule("a")
    return net


FOLDED: dict[str, Callable[[], Net]] = {
    "an in-place ReLU after the norm": lambda: Net(
        lambda n, x: n.relu(n.norm(n.a(x))),
        a=conv(),
        norm=nn.BatchNorm2d(4),
        relu=nn.ReLU(inplace=True),
    ),
    "no gain and shift": lambda: pair(conv(), nn.BatchNorm2d(4, affine=False)),
    "no bias": lambda: pair(conv(bias=False)),
    "depthwise": lambda: pair(conv(3, 6, groups=3), nn.BatchNorm2d(6)),
    "groups": lambda: Net(
        lambda n, x: n.norm(n.a(torch.cat([x, x], 1))),
        a=conv(6, 4, groups=2),
        norm=nn.BatchNorm2d(4),
    ),
    "padding other than zero": lambda: pair(conv(padding_mode="reflect")),
    "features": lambda: Net(
        lambda n, x: n.norm(n.a(x.flatten(1))), a=nn.Linear(75, 4), norm=nn.BatchNorm1d(4)
    ),
    "what does nothing between": lambda: Net(
        lambda n, x: n.norm(n.drop(n.a(x)).contiguous()),
        a=conv(),
        drop=nn.Sequential(nn.Identity(), nn.Dropout()),
        norm=nn.BatchNorm2d(4),
    ),
    "two names": lambda: name_twice(pair(conv())),
    "shapes asked for": lambda: Net(
        lambda n, x: (lambda y: n.norm(y).reshape(y.shape[0], -1))(n.a(x)),
        a=conv(),
        norm=nn.BatchNorm2d(4),
    ),
    "control flow": lambda: Net(
        lambda n, x: n.norm(n.a(x)) if x.sum() < 1e9 and x.shape[0] > 1 else n.a(x),
        a=conv(),
        norm=nn.BatchNorm2d(4),
    ),
}


@pytest.mark.parametrize("case", FOLDED)
def test_what_is_folded(case: str) -> None:
    check(FOLDED[case](), draw(2, 3, 5, 5), 0)


def keep(net: Net, value: Tensor) -> Tensor:
    net.kept = value
    return value


def net_of(run: Callable[[Any, Tensor], Any], norm: nn.Module | None = None) -> Net:
    return Net(run, a=conv(3, 3), norm=nn.BatchNorm2d(3) if norm is None else norm)


def twice(net: Any, maps: Tensor) -> Tensor:
    return net.norm(net.a(net.norm(net.a(maps))))


def swap_norm(net: Net, norm: nn.Module) -> Net:
    net.norm = norm
    return net


def stay_in_training(net: Net) -> Net:
    """Make the norm deaf to ``eval``, as some models freeze or thaw theirs."""
    norm = net.get_submodule("norm").train()
    vars(norm)["train"] = lambda mode=True: norm
    return net


def tie(net: Net) -> Net:
    other = conv(3, 3).double()
    other.weight = net.get_parameter("a.weight")
    net.b = other
    return net


def hang_on(net: Net, name: str) -> Net:
    net.get_submodule(name).register_forward_hook(lambda module, given, out: 2 * out)
    return net


LEFT: dict[str, Callable[[], Net]] = {
    "a residual add of the raw output": lambda: net_of(
        lambda n, x: (lambda y: y + n.norm(y))(n.a(x))
    ),
    "a view of the raw output": lambda: net_of(
        lambda n, x: (lambda y: (y.flatten(1), n.norm(y)))(n.a(x))
    ),
    "a detached raw output": lambda: net_of(
        lambda n, x: (lambda y: (n.norm(y), y.detach()))(n.a(x))
    ),
    "a raw output that is returned": lambda: net_of(
        lambda n, x: (lambda y: [n.norm(y), {"raw": y}])(n.a(x))
    ),
    "a raw output that is stored": lambda: net_of(lambda n, x: n.norm(keep(n, n.a(x)))),
    "an operation between": lambda: net_of(lambda n, x: n.norm(functional.relu(n.a(x)))),
    "an in-place operation between": lambda: net_of(lambda n, x: n.norm(n.a(x).relu_())),
    "an in-place operation beside": lambda: net_of(
        lambda n, x: (lambda y: n.norm(y) + y.mul_(2))(n.a(x))
    ),
    "a norm before the convolution": lambda: net_of(lambda n, x: n.a(n.norm(x))),
    "both called twice": lambda: net_of(twice),
    "a norm called twice": lambda: net_of(lambda n, x: n.norm(n.norm(n.a(x)))),
    "a convolution called twice": lambda: net_of(lambda n, x: n.norm(n.a(n.a(x)))),
    "weights read elsewhere": lambda: net_of(
        lambda n, x: n.norm(n.a(x)) + functional.conv2d(x, n.a.weight, padding=1)
    ),
    "statistics read elsewhere": lambda: net_of(
        lambda n, x: n.norm(n.a(x)) + n.norm.running_mean.sum()
    ),
    "a functional norm": lambda: net_of(
        lambda n, x: functional.batch_norm(
            n.a(x), n.norm.running_mean, n.norm.running_var, n.norm.weight, n.norm.bias
        )
    ),
    "no running statistics": lambda: swap_norm(
        net_of(plain), nn.BatchNorm2d(3, track_running_stats=False).double()
    ),
    "a norm that stays in training": lambda: stay_in_training(net_of(plain)),
    "tied weights": lambda: tie(net_of(lambda n, x: n.norm(n.a(x)) + n.b(x))),
    "a hook on the layer": lambda: hang_on(net_of(plain), "a"),
    "a hook on the norm": lambda: hang_on(net_of(plain), "norm"),
    "a parametrised layer": lambda: Net(
        plain, a=parametrizations.weight_norm(conv(3, 3).double()), norm=nn.BatchNorm2d(3)
    ),
    "a transposed convolution": lambda: Net(
        plain, a=nn.ConvTranspose2d(3, 3, 3, padding=1), norm=nn.BatchNorm2d(3)
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_left_alone(case: str) -> None:
    model = LEFT[case]()

    # Statistics of the batch itself would differ with the mode of the model.
    folded = fold_norms(model, draw(2, 3, 5, 5))

    assert count_norms(folded) == 1
    for name, one in model.named_parameters():
        assert torch.equal(folded.get_parameter(name), one)
    with torch.no_grad():
        torch.testing.assert_close(
            folded(draw(2, 3, 5, 5)), copy.deepcopy(model).eval()(draw(2, 3, 5, 5)), rtol=0, atol=0
        )


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4), nn.BatchNorm2d(4)])
def test_norms_along_another_axis_are_left_alone(norm: nn.Module) -> None:
    shape = (2, 4, 4) if isinstance(norm, nn.BatchNorm1d) else (2, 4, 3, 4)
    model = Net(plain, a=nn.Linear(4, 4), norm=norm)

    check(model, draw(*shape), 1)


def test_a_single_image_with_a_norm_of_rows_is_left_alone() -> None:
    model = Net(plain, a=conv(3, 5), norm=nn.BatchNorm1d(5))

    check(model, draw(3, 5, 5), 1)


def test_a_hook_around_the_pair_does_not_keep_it() -> None:
    seen: list[torch.Size] = []
    model = nn.Sequential(conv(), nn.BatchNorm2d(4)).double()
    model.register_forward_hook(lambda module, given, out: seen.append(out.shape))

    folded = fold_norms(model, draw(2, 3, 5, 5))

    assert count_norms(folded) == 0
    assert [len(one._forward_hooks) for one in folded.modules()] == [1, 0, 0]


def test_layout_and_training_of_weights_stay() -> None:
    model = nn.Sequential(conv(bias=False), nn.BatchNorm2d(4)).to(
        memory_format=torch.channels_last
    )
    model[0].weight.requires_grad = False

    folded = fold_norms(model, torch.zeros(1, 3, 5, 5))

    weight = folded.get_parameter("0.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.requires_grad
    assert {*folded.state_dict()} == {"0.weight", "0.bias"}


SIMPLE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu_": lambda maps: maps.relu_(),
    "double_": lambda maps: maps.mul_(2),
}
OPERATIONS = ("conv", "norm", "add", *SIMPLE)
Program = list[tuple[str, int, int]]


class Programmed(nn.Module):
    """Each step reads results by number and makes a new one; what nobody reads is returned."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        # Step n may read the input and the results of the n steps before it.
        self.program = [
            (op, one % (n + 1), two % (n + 1)) for n, (op, one, two) in enumerate(program)
        ]
        self.layers = nn.ModuleDict()
        for step, (operation, _, _) in enumerate(self.program):
            if operation in ("conv", "norm"):
                layer = nn.Conv2d(2, 2, 1) if operation == "conv" else nn.BatchNorm2d(2)
                self.layers[str(step)] = layer
        randomise_(self)

    def forward(self, maps: Tensor) -> list[Tensor]:
        results = [maps.clone()]
        for step, (operation, one, two) in enumerate(self.program):
            given = results[one]
            if operation in ("conv", "norm"):
                results.append(self.layers[str(step)](given))
            elif operation == "add":
                results.append(given + results[two])
            else:
                results.append(SIMPLE[operation](given))
        unread = set(range(len(results))) - self.list_reads()
        return [results[number] for number in sorted(unread)]

    def list_reads(self) -> set[int]:
        return {number for step in range(len(self.program)) for number in self.read_by(step)}

    def read_by(self, step: int) -> set[int]:
        operation, one, two = self.program[step]
        return {one, two} if operation == "add" else {one}

    def count_pairs(self) -> int:
        """Return the norms that alone read a convolution, by looking at every step."""
        pairs = 0
        for step, (operation, one, _) in enumerate(self.program):
            readers = [n for n in range(len(self.program)) if one in self.read_by(n)]
            is_conv = one > 0 and self.program[one - 1][0] == "conv"
            pairs += operation == "norm" and is_conv and readers == [step]
        return pairs


@given(
    program=st.lists(
        st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 20), st.integers(0, 20)),
        min_size=1,
        max_size=12,
    )
)
def test_any_program_is_folded_where_possible_and_computes_the_same(program: Program) -> None:
    model = Programmed(program)
    norms = count_norms(model)

    check(model, draw(2, 2, 3, 3), norms - model.count_pairs())
