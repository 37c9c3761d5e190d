"""From a masked model to an ordinary smaller one."""

from torch import nn

from autocompress.errors import GraphError
from autocompress.graph.layers import LayerGraph
from autocompress.masks.mask import Masks
from autocompress.shrink.columns import make_column_layer
from autocompress.shrink.filters import shrink_filters, slice_graph
from autocompress.shrink.structure import replace_module_


def compact_model(model: nn.Module, graph: LayerGraph, masks: Masks) -> nn.Module:
    """Return a smaller copy of ``model`` that computes what the masked one does.

    Filters and channels of dead units are sliced away. A layer that keeps all columns that
    are left stays what it was; any other becomes a column layer, also when whole channels are
    dead whose producer must live for another reader.

    Args:
        model: Traced as ``graph``; not changed, its values need not be masked.
        graph: Says what belongs together.
        masks: What to keep.

    Raises:
        GraphError: A group or layer would lose everything, or a group is not prunable.
    """
    smaller, left = slice_graph(graph, masks)
    made = shrink_filters(model, graph, masks)
    for layer in smaller.column_layers:
        kept = left.columns[layer.name]
        if not kept.any():
            raise GraphError(f"{layer.name}: want at least 1 column kept, got 0")
        if not kept.all():
            module = made.get_submodule(layer.name)
            replace_module_(made, module, make_column_layer(module, kept))
    return made
