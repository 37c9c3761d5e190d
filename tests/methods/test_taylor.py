from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import EvaluationError
from autocompress.graph.layers import OUTSIDE
from autocompress.jobs import Candidate
from autocompress.masks.mask import Masks, apply_masks_, full_masks, parameter_masks
from autocompress.methods.taylor import Taylor, TaylorSettings, sum_units
from autocompress.train.batches import Epochs
from tests.asked import TRAIN, Loss, Noise, ask
from tests.hand_made import MAKERS

NONE = Candidate(filters={}, columns={})


@pytest.mark.parametrize("net", MAKERS)
def test_a_unit_sums_absolute_values_over_layers_of_sums_within_each(net: str) -> None:
    graph = MAKERS[net]().graph
    draw = torch.Generator().manual_seed(1)
    terms = {
        layer.name: torch.randn(layer.filters, layer.columns, generator=draw, dtype=torch.float64)
        for layer in graph.layers
    }

    found = sum_units(graph, terms)

    for unit in range(graph.units):
        wanted = 0.0
        for layer in graph.layers:
            term = terms[layer.name]
            rows = [row for row, out in enumerate(layer.out_units) if out == unit]
            wanted += abs(float(term[rows].sum()))
            if layer.groups == layer.channels != 1:
                continue
            per_group = layer.in_units[: layer.channels // layer.groups]
            columns = [
                channel * layer.area + place
                for channel, one in enumerate(per_group)
                for place in range(layer.area)
                if one == unit != OUTSIDE
            ]
            wanted += abs(float(term[:, columns].sum()))
        assert float(found[unit]) == pytest.approx(wanted)


def test_scores_are_means_over_batches_of_what_each_batch_says() -> None:
    made = MAKERS["sequential"]()
    request = ask(made, Candidate(filters={}, columns={}, weights={"3": 5}), seed=4)
    model = made.model.eval()
    units, columns, weights = [], [], []
    for inputs, targets in islice(Epochs(request.source, TRAIN.batch_size, 4), 3):
        model.zero_grad()
        Loss()(model, inputs, targets).backward()
        terms = {}
        for layer in made.graph.layers:
            weight = model.get_parameter(f"{layer.name}.weight")
            assert weight.grad is not None
            terms[layer.name] = (weight.detach() * weight.grad).flatten(1)
        units.append(sum_units(made.graph, terms))
        columns.append(terms["6"].sum(0).abs())
        weights.append(terms["3"].abs())

    found = Taylor(settings=TaylorSettings(batches=3)).measure_scores(request)

    torch.testing.assert_close(found.units, torch.stack(units).mean(0))
    torch.testing.assert_close(found.columns["6"], torch.stack(columns).mean(0))
    torch.testing.assert_close(found.weights["3"], torch.stack(weights).mean(0))
    assert found.weights.keys() == {"3"}


def test_where_the_loss_is_linear_a_score_is_what_removal_changes() -> None:
    made = MAKERS["sequential"]()
    inputs, _ = next(iter(Noise().batches(8, seed=0)))

    def linear(model: nn.Module, *_: Tensor) -> Tensor:
        outputs: Tensor = model(inputs)
        return outputs.sum()

    request = replace(ask(made, NONE), loss=linear)
    found = Taylor(settings=TaylorSettings(batches=2)).measure_scores(request)

    model, full = made.model.eval(), full_masks(made.graph)
    dense = linear(model).detach()
    for column in range(0, 108, 7):  # The loss is linear in the last layer's weights.
        kept = full.columns["6"].clone()
        kept[column] = False
        masks = Masks(full.units, {**full.columns, "6": kept})
        before = model.get_parameter("6.weight").detach().clone()
        apply_masks_(model, parameter_masks(made.graph, masks, model))
        change = abs(float(linear(model).detach() - dense))
        model.get_parameter("6.weight").data.copy_(before)
        assert float(found.columns["6"][column]) == pytest.approx(change, rel=1e-3, abs=1e-4)


def test_terms_that_cancel_are_not_missed() -> None:
    """Each filter's terms are large, but those of the first one sum to nothing."""
    graph = MAKERS["sequential"]().graph
    terms = {layer.name: torch.zeros(layer.filters, layer.columns) for layer in graph.layers}
    terms["0"][0, :2] = torch.tensor([5.0, -5.0])
    terms["0"][1:] = 0.1

    scores = sum_units(graph, terms)[:4]

    assert int(scores.argmin()) == 0


def test_a_loss_that_is_no_number_is_refused() -> None:
    made = MAKERS["sequential"]()

    def broken(model: nn.Module, inputs: Tensor, _: Tensor) -> Tensor:
        outputs: Tensor = model(inputs)
        return outputs.sum() * float("nan")

    with pytest.raises(EvaluationError, match="finite gradients"):
        Taylor().find_masks(replace(ask(made, NONE), loss=broken))
