import pytest
import torch
from torch import nn
from torch.nn import functional

from autocompress.errors import SettingError
from autocompress.train.objective import (
    Loss,
    accuracy,
    make_distilled_loss,
    make_soft_distance,
    make_task_loss,
    resolve_loss,
    resolve_metric,
)


def test_accuracy_is_the_share_of_right_classes() -> None:
    outputs = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])

    assert accuracy(outputs, torch.tensor([0, 1, 1])).item() == pytest.approx(2 / 3)


def test_a_function_of_ones_own_is_imported() -> None:
    assert resolve_loss("torch.nn.functional:l1_loss") is functional.l1_loss
    assert resolve_metric("torch.nn.functional:l1_loss") is functional.l1_loss


@pytest.mark.parametrize("name", ["acuracy", "no.such.module:loss", "math:no_such_function"])
def test_a_name_that_is_nothing_is_an_error_that_says_what_is_known(name: str) -> None:
    with pytest.raises(SettingError, match=r"task\.metric"):
        resolve_metric(name)


def test_distillation_without_share_is_the_plain_loss() -> None:
    model, teacher = nn.Linear(3, 4), nn.Linear(3, 4)
    inputs, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 0])

    plain = make_task_loss(functional.cross_entropy)(model, inputs, targets)
    distilled = make_distilled_loss(
        functional.cross_entropy, teacher, share=0.0, distance=make_soft_distance(2.0)
    )

    torch.testing.assert_close(distilled(model, inputs, targets), plain)


@pytest.mark.parametrize("distance", [make_soft_distance(4.0), functional.mse_loss])
def test_a_student_equal_to_its_teacher_pays_nothing_for_the_distance(distance: Loss) -> None:
    model = nn.Linear(3, 4)
    inputs, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 0])

    loss = make_distilled_loss(functional.cross_entropy, model, share=1.0, distance=distance)

    assert loss(model, inputs, targets).item() == pytest.approx(0.0, abs=1e-6)
