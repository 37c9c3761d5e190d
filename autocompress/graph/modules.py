"""Which modules can be sliced, and how one is."""

import torch
from torch import Tensor, nn

LAYERS = (nn.Conv2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def is_layer(module: object) -> bool:
    """Return whether ``module`` is a plain convolution or linear layer with its own weight.

    Subclasses and parametrised layers may compute something else and count as unknown.
    """
    return type(module) in LAYERS and "weight" in getattr(module, "_parameters", {})


def is_norm(module: object) -> bool:
    """Return whether ``module`` is a plain batch normalisation."""
    return type(module) in NORMS


def is_depthwise_conv(conv: nn.Conv2d) -> bool:
    """Return whether every filter of ``conv`` reads one channel of its own."""
    return conv.groups > 1 and conv.groups == conv.in_channels


def slice_layer_(module: nn.Module, rows: Tensor, inputs: Tensor) -> None:
    """Keep the given filters and input channels of a convolution or linear layer.

    Args:
        module: For a convolution of several groups, each must keep as many as the others.
        rows: Kept filters; shape (filters,), bool.
        inputs: Kept input channels; shape (channels,), bool.
    """
    if isinstance(module, nn.Linear):
        _keep_(module, "weight", module.weight.detach()[rows][:, inputs])
        module.out_features, module.in_features = int(rows.sum()), int(inputs.sum())
    elif isinstance(module, nn.Conv2d):
        left = int(inputs.sum())
        if is_depthwise_conv(module):
            weight = module.weight.detach()[rows]
            module.groups = left
        else:
            weight = module.weight.detach()[rows][:, inputs[: module.weight.shape[1]]]
        _keep_(module, "weight", weight)
        module.out_channels, module.in_channels = int(rows.sum()), left
    else:
        raise TypeError(f"want a Conv2d or Linear, got {type(module).__name__}")
    if module.bias is not None:
        _keep_(module, "bias", module.bias.detach()[rows])


def slice_norm_(norm: nn.BatchNorm1d | nn.BatchNorm2d, kept: Tensor) -> None:
    """Keep the given channels of a batch normalisation; ``kept`` has shape (channels,), bool."""
    for name, parameter in list(norm.named_parameters(recurse=False)):
        _keep_(norm, name, parameter.detach()[kept])
    for name in ("running_mean", "running_var"):
        buffer = getattr(norm, name)
        if buffer is not None:
            setattr(norm, name, buffer[kept].clone())
    norm.num_features = int(kept.sum())


def _keep_(module: nn.Module, name: str, value: Tensor) -> None:
    """Replace a parameter by a smaller one of the same kind."""
    old = module.get_parameter(name)
    layout = torch.channels_last if _is_channels_last(old) else torch.contiguous_format
    fresh = value.contiguous(memory_format=layout).clone(memory_format=torch.preserve_format)
    setattr(module, name, nn.Parameter(fresh, requires_grad=old.requires_grad))


def _is_channels_last(tensor: Tensor) -> bool:
    return (
        tensor.dim() == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )
