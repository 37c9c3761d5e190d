import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import SettingError
from autocompress.jobs import Candidate
from autocompress.report.comparison import (
    NEEDED,
    RUN_COLUMNS,
    Row,
    add_up,
    compare_with_mean,
    describe_standing,
    find_excess,
    has_one_resource,
    judge,
    make_runs_frame,
    measure_hypervolumes,
    read_peers,
    summarize_runs,
)
from autocompress.report.frames import DTYPES, Direction
from autocompress.search.budget import Budget
from autocompress.search.compare import Comparison
from autocompress.search.records import Record
from tests.duels import plan_duel

METRICS = st.dictionaries(
    st.tuples(st.sampled_from("abc"), st.integers(0, 4)), st.floats(0, 1), min_size=1
)
PEER = {"arm": "peer", "seed": 0, "budget": "macs0.5", "val_metric": 0.8, "test_metric": 0.7}


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return plan_duel(tmp_path_factory.mktemp("duel"))


def make_row(arm: str, seed: int, metric: float, **others: Any) -> Row:
    base = {"budget": "macs0.5", "arm": arm, "seed": seed, "test_metric": metric}
    return {**base, "val_metric": metric, **others}


def write_lines(folder: Path, *rows: object) -> list[Path]:
    path = folder / "peers.jsonl"
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in rows))
    return [path]


def test_the_frame_has_every_column_and_keeps_what_else_there_is() -> None:
    frame = make_runs_frame([make_row("a", 0, 0.5, tool="own"), make_row("b", 1, 0.6)])

    names = [column.name for column in RUN_COLUMNS]
    assert list(frame) == [*names, "tool"]
    assert [str(frame[c.name].dtype) for c in RUN_COLUMNS] == [DTYPES[c.kind] for c in RUN_COLUMNS]
    assert frame["tool"].tolist()[0] == "own"
    assert frame["samples"].isna().all()


@given(METRICS)
def test_means_and_paired_errors_are_those_of_a_brute_force(
    found: dict[tuple[str, int], float],
) -> None:
    rows = [make_row(arm, seed, metric) for (arm, seed), metric in found.items()]

    summary = summarize_runs(make_runs_frame(rows), "a").set_index("arm")

    assert set(summary.index) == {arm for arm, _ in found}
    for arm, row in summary.iterrows():
        own = {seed: metric for (other, seed), metric in found.items() if other == arm}
        check_mean(list(own.values()), row["test_metric"], row["test_se"])
        pairs = [own[seed] - found["a", seed] for seed in own if ("a", seed) in found]
        check_mean([] if arm == "a" else pairs, row["difference"], row["difference_se"])
        assert (row["seeds"], row["pairs"]) == (len(own), len(pairs))


def check_mean(values: list[float], mean: float, error: float) -> None:
    """Check a mean and its standard error against sums written out."""
    if not values:
        assert math.isnan(mean)
        assert math.isnan(error)
        return
    centre = sum(values) / len(values)
    assert mean == pytest.approx(centre, abs=1e-12)
    if len(values) == 1:
        assert math.isnan(error)
        return
    spread = sum((one - centre) ** 2 for one in values) / (len(values) - 1)
    assert error == pytest.approx(math.sqrt(spread / len(values)), abs=1e-9)


def test_the_mean_of_the_others_leaves_out_seeds_that_some_arm_has_not() -> None:
    found = {"a": [0.5, 0.6, 0.9], "b": [0.4, 0.8, 0.1], "c": [0.8, 0.8]}
    rows = [make_row(arm, s, m) for arm, metrics in found.items() for s, m in enumerate(metrics)]
    frame = make_runs_frame(rows)

    mean, error = compare_with_mean(frame, "macs0.5", "a")

    differences = np.array([0.6 - 0.5, 0.8 - 0.6])
    assert mean == pytest.approx(differences.mean())
    assert error == pytest.approx(differences.std(ddof=1) / math.sqrt(2))
    assert all(map(math.isnan, compare_with_mean(frame, "macs0.5", "d")))


@pytest.mark.parametrize(
    ("difference", "error", "direction", "place"),
    [
        (-0.02, 0.01, "maximize", "ahead"),
        (-0.01, 0.01, "maximize", "even"),
        (0.0, 0.0, "maximize", "even"),
        (0.02, 0.01, "maximize", "behind"),
        (0.02, 0.01, "minimize", "ahead"),
        (-0.02, 0.01, "minimize", "behind"),
        (-0.02, math.nan, "maximize", "unknown"),
    ],
)
def test_the_reference_is_ahead_even_or_behind(
    difference: float, error: float, direction: Direction, place: str
) -> None:
    assert judge(difference, error, direction) == place


def test_sentences_name_every_arm_once() -> None:
    metrics = {
        "ours": (0.80, 0.90), "worse": (0.70, 0.79), "even": (0.85, 0.85), "better": (0.9, 1.0),
        "lone": (0.5,),
    }  # fmt: skip
    rows = [make_row(arm, s, m) for arm, each in metrics.items() for s, m in enumerate(each)]
    frame = make_runs_frame(rows)

    said = describe_standing(summarize_runs(frame, "ours"), frame, "ours", "maximize")

    assert said["macs0.5"].startswith(
        "ours is ahead of worse; within one standard error of even; behind better; not to be "
        "told apart (fewer than two common seeds) from lone. The mean of the others less ours"
    )


