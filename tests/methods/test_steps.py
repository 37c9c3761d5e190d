"""Steps of a pipeline as settings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import SettingError
from autocompress.evaluate.compress import CompressSettings
from autocompress.methods.steps import (
    FreezePhase,
    PruneStep,
    QuantizeStep,
    RetrainStep,
    check_order,
    expand_steps,
    lower_budget,
)
from autocompress.settings import parse_settings, settings_to_json


def test_steps_of_every_kind_are_read_and_written() -> None:
    steps = [
        {"do": "prune", "weights": 100, "by": "gradual"},
        {"do": "retrain", "train": {"epochs": 2}},
        {"do": "quantize", "levels": {"kind": "binary"}, "layers": ["inner"], "freeze": [0.5]},
    ]

    settings = parse_settings(CompressSettings, {"method": {"steps": steps}})

    assert [type(step) for step in settings.method.steps] == [PruneStep, RetrainStep, QuantizeStep]
    assert parse_settings(CompressSettings, settings_to_json(settings)) == settings


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"do": "prune", "weight": 1}, r"method\.steps\[0\]\.weight: .*did you mean 'weights'"),
        ({"do": "retrain", "weights": 1}, r"method\.steps\[0\]\.weights: no such setting"),
        ({"do": "retrain", "train": {"epoch": 1}}, r"steps\[0\]\.train\.epoch: .*'epochs'"),
        ({"do": "shrink"}, r"method\.steps"),
        ({"do": "prune"}, "one of weights, density and layers"),
        ({"do": "prune", "weights": 5, "density": 0.1}, "one of weights, density and layers"),
        ({"do": "prune", "density": 1.5}, r"density in \(0, 1\]"),
        ({"do": "prune", "layers": {"conv1": 0}}, "1 weight or more"),
        ({"do": "prune", "weights": 5, "hold": 1.0}, r"hold in \[0, 1\)"),
        ({"do": "quantize", "freeze": [0.5, 0.3]}, "ascending"),
        ({"do": "quantize", "freeze": [1.0]}, r"in \(0, 1\)"),
        ({"do": "quantize", "layers": []}, "layers to quantise"),
        ({"do": "quantize", "by": "straight_through", "freeze": [0.5]}, "straight_through"),
        ({"do": "retrain", "swap": 1.0}, r"swap in \[0, 1\)"),
        ({"do": "quantize", "levels": {"bits": 1}}, r"levels\.bits"),
    ],
)
def test_a_step_that_is_wrong_is_refused_by_name(step: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        parse_settings(CompressSettings, {"method": {"steps": [step]}})


def test_a_pipeline_without_steps_is_refused() -> None:
    with pytest.raises(SettingError, match=r"method\.steps: want one step or more"):
        CompressSettings()


def test_a_quantising_step_ends_with_all_weights_held() -> None:
    step = QuantizeStep(freeze=(0.3, 0.6))

    phases = expand_steps((RetrainStep(), step))

    shares = [phase.share for phase in phases if isinstance(phase, FreezePhase)]
    assert phases[:2] == (RetrainStep(), step)
    assert shares == [0.3, 0.6, 1.0]


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.lists(st.floats(-0.5, 1.5), min_size=2))
def test_a_budget_falls_from_begin_to_end(begin: int, end: int, places: list[float]) -> None:
    budgets = [lower_budget(begin, end, place) for place in sorted(places)]

    assert budgets == sorted(budgets, reverse=True)
    assert all(min(begin, end) <= budget <= begin for budget in budgets)
    assert lower_budget(begin, end, 1.0) == min(begin, end)
    assert lower_budget(begin, min(begin, end), 0.0) == begin


def test_an_order_that_cannot_work_is_refused_at_once() -> None:
    prune, quantize = PruneStep(weights=5), QuantizeStep()

    check_order((prune, RetrainStep(), prune, quantize, RetrainStep(), quantize))
    with pytest.raises(SettingError, match="prune before those that quantize"):
        check_order((quantize, RetrainStep(), prune))
