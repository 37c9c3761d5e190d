import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import SettingError
from autocompress.masks.cost import Cost
from autocompress.search.budget import Budget, measure_excess
from autocompress.settings import parse_settings

DENSE = Cost(weights=1000, params=1100, macs=50_000, bytes=4400, coded_bytes=4400)


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


RESOURCES = ("macs", "params", "weights", "bytes")
SMALLEST = Cost(weights=10, params=12, macs=400, bytes=50, coded_bytes=50)


@given(
    st.dictionaries(st.sampled_from(RESOURCES), st.floats(1e-3, 1e6), min_size=1),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_limits_of_all_resources_hold_at_once_and_only_fall(
    wanted: dict[str, float], one: float, other: float
) -> None:
    budget, costs = parse_settings(Budget, wanted), DENSE.list_known()

    final = budget.limits(DENSE)
    early, late = (budget.limits(DENSE, progress) for progress in sorted((one, other)))

    assert final.keys() == wanted.keys()
    for name, value in wanted.items():
        assert final[name] == (value * costs[name] if value <= 1 else value)
        least = min(final[name], costs[name])
        # Powers of doubles: relative errors stay far below 1e-9.
        assert min(late[name], costs[name]) <= early[name] * (1 + 1e-9)
        assert late[name] >= least * (1 - 1e-9)
    factor = max([1.0, *(costs[name] / limit for name, limit in final.items())])
    assert budget.reduction(DENSE) == pytest.approx(factor)


@given(
    st.sampled_from(RESOURCES),
    st.dictionaries(st.sampled_from(RESOURCES), st.floats(0.02, 1.0)),
    st.floats(0, 1),
)
def test_what_is_minimised_ends_at_the_smallest_model(
    resource: str, caps: dict[str, float], progress: float
) -> None:
    budget = parse_settings(Budget, {**caps, "minimize": resource, "worst_metric": 0.9})
    costs, least = DENSE.list_known(), SMALLEST.list_known()

    final = budget.limits(DENSE, 1.0, SMALLEST)
    now = budget.limits(DENSE, progress, SMALLEST)
    enough = budget.measure_enough(DENSE, SMALLEST)
    there = budget.limits(DENSE, enough, SMALLEST)

    # Powers and logarithms of doubles: relative errors stay far below 1e-9.
    assert final[resource] == pytest.approx(least[resource])
    fell = [costs[name] / now[name] for name in now]
    ends = [costs[name] / final[name] for name in now]
    for factor, end in zip(fell, ends, strict=True):
        assert factor == pytest.approx(min(end, max(fell)))
    for name, share in caps.items():
        wanted = least[name] if name == resource else share * costs[name]
        assert final[name] == pytest.approx(wanted)
        assert there[name] <= share * costs[name] * (1 + 1e-9)
        assert now[name] <= costs[name]


@pytest.mark.parametrize("half", [{"worst_metric": 0.9}, {"minimize": "macs"}])
def test_a_metric_to_hold_wants_something_to_minimise(half: dict[str, object]) -> None:
    with pytest.raises(SettingError, match="want worst_metric and minimize together"):
        parse_settings(Budget, half)