@pytest.mark.parametrize("budget", ["macs0.5", "macs=0.5", 0.5, {"macs": 0.5}])
def test_rows_of_peers_come_through(
    tmp_path: Path, comparison: Comparison, budget: object
) -> None:
    half = comparison.dense.macs / 2
    given = [
        {**PEER, "budget": budget, "macs": half, "tool": "x", "samples": 12},
        {**PEER, "seed": 1, "share": 0.4},
        {**PEER, "seed": 2, "share": None, "cpu_s": None},
    ]

    frame = make_runs_frame(read_peers(write_lines(tmp_path, *given, ""), comparison))

    assert frame["budget"].tolist() == ["macs0.5"] * 3
    assert frame["share"].tolist()[:2] == [0.5, 0.4]
    assert frame["share"].isna().tolist() == [False, False, True]
    assert (frame["tool"][0], frame["samples"][0]) == ("x", 12)
    assert frame[["val_metric", "test_metric"]].to_numpy().tolist() == [[0.8, 0.7]] * 3


@pytest.mark.parametrize("key", NEEDED)
def test_a_row_that_lacks_a_key_is_refused(
    tmp_path: Path, comparison: Comparison, key: str
) -> None:
    short = {name: value for name, value in PEER.items() if name != key}

    with pytest.raises(SettingError, match=rf"peers.jsonl, line 2: want arm, .*, got no {key}"):
        read_peers(write_lines(tmp_path, PEER, short), comparison)


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ("{", "line 1: want a JSON object, got no JSON"),
        ([1], "line 1: want a JSON object, got .1."),
        ({**PEER, "budget": 0.9}, "line 1: want one budget of macs0.5, macs0.3, got 0.9"),
        ({**PEER, "test_metric": "good"}, "line 1: want a number for test_metric, got 'good'"),
        ({**PEER, "arm": "random-admm"}, "line 1: want an arm of its own, .* 'random-admm' again"),
    ],
)
def test_a_row_that_is_wrong_is_refused(
    tmp_path: Path, comparison: Comparison, row: object, error: str
) -> None:
    with pytest.raises(SettingError, match=error):
        read_peers(write_lines(tmp_path, row), comparison)


def test_a_file_that_is_missing_and_a_row_that_comes_twice_are_refused(
    tmp_path: Path, comparison: Comparison
) -> None:
    with pytest.raises(SettingError, match="--with: cannot read"):
        read_peers([tmp_path / "none.jsonl"], comparison)
    with pytest.raises(SettingError, match=r"line 2: .* each seed and budget of it once"):
        read_peers(write_lines(tmp_path, PEER, PEER), comparison)


def test_models_beyond_the_budget_are_named(comparison: Comparison) -> None:
    """Whether or not those of other seeds make up for them in the mean."""
    shares = {"a": (0.5, 0.5), "b": (0.51, 0.51), "c": (0.45, 0.52)}
    rows = [
        make_row(a, seed, 0.5, share=one) for a, b in shares.items() for seed, one in enumerate(b)
    ]

    found = find_excess(make_runs_frame(rows), comparison)

    assert found == {"macs0.5": ["b", "c"], "macs0.3": []}


def make_record(key: str, energy: float, **metrics: float) -> Record:
    return Record(
        seq=0, number=0, key=key, stage="fast", round=0, chain=0, index=0, source="",
        candidate=Candidate(filters={}, columns={}), base="", energy=energy, artifact="",
        metrics=metrics,
    )  # fmt: skip


def test_what_was_evaluated_once_costs_once_and_what_is_not_known_is_not_zero() -> None:
    once, again = make_record("x", 1.0, samples=7.0), make_record("x", 1.0, samples=7.0)
    failed = [make_record(key, math.nan) for key in "xyz"]
    other = make_record("y", 2.0, samples=5.0)

    assert add_up([once, *failed, other, again], "samples") == 12.0
    unknown = add_up([once, make_record("old", 1.0)], "samples")
    assert math.isnan(unknown)
    assert make_runs_frame([make_row("a", 0, 0.5, samples=unknown)])["samples"].isna().all()


def test_a_number_that_fits_two_budgets_is_refused(tmp_path: Path, comparison: Comparison) -> None:
    both = replace(
        comparison, budgets={"macs0.5": Budget(macs=0.5), "bytes0.5": Budget(bytes=0.5)}
    )

    with pytest.raises(SettingError, match=r"want one budget of macs0\.5, bytes0\.5, got 0.5"):
        read_peers(write_lines(tmp_path, {**PEER, "budget": 0.5}), both)


def test_the_hypervolume_is_the_area_under_the_front(comparison: Comparison) -> None:
    rows = [
        make_row("a", 0, 0.9, share=0.5),
        make_row("a", 0, 0.6, share=0.25) | {"budget": "macs0.3"},
        make_row("b", 0, 0.9, share=0.5),
        make_row("c", 0, 0.5, share=0.5),  # Not on its own front.
        make_row("c", 0, 0.6, share=0.25) | {"budget": "macs0.3"},
    ]

    areas = measure_hypervolumes(make_runs_frame(rows), "maximize").set_index("arm")

    assert has_one_resource(comparison)
    assert list(areas.index) == ["a", "c"]  # The other one has no model at every budget.
    assert areas["hypervolume"].tolist() == pytest.approx([0.25 * 0.6 + 0.5 * 0.9, 0.75 * 0.6])
    losses = make_runs_frame(rows[:2])
    (area,) = measure_hypervolumes(losses, "minimize")["hypervolume"]
    assert area == pytest.approx(0.75 * 0.3)  # Down from the worst, 0.9.
