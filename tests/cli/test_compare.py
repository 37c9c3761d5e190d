"""``autocompress compare`` on digits: nothing is run twice, and all arms spend the same."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from autocompress.cli import main
from autocompress.cli.compare import read_seeds
from autocompress.errors import SettingError
from autocompress.evaluate.effort import count_fast_samples
from autocompress.report.frames import trials_frame
from autocompress.search import compare
from autocompress.search.compare import plan_comparison
from autocompress.search.controller import SearchResult, run_search
from autocompress.search.spec import Settings
from autocompress.search.study import open_study
from tests.cli.conftest import Commands
from tests.duels import plan_duel, read_duel, write_duel

TIMES = ["seconds", "cpu_s"]
FEW = ("seeds = [0, 1]", "seeds = [0]")
PEER = {"arm": "peer", "seed": 0, "budget": "macs0.3", "val_metric": 0.8, "test_metric": 0.7}


@dataclass(frozen=True)
class Whole:
    """A comparison that is done.

    Attributes:
        folder: Of its settings; tests write to it.
        runs: Its first ``compare.csv``.
        page: Its first ``compare.md``.
    """

    folder: Path
    runs: str
    page: str


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    path = write_duel(folder)
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(path)])
    assert not ended.value.code
    run = folder / "run"
    return Whole(folder, (run / "compare.csv").read_text(), (run / "compare.md").read_text())


def read_runs(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text))


def refuse(*_: object, **__: object) -> SearchResult:
    raise AssertionError("nothing is to be run")


def test_a_second_call_runs_nothing_and_says_the_same(
    whole: Whole, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "run_search", refuse)

    shown = commands.run("compare", str(whole.folder / "duel.toml"))

    assert shown.code == 0, shown.err
    assert (whole.folder / "run" / "compare.csv").read_text() == whole.runs
    assert (whole.folder / "run" / "compare.md").read_text() == whole.page
    assert shown.err.count(": stored, test metric 0.") == 8
    for text in ("Budget macs0.5: accuracy, reference random-magnitude", "random-admm", "less"):
        assert text in shown.out


def test_the_runs_are_ordinary_studies_in_one_folder_that_spent_the_same(whole: Whole) -> None:
    comparison = plan_duel(whole.folder)
    rows, spent = read_runs(whole.runs).set_index("study").to_dict(orient="index"), []
    each = max(count_fast_samples(one.settings.evaluate, 96, 72) for one in comparison.runs)

    for run in comparison.runs:
        study, row = open_study(run.settings.name, run.settings.storage), rows[run.settings.name]
        fast = trials_frame(study).query("stage == 'fast'")
        spent.append(int(fast["samples"].sum()))
        assert row["search_samples"] == spent[-1] < row["samples"]
        assert row["evaluations"] == len(fast) > 1
        assert 0 < row["share"] <= float(run.budget[4:])

    assert 0 <= 900 - max(spent) <= 900 - min(spent) < each
    assert len({*spent}) > 1  # Methods that cost differently were evaluated so many times.
    assert len(list((whole.folder / "run").glob("*.db"))) == 1


@pytest.mark.parametrize("steps", [14, pytest.param(1, marks=pytest.mark.slow)])
def test_stopped_anywhere_and_called_again_it_ends_in_the_same_table(
    whole: Whole, tmp_path: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    path, left = write_duel(tmp_path, FEW), steps

    def run_some(settings: Settings, **others: Any) -> SearchResult:
        def watch(_: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

        return run_search(settings, **{**others, "progress": watch})

    monkeypatch.setattr(compare, "run_search", run_some)

    stopped = commands.run("compare", str(path))
    again = commands.run("compare", str(path))

    assert (stopped.code, again.code) == (130, 0), again.err
    assert f"go on with: autocompress compare {path}" in stopped.err
    found = read_runs((tmp_path / "run" / "compare.csv").read_text())
    wanted = read_runs(whole.runs).query("seed == 0")
    pd.testing.assert_frame_equal(
        found.drop(columns=TIMES), wanted.drop(columns=TIMES).reset_index(drop=True)
    )


def test_rows_of_peers_and_a_choice_of_arms(
    whole: Whole, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "run_search", refuse)
    peers = whole.folder / "peers.jsonl"
    peers.write_text("".join(json.dumps({**PEER, "seed": seed}) + "\n" for seed in (0, 1)))
    settings = (str(whole.folder / "duel.toml"), "--set", "compare.reference=random-admm")

    shown = commands.run(
        "compare", *settings, "--arms", "random-admm", "--seeds", "0,1", "--with", str(peers)
    )

    assert shown.code == 0, shown.err
    rows = read_runs((whole.folder / "run" / "compare.csv").read_text()).to_dict(orient="records")
    assert {row["arm"] for row in rows} == {"random-magnitude", "random-admm", "peer"}
    assert len(rows) == 2 + len(read_runs(whole.runs))  # What earlier calls ran stays in it.
    added = [(row["seed"], row["test_metric"]) for row in rows if row["arm"] == "peer"]
    assert added == [(0, 0.7), (1, 0.7)]
    assert "random-admm is " in shown.out
    assert "peer" in (whole.folder / "run" / "compare.md").read_text()


def test_a_choice_of_arms_and_seeds_runs_these_only(tmp_path: Path, commands: Commands) -> None:
    path = write_duel(tmp_path, ("{ macs = 0.5 }, ", ""))

    shown = commands.run("compare", str(path), "--arms", "random-admm", "--seeds", "1")

    assert shown.code == 0, shown.err
    rows = read_runs((tmp_path / "run" / "compare.csv").read_text()).to_dict(orient="records")
    assert [(row["arm"], row["seed"]) for row in rows] == [("random-admm", 1)]
    assert "There is only random-admm." in shown.out


@pytest.mark.slow  # Two dense models.
def test_each_seed_may_have_its_own_dense_model(tmp_path: Path, commands: Commands) -> None:
    changes = (
        ("[compare]", '[compare]\ndense = "per_seed"'),
        ("{ macs = 0.5 }, ", ""),
        (', "admm"', ""),
    )
    path = write_duel(tmp_path, *changes)

    shown = commands.run("compare", str(path))

    assert shown.code == 0, shown.err
    runs = plan_comparison(read_duel(tmp_path, *changes)).runs
    keys = {open_study(r.settings.name, r.settings.storage).user_attrs["dense_key"] for r in runs}
    assert len(keys) == len(runs) == 2


def test_seeds_are_numbers_with_commas() -> None:
    assert read_seeds("0, 3,11") == [0, 3, 11]
    assert read_seeds("") == []
    with pytest.raises(SettingError, match="--seeds: want whole numbers, as in 0,1,2, got '0;1'"):
        read_seeds("0;1")


def test_a_wrong_setting_is_one_sentence(tmp_path: Path, commands: Commands) -> None:
    path = write_duel(tmp_path)

    shown = commands.run("compare", str(path), "--set", 'compare.methods=["magic"]')

    assert shown.code == 1
    assert shown.err.startswith("error: compare.methods: want some of admm")
