import numpy as np
import pandas as pd
import pytest

from autocompress.report.frames import trials_frame
from autocompress.report.sensitivity import (
    FEWEST,
    SENSITIVITY_COLUMNS,
    measure_sensitivity,
    sensitivity_frame,
)
from tests.synthetic import make_study, make_trial

SLOPES = {"filters/a": 0.5, "columns/a": 0.1, "columns/b": 0.0}


def make_frame(trials: int = 200, *, wild: int = 0, base: str = "") -> pd.DataFrame:
    """Return trials whose energy grows by ``SLOPES`` with each halving of a density."""
    draws = np.random.default_rng(0)
    study = make_study(0, finished=0)
    for seq in range(trials):
        halvings = draws.uniform(0, 4, len(SLOPES))
        energy = 1 + halvings @ [*SLOPES.values()] + 0.01 * draws.standard_normal()
        energy += 1e6 if seq < wild else 0
        densities = dict(zip(SLOPES, (2.0**-halvings).tolist(), strict=True))
        attrs = {"stage": "fast", "round": 0, "seq": seq, "key": f"{base}{seq}", "base": base}
        study.add_trial(make_trial(float(energy), attrs, densities | {"columns/c": 1.0}))
    return trials_frame(study)


@pytest.mark.parametrize("wild", [0, 4])
def test_slopes_are_found_also_when_some_trainings_diverge(wild: int) -> None:
    found = measure_sensitivity(make_frame(wild=wild)).set_index("density")

    for name, slope in SLOPES.items():
        # Cutting the tails of the energies flattens the strongest slope by a tenth or so.
        assert found["per_halving"][name] == pytest.approx(slope, abs=0.08)
    assert found["explained"].iloc[0] > 0.9
    assert found.index[0] == "filters/a"
    assert found["correlation"]["filters/a"] < -0.9


def test_a_density_that_did_not_vary_has_no_slope() -> None:
    row = measure_sensitivity(make_frame()).set_index("density").loc["columns/c"]

    assert (row["lowest"], row["highest"]) == (1.0, 1.0)
    assert row[["per_halving", "correlation"]].isna().all()


def test_noise_explains_nothing() -> None:
    frame = make_frame(100)
    frame["energy"] = np.random.default_rng(1).permutation(frame["energy"])

    found = measure_sensitivity(frame)

    assert found["explained"].iloc[0] < 0.2
    assert found["per_halving"].abs().max() < 0.2


def test_rows_of_another_base_do_not_count() -> None:
    frame = make_frame(50)
    later = make_frame(30, base="other").assign(energy=7.0)
    later["seq"] += 50

    both = measure_sensitivity(pd.concat([later, frame], ignore_index=True))

    assert both["trials"].unique().tolist() == [30]
    assert both["per_halving"].isna().all()


def test_an_evaluation_repeated_counts_once() -> None:
    frame = make_frame(50)
    again = frame.assign(seq=frame["seq"] + 50)

    both = measure_sensitivity(pd.concat([frame, again], ignore_index=True))

    pd.testing.assert_frame_equal(both, measure_sensitivity(frame))


@pytest.mark.parametrize("trials", [0, 1, FEWEST - 1])
def test_few_evaluations_have_no_slopes(trials: int) -> None:
    found = sensitivity_frame(make_study(trials, finished=1))

    assert {name: str(kind) for name, kind in found.dtypes.items()} == SENSITIVITY_COLUMNS
    assert found["per_halving"].isna().all()


def test_a_round_can_be_chosen() -> None:
    study = make_study(60)

    assert sensitivity_frame(study)["round"].eq(1).all()
    assert sensitivity_frame(study, 0)["round"].eq(0).all()
