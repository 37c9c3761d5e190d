"""Layers of real shape, pruned by magnitude: what the grid of storage formats is measured on.

Of VGG-19 and LeNet-5 the first linear layer is retrained for two epochs with its mask held, with
the rest of the classifier, behind frozen convolutions. Convolutions are not retrained.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from train_vgg import open_mnist, prune
from vgg import vgg19

from autocompress.train.loop import fork_seed
from autocompress.zoo.make import ModelSettings, make_model

_EPOCHS = 2
_RATE = 5e-4
_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class Head:
    """Linear layers behind features that do not change.

    Attributes:
        state: Weight and bias of each linear layer.
        train: Features and labels to retrain on.
        held_out: Features and labels to test with.
    """

    state: tuple[tuple[Tensor, Tensor], ...]
    train: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]

    def build(self) -> nn.Sequential:
        """Return new linear layers with these weights, ReLU between them."""
        parts: list[nn.Module] = []
        for weight, bias in self.state:
            layer = nn.Linear(weight.shape[1], weight.shape[0])
            layer.load_state_dict({"weight": weight, "bias": bias})
            parts += [layer, nn.ReLU()]
        return nn.Sequential(*parts[:-1])

    def retrain(self, mask: Tensor) -> nn.Sequential:
        """Return the layers after two epochs; removed weights of the first one stay zero."""
        layers = self.build()
        first = layers[0].weight
        assert isinstance(first, Tensor)
        inputs, labels = self.train
        optimizer = torch.optim.Adam(layers.parameters(), lr=_RATE)
        with fork_seed(0):
            for _ in range(_EPOCHS):
                for places in torch.randperm(len(inputs)).split(_BATCH):
                    first.data.mul_(mask)
                    with torch.autocast("cpu", dtype=torch.bfloat16):
                        loss = cross_entropy(layers(inputs[places]), labels[places])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
        first.data.mul_(mask)
        return layers

    @torch.no_grad()
    def score(self, layers: nn.Sequential, weight: Tensor) -> float:
        """Return the accuracy in percent with this weight in the first layer."""
        own = layers[0].weight
        assert isinstance(own, Tensor)
        before = own.data
        own.data = weight
        inputs, labels = self.held_out
        hits = (layers(inputs).argmax(dim=1) == labels).float().mean()
        own.data = before
        return round(100 * float(hits), 2)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of a trained net.

    Attributes:
        name: Of net and layer.
        weight: Dense.
        head: To retrain with; None where it is not retrained.
    """

    name: str
    weight: Tensor
    head: Head | None = None

    def prune(self, share: float) -> tuple[Tensor, nn.Sequential | None]:
        """Return the weight without the smallest ``share``, and the layers it is the first of."""
        mask = prune(self.weight, share)
        if self.head is None:
            return self.weight * mask, None
        layers = self.head.retrain(mask)
        first = layers[0].weight
        assert isinstance(first, Tensor)
        return first.detach().clone(), layers


def list_layers(folders: dict[str, Path], data: str) -> Iterator[Layer]:
    """Yield the layers of the grid.

    Args:
        folders: Of ``resnet20``, ``lenet5`` and ``vgg19``: the .safetensors file of each net.
        data: Where MNIST lies.
    """
    if "resnet20" in folders:
        state = load_file(folders["resnet20"])
        for name in ("stages.0.2.conv2", "stages.1.1.conv1", "stages.2.1.conv1"):
            yield Layer(name=f"resnet20 {name}", weight=state[f"{name}.weight"])
    if "lenet5" in folders:
        lenet = make_model(ModelSettings(name="lenet5"), (1, 28, 28), 10)
        lenet.load_state_dict(load_file(folders["lenet5"]))
        yield Layer(name="lenet5 conv2", weight=lenet.get_parameter("conv2.weight").detach())
        head = _make_head(lenet, 28, ("fc1", "fc2"), data)
        yield Layer(name="lenet5 fc1", weight=head.state[0][0], head=head)
    if "vgg19" in folders:
        vgg = vgg19((1, 32, 32), 10)
        vgg.load_state_dict(load_file(folders["vgg19"]))
        head = _make_head(vgg, 32, ("fc1", "fc2", "fc3"), data)
        yield Layer(name="vgg19 fc1", weight=head.state[0][0], head=head)


@torch.no_grad()
def _make_head(model: nn.Module, size: int, names: tuple[str, ...], data: str) -> Head:
    """Return the linear layers of ``model`` and what comes into the first of them."""
    model.eval()
    kept: list[Tensor] = []
    handle = model.get_submodule(names[0]).register_forward_pre_hook(
        lambda _, inputs: kept.append(inputs[0].float())
    )
    parts = []
    for places in (slice(8000), slice(58_000, 60_000)):
        kept.clear()
        labels = []
        for images, targets in open_mnist(data, "train", places, size).batches(250):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                model(images.contiguous(memory_format=torch.channels_last))
            labels.append(targets)
        parts.append((torch.cat(kept), torch.cat(labels)))
    handle.remove()
    state = tuple(
        (
            model.get_parameter(f"{name}.weight").detach().clone(),
            model.get_parameter(f"{name}.bias").detach().clone(),
        )
        for name in names
    )
    return Head(state=state, train=parts[0], held_out=parts[1])
