"""Follow channels through a model, with torch-pruning's dependency graph.

This is the only file that knows torch-pruning; what it gets wrong is put right here.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from autocompress.errors import GraphError

# What torch-pruning raises on operations that it does not know, such as a channel shuffle.
_FAILURES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_MAX_PLACES = 5_000_000  # 30 times what DenseNet-121 takes; window attention never ends.


@dataclass(frozen=True, kw_only=True)
class Step:
    """A module or operation that some filters of a layer reach.

    Attributes:
        module: The module or raw parameter; None for an operation such as add or concat.
        is_out: Whether the filters of ``module`` follow, rather than its input channels.
        is_final: Whether they are part of what the model returns.
        split: The split that this is, or None, and where its pieces begin and end.
        offsets: See ``split``; empty unless it cuts the channels.
        places: Pairs of a channel here and the filter that it follows.
    """

    module: Any
    is_out: bool
    is_final: bool
    split: Any
    offsets: Sequence[int]
    places: Sequence[tuple[int, int]]


class _WithImage(nn.Module):
    """A model behind a layer that stands for its input, so that its channels are traced too."""

    def __init__(self, net: nn.Module, example: Tensor) -> None:
        super().__init__()
        self.net = net
        self.image: nn.Module = nn.Identity()
        if example.dim() == 4:
            self.image = nn.Conv2d(example.shape[1], example.shape[1], 1)
        elif example.dim() == 2:
            self.image = nn.Linear(example.shape[1], example.shape[1])
        self.image.to(example)

    def forward(self, batch: Tensor) -> Any:
        return self.net(self.image(batch))


class Flow:
    """A model that was traced: where the filters of each layer go.

    Attributes:
        image: A layer in front of the model, whose filters are the model's input channels.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        """Trace ``model``, a copy in evaluation mode that nobody else uses.

        Raises:
            GraphError: torch-pruning cannot follow its channels.
        """
        whole = _WithImage(model, example)
        self.image = whole.image
        results: list[Any] = []

        def run(net: nn.Module, batch: Tensor) -> Any:
            results.append(net(batch))
            return results[-1]

        self._places = 0
        self._graph = tp.DependencyGraph()
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                # Fresh containers: torch-pruning keeps and extends those that it is given.
                self._graph.build_dependency(
                    whole,
                    example,
                    forward_fn=run,
                    unwrapped_parameters=[],
                    customized_pruners={},
                    ignored_layers=[],
                    ignored_params=[],
                    verbose=False,
                )
                _map_splits(self._graph)
                _map_concats(self._graph)
            except _FAILURES as error:
                raise GraphError(f"channels cannot be followed: {error}") from error
        self._final = {tensor.grad_fn for tensor in tp.utils.flatten_as_list(results[-1])}

    def reaches_output(self, module: nn.Module) -> bool:
        """Return whether autograd sees a way from ``module`` to what the model returns."""
        return module in self._graph.module2node

    def follow(self, module: nn.Module, filters: int) -> Iterator[Step]:
        """Yield ``module`` itself and all that a change of its filters changes in turn.

        ``get_pruning_group`` of torch-pruning does the same, but forgets all but the first of
        several filters that arrive at one place, as when two pieces of a split are multiplied.

        Raises:
            GraphError: There are too many ways to go.
        """
        node = self._graph.module2node[module]
        prune = self._graph.get_pruner_of_module(module).prune_out_channels
        make = tp._helpers._HybridIndex
        waiting = [(node, prune, [make(idx=i, root_idx=i) for i in range(filters)])]
        seen: set[tuple[int, Any, frozenset[Any]]] = set()
        while waiting:
            node, handler, places = waiting.pop()
            key = (id(node), handler, frozenset(places))
            if key in seen:
                continue
            seen.add(key)
            self._places += len(places)
            if self._places > _MAX_PLACES:
                raise GraphError("channels are moved in too many ways to be followed")
            yield self._make_step(node, handler, places)
            for dep in node.dependencies:
                if dep.is_triggered_by(handler):
                    mapped = places
                    for mapping in dep.index_mapping:
                        mapped = mapped if mapping is None else mapping(mapped)
                    if mapped:
                        waiting.append((dep.target, dep.handler, mapped))

    def _make_step(self, node: Any, handler: Any, places: list[tuple[int, int]]) -> Step:
        is_out = self._graph.is_out_channel_pruning_fn(handler)
        is_operation = type(node.module).__module__ == tp.ops.__name__
        is_split = node.type == tp.ops.OPTYPE.SPLIT
        return Step(
            module=None if is_operation else node.module,
            is_out=is_out,
            is_final=isinstance(node.module, tp.ops._OutputOp)
            or (is_out and node.grad_fn in self._final),
            split=node if is_split else None,
            offsets=(is_split and node.module.offsets) or (),
            places=places,
        )


def _map_splits(graph: Any) -> None:
    """Map the channels of each split by the piece that each reader takes.

    torch-pruning guesses the sizes from the readers and counts the pieces in the order in which
    it meets these, which is wrong when a piece is read last, twice or never.
    """
    splits = [node for node in graph.module2node.values() if node.type == tp.ops.OPTYPE.SPLIT]
    for node in splits:
        node.module.offsets = offsets = _read_offsets(node.grad_fn)
        if offsets is None:
            shape = node.grad_fn._saved_self_sym_sizes
            node.module.split_sizes = [shape[_channel_axis(shape)]] * len(node.outputs)
        else:
            pieces = [_read_pieces(reader, node)[0] for reader in node.outputs]
            node.module.split_sizes = [offsets[piece + 1] - offsets[piece] for piece in pieces]
    for node in graph.module2node.values():
        if splits and node.type == tp.ops.OPTYPE.CONCAT:
            node.module.concat_sizes = None  # Guessed from wrong sizes: guess again.
    index_mapping = tp.dependency.index_mapping
    if splits:
        index_mapping.update_index_mapping(graph)
    for node in splits:
        for reader in {id(reader): reader for reader in node.outputs}.values():
            ahead = [dep for dep in node.dependencies if dep.target is reader]
            back = [dep for dep in reader.dependencies if dep.target is node]
            for dependencies, reverse in ((ahead, False), (back, True)):
                for dep, piece in zip(dependencies, _read_pieces(reader, node), strict=False):
                    offsets = node.module.offsets
                    dep.index_mapping[0] = offsets and index_mapping._SplitIndexMapping(
                        offset=offsets[piece : piece + 2], reverse=reverse
                    )


def _read_pieces(reader: Any, split: Any) -> list[int]:
    """Return the numbers of the pieces of ``split`` that ``reader`` takes."""
    return [number for fn, number in reader.grad_fn.next_functions if fn is split.grad_fn]


def _read_offsets(split: Any) -> list[int] | None:
    """Return where the pieces of a split begin and end; None if it does not cut channels."""
    shape, axis = split._saved_self_sym_sizes, split._saved_dim
    axis -= 2**64 if axis >= 2**63 else 0  # Negative axes are saved as unsigned numbers.
    if axis % len(shape) != _channel_axis(shape):
        return None
    total = shape[axis]
    sizes = getattr(split, "_saved_split_sizes", None)
    if sizes is None:
        return [*range(0, total, split._saved_split_size), total]
    return [0, *accumulate(sizes)]


def _channel_axis(shape: Sequence[int]) -> int:
    """Return 1, or the last axis of what a linear layer makes of a sequence."""
    return 2 if len(shape) == 3 else len(shape) > 1


def _map_concats(graph: Any) -> None:
    """Map the channels of each concat; torch-pruning gives up when a split reads it."""
    index_mapping = tp.dependency.index_mapping
    for node in graph.module2node.values():
        axis = getattr(node.grad_fn, "_saved_dim", 0)
        if node.type != tp.ops.OPTYPE.CONCAT or axis not in (1, 2**64 - 3):
            continue
        sizes = [
            tp.dependency.shape_infer.infer_channels_between(graph, source, node)
            for source in node.inputs
        ]
        if None in sizes:
            continue
        offsets = [0, *accumulate(sizes)]
        for source in {id(source): source for source in node.inputs}.values():
            numbers = [number for number, other in enumerate(node.inputs) if other is source]
            ahead = [dep for dep in source.dependencies if dep.target is node]
            back = [dep for dep in node.dependencies if dep.target is source]
            for dependencies, reverse in ((ahead, False), (back, True)):
                for dep, number in zip(dependencies, numbers, strict=False):
                    dep.index_mapping[1] = index_mapping._ConcatIndexMapping(
                        offset=offsets[number : number + 2], reverse=reverse
                    )
