"""Column layers turned back into ordinary ones, with zeros where columns were left out."""

import copy

import torch
from torch import Tensor, nn

from autocompress.shrink.columns import ColumnConv2d, ColumnLinear
from autocompress.shrink.structure import replace_module_


def expand_columns(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` without column layers, which computes the same."""
    made = copy.deepcopy(model)
    for module in list(made.modules()):
        if isinstance(module, ColumnConv2d | ColumnLinear):
            replace_module_(made, module, _expand_layer(module))
    return made


def expand_weight(module: ColumnConv2d | ColumnLinear) -> Tensor:
    """Return the weight of the ordinary layer: (filters, channels, kh, kw) or (filters, features).

    Returns:
        A new tensor of the weight's dtype and device.
    """
    kernel = module.kernel if isinstance(module, ColumnConv2d) else ()
    channels = module.channels if isinstance(module, ColumnConv2d) else module.features
    shape = (len(module.weight), channels, *kernel)
    dense = torch.zeros(shape, dtype=module.weight.dtype, device=module.weight.device)
    dense.flatten(1)[:, module.columns.long()] = module.weight.detach()
    return dense


def _expand_layer(module: ColumnConv2d | ColumnLinear) -> nn.Module:
    weight = expand_weight(module)
    filters, channels = weight.shape[:2]
    made: nn.Conv2d | nn.Linear
    if isinstance(module, ColumnConv2d):
        left, right, top, bottom = module.pad
        uneven = (left, top) != (right, bottom)  # Only padding to the same size is.
        made = nn.Conv2d(
            channels,
            filters,
            module.kernel,
            stride=module.stride,
            padding="same" if uneven else (top, left),
            dilation=module.dilation,
            padding_mode=module.padding_mode,
            device="meta",
        )
    else:
        made = nn.Linear(channels, filters, device="meta")
    made.weight = nn.Parameter(weight)
    made.bias = module.bias
    return made.train(module.training)
