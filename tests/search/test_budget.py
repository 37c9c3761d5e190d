import pytest

from autocompress.errors import SettingError
from autocompress.masks.cost import Cost
from autocompress.search.budget import Budget, measure_excess

DENSE = Cost(weights=1000, params=1100, macs=50_000, bytes=4400)


def test_shares_and_counts_become_units() -> None:
    limits = Budget(macs=0.5, weights=100.0).limits(DENSE)

    assert limits == {"macs": 25_000, "weights": 100}


def test_the_way_to_the_budget_is_logarithmic() -> None:
    budget = Budget(weights=0.25)

    assert budget.limits(DENSE, 0.0)["weights"] == 1000
    assert budget.limits(DENSE, 0.5)["weights"] == pytest.approx(500)
    assert budget.limits(DENSE, 1.0)["weights"] == 250
    assert Budget(weights=5000.0).limits(DENSE, 0.5)["weights"] == 1000


def test_the_most_demanding_limit_counts() -> None:
    assert Budget(macs=0.5, weights=0.1).reduction(DENSE) == pytest.approx(10)
    assert Budget(macs=1.0).reduction(DENSE) == 1


def test_excess_is_at_most_zero_within_a_limit() -> None:
    assert measure_excess({"macs": 50.0}, {"macs": 100.0}) == {"macs": -0.5}


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_wrong_budgets_are_refused(wrong: float) -> None:
    with pytest.raises(SettingError, match=r"budget\.macs: want a value above 0"):
        Budget(macs=wrong)


def test_no_budget_at_all_is_refused() -> None:
    with pytest.raises(SettingError, match="budget: want a limit"):
        Budget().limits(DENSE)
