"""The sizes of a compact model as plain values, and a dense model brought to them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.errors import GraphError
from autocompress.graph.modules import is_depthwise_conv
from autocompress.shrink.columns import ColumnConv2d, ColumnLinear

Structure = dict[str, dict[str, Any]]


def replace_module_(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` wherever ``old`` stands in ``model``, also under a second name."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                parent._modules[name] = new


def read_structure(model: nn.Module) -> Structure:
    """Return the sizes of all layers and norms by name, for :func:`restore_structure_`."""
    structure: Structure = {}
    for name, module in model.named_modules():
        if isinstance(module, ColumnConv2d | ColumnLinear):
            filters, kept = module.weight.shape
            channels = module.channels if isinstance(module, ColumnConv2d) else module.features
            kind = "column_conv" if isinstance(module, ColumnConv2d) else "column_linear"
            structure[name] = {"kind": kind, "filters": filters, "channels": channels}
            structure[name]["columns"] = kept
        elif isinstance(module, nn.Conv2d):
            structure[name] = {
                "kind": "conv",
                "filters": module.out_channels,
                "channels": module.in_channels,
                "groups": module.groups,
            }
        elif isinstance(module, nn.Linear):
            filters, channels = module.out_features, module.in_features
            structure[name] = {"kind": "linear", "filters": filters, "channels": channels}
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            structure[name] = {"kind": "norm", "channels": module.num_features}
    return structure


def restore_structure_(
    model: nn.Module, structure: Structure, tensors: Mapping[str, Tensor]
) -> None:
    """Give a dense model the sizes of ``structure`` and the values of ``tensors``.

    Nothing is allocated from a number in ``structure``: new parameters are taken out of
    ``tensors``, whose shapes must agree with it.

    Args:
        model: The model that was made smaller; changed in place.
        structure: From :func:`read_structure`.
        tensors: The state of the smaller model.

    Raises:
        GraphError: They do not fit together; the message names the module.
    """
    modules = dict(model.named_modules())
    own = read_structure(model)
    if set(own) != set(structure):
        names = ", ".join(sorted(set(own) ^ set(structure))[:3])
        raise GraphError(f"the model and its structure have different layers, such as {names}")
    for name, sizes in structure.items():
        try:
            _restore_module_(model, modules[name], name, sizes, tensors)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise GraphError(f"{name}: {error}") from error
    wanted = model.state_dict()
    if set(wanted) != set(tensors):
        names = ", ".join(sorted(set(wanted) ^ set(tensors))[:3])
        raise GraphError(f"the model and its weights have different names, such as {names}")
    for name, tensor in tensors.items():
        old = wanted[name]
        if old.shape != tensor.shape or old.is_floating_point() != tensor.is_floating_point():
            got = f"{tuple(tensor.shape)} {tensor.dtype}"
            raise GraphError(f"{name}: want {tuple(old.shape)} {old.dtype}, got {got}")
    model.load_state_dict(dict(tensors), strict=True, assign=True)


def _restore_module_(
    model: nn.Module,
    module: nn.Module,
    name: str,
    sizes: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    kind, channels = sizes["kind"], _read_count(sizes, "channels")
    if kind == "norm" and isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        _restore_norm_(module, name, channels, tensors)
        return
    filters = _read_count(sizes, "filters")
    if kind == "linear" and isinstance(module, nn.Linear):
        module.in_features, module.out_features = channels, filters
    elif kind == "conv" and isinstance(module, nn.Conv2d):
        groups = _read_count(sizes, "groups")
        if groups != module.groups and not (is_depthwise_conv(module) and groups == channels):
            raise ValueError(f"groups: want {module.groups}, got {groups}")
        module.in_channels, module.out_channels, module.groups = channels, filters, groups
    elif kind in ("column_conv", "column_linear"):
        _restore_columns_(model, module, name, sizes, tensors)
        return
    else:
        raise ValueError(f"kind: {kind!r} does not fit a {type(module).__name__}")
    kernel = module.kernel_size if isinstance(module, nn.Conv2d) else ()
    inputs = channels // module.groups if isinstance(module, nn.Conv2d) else channels
    module.weight = _take(tensors, f"{name}.weight", (filters, inputs, *kernel))
    if module.bias is not None:
        module.bias = _take(tensors, f"{name}.bias", (filters,))


def _restore_norm_(
    norm: nn.BatchNorm1d | nn.BatchNorm2d,
    name: str,
    channels: int,
    tensors: Mapping[str, Tensor],
) -> None:
    norm.num_features = channels
    for part, _ in list(norm.named_parameters(recurse=False)):
        setattr(norm, part, _take(tensors, f"{name}.{part}", (channels,)))
    for part in ("running_mean", "running_var"):
        if getattr(norm, part) is not None:
            setattr(norm, part, _take(tensors, f"{name}.{part}", (channels,)).detach())


def _restore_columns_(
    model: nn.Module,
    module: nn.Module,
    name: str,
    sizes: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    filters, kept = _read_count(sizes, "filters"), _read_count(sizes, "columns", least=0)
    weight = _take(tensors, f"{name}.weight", (filters, kept)).detach()
    columns = tensors[f"{name}.columns"]
    if columns.dtype != torch.int32:
        raise ValueError(f"columns: want int32, got {columns.dtype}")
    if sizes["kind"] == "column_conv" and isinstance(module, nn.Conv2d):
        module.in_channels = sizes["channels"]
        made: nn.Module = ColumnConv2d(module, columns, weight)
    elif sizes["kind"] == "column_linear" and isinstance(module, nn.Linear):
        module.in_features = sizes["channels"]
        made = ColumnLinear(module, columns, weight)
    else:
        raise ValueError(f"kind: {sizes['kind']!r} does not fit a {type(module).__name__}")
    if module.bias is not None:
        made.bias = _take(tensors, f"{name}.bias", (filters,))
    replace_module_(model, module, made.train(module.training))


def _read_count(sizes: Mapping[str, Any], key: str, least: int = 1) -> int:
    value = sizes[key]
    if type(value) is not int or value < least:
        raise ValueError(f"{key}: want an integer of {least} or more, got {value!r}")
    return value


def _take(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> nn.Parameter:
    """Return a tensor as a parameter once its shape is right."""
    tensor = tensors[name]
    if tuple(tensor.shape) != shape or not tensor.is_floating_point():
        raise ValueError(f"{name}: want floats of shape {shape}, got {tuple(tensor.shape)}")
    return nn.Parameter(tensor)
