import torch

from autocompress.graph.trace import trace_graph
from autocompress.masks.importance import measure_importance
from autocompress.masks.mask import Masks, close_masks, full_masks
from autocompress.zoo.resnet import ResNet


def test_a_units_importance_is_what_its_removal_takes_away() -> None:
    torch.manual_seed(0)
    model = ResNet(3, 4, (1, 1), 4).eval()
    graph = trace_graph(model, torch.zeros(1, 3, 8, 8))
    found = measure_importance(graph, model)
    whole = {
        layer.name: model.get_parameter(f"{layer.name}.weight").detach().double()
        for layer in graph.layers
    }

    for group in graph.groups:
        for place in range(group.size):
            unit, lost = group.start + place, 0.0
            for layer in graph.layers:
                weight = whole[layer.name].flatten(2) if whole[layer.name].ndim > 2 else None
                matrix = whole[layer.name][..., None] if weight is None else weight
                rows = [row for row, one in enumerate(layer.out_units) if one == unit]
                columns = [column for column, one in enumerate(layer.in_units) if one == unit]
                lost += float(matrix[rows].square().sum())
                lost += float(matrix[:, columns].square().sum())
            # A layer that reads and makes the same unit counts it as a row and as a column.
            assert abs(found.units[group.name][place] - lost) < 1e-5 * max(1.0, lost)


def test_what_is_masked_matters_nothing() -> None:
    torch.manual_seed(0)
    model = ResNet(3, 4, (1, 1), 4).eval()
    graph = trace_graph(model, torch.zeros(1, 3, 8, 8))
    masks = full_masks(graph)
    group = next(one for one in graph.groups if one.prunable)
    units = masks.units.clone()
    units[group.start] = False
    found = measure_importance(graph, model, close_masks(graph, Masks(units, masks.columns)))

    assert found.units[group.name][0] == 0
    assert (found.units[group.name][1:] > 0).all()
    for layer in graph.layers:
        for column, energy in enumerate(found.columns.get(layer.name, ())):
            read = layer.in_units[column // layer.area]
            assert (energy == 0) == (read == group.start)
