import pytest
import torch

from autocompress.jobs import Candidate
from autocompress.masks.project import measure_energies
from autocompress.methods.magnitude import Magnitude, MagnitudeSettings
from tests.asked import ask
from tests.hand_made import MAKERS


@pytest.mark.parametrize(("norm", "kept"), [(1, [1, 2]), (2, [0, 2])])
def test_the_norm_decides_between_one_large_weight_and_many_small_ones(
    norm: int, kept: list[int]
) -> None:
    made = MAKERS["sequential"]()
    weight = made.model.get_parameter("3.weight")
    reader = made.model.get_parameter("6.weight")
    with torch.no_grad():
        weight.zero_()
        reader.fill_(0.0)
        weight[0, 0, 0, 0] = 3.0  # L1 3, L2 3
        weight[1] = 0.1  # L1 3.6, L2 0.6
        weight[2] = 1.0
    settings = MagnitudeSettings(norm=1) if norm == 1 else MagnitudeSettings()
    request = ask(made, Candidate(filters={"3": 2}, columns={}))

    masks = Magnitude(settings=settings).find_masks(request).masks

    assert masks.units[4:7].nonzero().flatten().tolist() == kept


@pytest.mark.parametrize("norm", [1, 2])
def test_sums_of_energies_are_powers_of_norms(norm: int) -> None:
    made = MAKERS["residual"]()
    found = (
        measure_energies(made.graph, made.model, norm=1)
        if norm == 1
        else measure_energies(made.graph, made.model)
    )

    for layer in made.graph.layers:
        weight = made.model.get_parameter(f"{layer.name}.weight").detach().flatten(1)
        rows = torch.linalg.vector_norm(weight, ord=norm, dim=1) ** norm
        torch.testing.assert_close(found[layer.name].sum(1), rows)
