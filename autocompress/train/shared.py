"""Train the values that weights share: one codebook for each group of layers.

While weights are shared, a layer's weight is ``codebook[codes]`` with codes that do not change,
and autograd sums the gradients of all weights of one value (the cumulative gradient of
arXiv:2108.12704, as of arXiv:1510.00149). 0 is not trained: what is removed stays removed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_WEIGHT = "weight"


@dataclass(frozen=True)
class Group:
    """Layers that share their values, as :func:`share_values` finds them.

    Attributes:
        codebook: 0 first; shape (values,).
        codes: For each layer by its name in the model the places of its weights' values in
            ``codebook``: whole numbers in the shape of the weight.
    """

    codebook: Tensor
    codes: Mapping[str, Tensor]


def share_weights_(model: nn.Module, groups: Sequence[Group]) -> tuple[nn.Parameter, ...]:
    """Replace the weights of layers by codebooks, in place, until :func:`bake_weights_`.

    ``train_model_`` trains the model as any other; the other parameters are trained, too, unless
    they do not ask for gradients. What reads the weights as parameters cannot do so meanwhile.
    Weight decay leaves the values alone: they are no matrix.

    Returns:
        What is trained of each group: its values but 0; shape (values - 1,).

    Raises:
        ValueError: The codes do not fit the layers or the codebook, 0 is not its first value, or
            a layer is shared already.
    """
    for group in groups:
        _check(model, group)
    names = [name for group in groups for name in group.codes]
    if len(set(names)) < len(names):
        raise ValueError(f"want each layer in one group, got {', '.join(sorted(names))}")
    trained = []
    for group in groups:
        values = nn.Parameter(group.codebook[1:].detach().clone())
        for name, codes in group.codes.items():
            layer = model.get_submodule(name)
            lookup = _Lookup(codes, tuple(layer._parameters))
            parametrize.register_parametrization(layer, _WEIGHT, lookup, unsafe=True)
            # One parameter for all layers of the group; optimisers see it once.
            _list_of(layer).original = values
        trained.append(values)
    return tuple(trained)


@torch.no_grad()
def bake_weights_(model: nn.Module) -> None:
    """Make shared weights ordinary parameters again, each with the bits of its code's value.

    The parameters have the names and the order that they had. A model that shares none is left
    as it is.
    """
    for layer in list(model.modules()):
        if not parametrize.is_parametrized(layer, _WEIGHT):
            continue
        lookup = _list_of(layer)[0]
        if not isinstance(lookup, _Lookup):
            continue
        weight = nn.Parameter(cast("Tensor", layer.weight).clone())
        parametrize.remove_parametrizations(layer, _WEIGHT, leave_parametrized=False)
        layer.register_parameter(_WEIGHT, weight)
        for name in lookup.order:
            layer._parameters[name] = layer._parameters.pop(name)


class _Lookup(nn.Module):
    """Looks values up by codes.

    Attributes:
        codes: 0 for 0, then the places of the values; int32, shape of the weight.
        order: Names of the layer's parameters in their order before.
    """

    codes: Tensor

    def __init__(self, codes: Tensor, order: tuple[str, ...]) -> None:
        super().__init__()
        self.register_buffer("codes", codes.to(torch.int32, copy=True))
        self.order = order

    def forward(self, values: Tensor) -> Tensor:
        """Return the weight."""
        table = torch.cat([values.new_zeros(1), values])
        return table.index_select(0, self.codes.flatten()).reshape(self.codes.shape)


def _list_of(layer: nn.Module) -> parametrize.ParametrizationList:
    lists = cast("nn.ModuleDict", layer.parametrizations)
    return cast("parametrize.ParametrizationList", lists[_WEIGHT])


def _check(model: nn.Module, group: Group) -> None:
    """Raise ValueError unless ``group`` fits its layers."""
    if group.codebook.ndim != 1 or not len(group.codebook) or bool(group.codebook[0]):
        raise ValueError("want a codebook of one axis whose first value is 0")
    for name, codes in group.codes.items():
        layer = model.get_submodule(name)
        weight = layer._parameters.get(_WEIGHT)
        if weight is None:
            raise ValueError(f"{name}: want a layer with a weight that is not shared yet")
        if codes.shape != weight.shape or group.codebook.dtype != weight.dtype:
            raise ValueError(
                f"{name}: want codes of {tuple(weight.shape)} for {weight.dtype}, got "
                f"{tuple(codes.shape)} for {group.codebook.dtype}"
            )
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < len(group.codebook):
            raise ValueError(f"{name}: want codes below {len(group.codebook)}")
