"""Random models and masks for the laws of tracing, shrinking and storing."""

import torch
from torch import nn

from autocompress.graph.layers import LayerGraph
from autocompress.masks.mask import Masks, close_masks, full_masks
from autocompress.zoo.make import ModelSettings, make_model

SHAPES = {
    "lenet5": (1, 28, 28),
    "digits_cnn": (1, 8, 8),
    "resnet20": (3, 32, 32),
    "resnet56": (3, 32, 32),
    "resnet18": (3, 32, 32),
    "vgg16": (3, 32, 32),
    "torchvision:resnet18": (3, 64, 64),
    "torchvision:mobilenet_v2": (3, 64, 64),
    "torchvision:densenet121": (3, 64, 64),
}


def make_random(name: str, seed: int = 0) -> nn.Module:
    """Return a float64 model in evaluation mode with random weights and statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return randomise_(make_model(ModelSettings(name=name), SHAPES[name], 10))


def randomise_(model: nn.Module) -> nn.Module:
    """Give a model such values that a constant left behind would show."""
    model.double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                if module.affine:
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_(0, 0.3)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, (2 / fan_in) ** 0.5)
                if module.bias is not None:
                    module.bias.normal_(0, 0.3)
    return model


def draw_input(name: str, seed: int = 0) -> torch.Tensor:
    """Return two random float64 inputs for a model of :data:`SHAPES`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *SHAPES[name], generator=generator, dtype=torch.float64)


def draw_masks(
    graph: LayerGraph, seed: int = 0, *, units: float = 0.6, columns: float = 0.6
) -> Masks:
    """Return closed random masks; each group and each layer keeps something."""
    generator = torch.Generator().manual_seed(seed)
    full = full_masks(graph)
    kept = torch.rand(graph.units, generator=generator) < units
    for group in graph.groups:
        if group.prunable:
            kept[group.start] = True
        else:
            kept[group.start : group.start + group.size] = True
    chosen = {}
    for name, mask in full.columns.items():
        chosen[name] = torch.rand(len(mask), generator=generator) < columns
    masks = close_masks(graph, Masks(kept, chosen))
    opened = close_masks(graph, Masks(kept, full.columns)).columns
    for name, mask in masks.columns.items():
        mask[opened[name].nonzero()[0]] = True
    return masks
