"""Batch norms folded into the layer before them, for inference.

In evaluation mode a batch norm multiplies each channel by a constant and adds another one. Where
nobody but the norm reads what a layer makes, both can be done by the layer itself. Such pairs are
found by running the model and watching who reads which tensor, so that the model may contain
control flow that no tracer can follow.
"""

import copy
import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from autocompress.graph.modules import is_layer, is_norm
from autocompress.shrink.columns import ColumnConv2d, ColumnLinear
from autocompress.shrink.structure import replace_module_

Layer = nn.Conv2d | nn.Linear | ColumnConv2d | ColumnLinear
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def fold_norms(model: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy of ``model`` in evaluation mode whose batch norms are folded where possible.

    A norm is folded when it alone reads what one convolution, linear or column layer makes, both
    run once, and no hook hangs on either; an ``nn.Identity`` takes its place. Any other norm
    stays as it is: one before a convolution, one without running statistics, one after a layer
    that somebody else reads, shares or has parametrised. Weights of less than 32 bits are folded
    in float32 and rounded once.

    Args:
        model: Any module; not changed. Its layers must run on other inputs as on ``example``.
        example: A batch on the model's device, in the model's type.
    """
    made = copy.deepcopy(model).eval()
    for layer, norm in _find_pairs(made, example):
        _fold_(layer, norm)
        replace_module_(made, norm, nn.Identity().eval())
    return made


class _Watch(TorchDispatchMode):
    """Note which layers and norms run on what, and inside which of them a tensor is read."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.running: list[nn.Module] = []
        self.given: defaultdict[nn.Module, list[Tensor | None]] = defaultdict(list)
        self.made: defaultdict[nn.Module, list[Tensor]] = defaultdict(list)
        # By identity of the tensor: only of those that are kept, or an identity may come again.
        self.readers: dict[int, set[nn.Module | None]] = {}
        self.in_training: set[nn.Module] = set()
        for module in modules:
            for tensor in _list_state(module):
                self.readers[id(tensor)] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation, and note which of the watched tensors it reads or writes."""
        reader = self.running[-1] if self.running else None
        for value in tree_iter((args, kwargs)):
            if id(value) in self.readers:
                self.readers[id(value)].add(reader)
        return func(*args, **(kwargs or {}))

    def begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Note the start of a call, as a hook before it."""
        self.running.append(module)
        given = args[0] if args and isinstance(args[0], Tensor) else None
        self.given[module].append(given)
        if module.training:
            self.in_training.add(module)

    def end(self, module: nn.Module, args: tuple[Any, ...], made: Tensor) -> None:
        """Note the end of a call, as a hook after it."""
        self.running.pop()
        self.made[module].append(made)
        self.readers.setdefault(id(made), set())

    def is_closed(self, module: nn.Module) -> bool:
        """Return whether ``module`` ran once, and nobody else read its weights."""
        return len(self.made[module]) == 1 and all(
            self.readers[id(tensor)] <= {module} for tensor in _list_state(module)
        )


def _find_pairs(net: nn.Module, example: Tensor) -> list[tuple[Layer, BatchNorm]]:
    """Return the layers with the norms that can be folded into them; ``net`` is run once."""
    modules = [one for one in net.modules() if _is_foldable(one)]
    watch = _Watch(modules)
    with torch.no_grad(), _hooked(modules, watch), watch:
        result = net(example)
    maker = {id(watch.made[one][0]): one for one in modules if len(watch.made[one]) == 1}
    pairs = []
    for norm in modules:
        if not isinstance(norm, BatchNorm) or not watch.is_closed(norm):
            continue
        layer = maker.get(id(watch.given[norm][0]))
        if isinstance(layer, Layer) and _is_pair(watch, layer, norm):
            pairs.append((layer, norm, weakref.ref(watch.made[layer][0])))
    watch.given.clear()
    watch.made.clear()
    # What is still alive now was stored or returned by the model: somebody else may read it.
    found = [(layer, norm) for layer, norm, output in pairs if output() is None]
    del result
    return found


def _is_foldable(module: nn.Module) -> bool:
    """Return whether ``module`` may be one of a pair, by itself."""
    if any(getattr(module, hooks) for hooks in _HOOKS) or "forward" in vars(module):
        return False
    if isinstance(module, BatchNorm):
        return is_norm(module) and module.running_mean is not None
    return is_layer(module) or type(module) in (ColumnConv2d, ColumnLinear)


def _is_pair(watch: _Watch, layer: Layer, norm: BatchNorm) -> bool:
    """Return whether ``norm`` alone reads what ``layer`` makes, along the layer's filters."""
    output, normed = watch.made[layer][0], watch.made[norm][0]
    is_conv = isinstance(layer, nn.Conv2d | ColumnConv2d)
    return (
        watch.is_closed(layer)
        and norm not in watch.in_training
        and watch.readers[id(output)] == {norm}
        and output.dim() == (4 if is_conv else 2)  # A norm of sequences counts along another axis.
        and output.dtype == normed.dtype
    )


@contextmanager
def _hooked(modules: list[nn.Module], watch: _Watch) -> Iterator[None]:
    hooks = [module.register_forward_pre_hook(watch.begin) for module in modules]
    hooks += [module.register_forward_hook(watch.end) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _list_state(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _fold_(layer: Layer, norm: BatchNorm) -> None:
    """Let ``layer`` do what ``norm`` does with its output in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = layer.weight.detach(), layer.bias
    exact = torch.promote_types(weight.dtype, torch.float32)
    scale = (norm.running_var.to(exact) + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().to(exact)
    shift = -norm.running_mean.to(exact)
    if bias is not None:
        shift = shift + bias.detach().to(exact)
    shift = shift * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().to(exact)
    by_filter = scale.reshape(-1, *[1] * (weight.dim() - 1))
    trained = layer.weight.requires_grad
    layer.weight = nn.Parameter((weight.to(exact) * by_filter).to(weight.dtype), trained)
    layer.bias = nn.Parameter(shift.to(weight.dtype), trained)
