from dataclasses import replace
from pathlib import Path

import pytest

from autocompress.errors import BudgetError, SettingError
from autocompress.evaluate.effort import count_fast_samples
from autocompress.masks.cost import Cost
from autocompress.methods.choose import METHODS
from autocompress.search import compare
from autocompress.search.budget import Budget
from autocompress.search.compare import (
    SEARCHERS,
    Run,
    find_resource,
    iterate_runs,
    make_arms,
    name_budget,
    plan_comparison,
    read_result,
)
from autocompress.search.controller import SearchResult, run_search
from autocompress.search.progress import Watch
from autocompress.search.spec import Settings
from tests.duels import plan_duel, read_duel

DENSE = Cost(weights=1000, params=1200, macs=10_000, bytes=5000, coded_bytes=5000)
ARM = "[compare.arms.own]\n"
WRONG = {
    "searcher": ('"random"]', '"randon"]', "searchers: want some of annealing, .*'randon'"),
    "method": ('"admm"]', '"adm"]', "compare.methods: want some of admm, .*, got 'adm'"),
    "no seed": ("seeds = [0, 1]", "seeds = []", "compare.seeds: want one seed or more.*got none"),
    "a seed twice": ("[0, 1]", "[1, 1]", "each once and 0 or more, got 1, 1"),
    "key of a budget": ("{ macs = 0.3 }", "{ mac = 0.3 }", r"budgets\[1\].mac: .* mean 'macs'"),
    "empty budget": ("{ macs = 0.3 }", "{ }", r"budgets\[1\]: want a limit on macs, .* got none"),
    "samples": ("samples = 900", "samples = -1", "compare.samples: want 0 or more, got -1"),
    "no arm": ('["random"]', "[]", "compare: want searchers or arms, got neither"),
    "reference": ("samples", 'reference = "me"\nsamples', "reference: want some of .*'me'"),
    "key of an arm": ("[compare]", ARM + '"search.stp" = 1\n[compare]', r"own: search.stp: no"),
    "what is shared": ("[compare]", ARM + "seed = 3\n[compare]", "own: .* differ, got seed; all"),
    "its task": ("[compare]", ARM + "task.device = 'cpu'\n[compare]", "own: .*, got task.device"),
    "its name": ("[compare]", "[compare.arms.'a b']\n[compare]", "want new names .*, got 'a b'"),
    "a name that is taken": (
        "[compare]", "[compare.arms.random-admm]\n[compare]", "new names .*, got 'random-admm'",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "error"), list(WRONG.values()), ids=list(WRONG))
def test_what_is_wrong_is_one_sentence(tmp_path: Path, old: str, new: str, error: str) -> None:
    with pytest.raises(SettingError, match=error):
        plan_duel(tmp_path, (old, new))


def test_a_budget_out_of_reach_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="macs"):
        plan_duel(tmp_path, ("macs = 0.3", "macs = 1e-9"))

    assert not (tmp_path / "run").exists()


def test_there_is_a_run_for_each_budget_seed_and_arm(tmp_path: Path) -> None:
    own = ("[compare]", '[compare.arms.own]\n"search.prior" = 0.5\nsearch.drafts = 3\n[compare]')

    comparison = plan_duel(tmp_path, own)

    arms = ("random-magnitude", "random-admm", "own")
    assert (comparison.arms, comparison.reference) == (arms, arms[0])
    assert [(one.budget, one.seed, one.arm) for one in comparison.runs] == [
        (budget, seed, arm) for budget in ("macs0.5", "macs0.3") for seed in (0, 1) for arm in arms
    ]
    for run in comparison.runs:
        assert run.settings.name == f"duel-{run.budget}-{run.arm}-{run.seed}"
        assert (run.settings.seed, run.settings.task.seed) == (run.seed, 0)
        assert run.settings.budget == Budget(macs=float(run.budget[4:]))
    assert {one.settings.run_dir for one in comparison.runs} == {str(tmp_path / "run")}
    assert len({one.settings.storage for one in comparison.runs}) == 1
    search = comparison.runs[2].settings.search
    assert (search.prior, search.drafts, search.searcher) == (0.5, 3, "annealing")


def test_some_arms_and_other_seeds_can_be_asked_for(tmp_path: Path) -> None:
    per_seed = ("[compare]", '[compare]\nreference = "random-magnitude"\ndense = "per_seed"')
    compared = read_duel(tmp_path, per_seed)

    comparison = plan_comparison(compared, seeds=[7], arms=["random-admm"])

    assert [(one.arm, one.seed) for one in comparison.runs] == [("random-admm", 7)] * 2
    assert {one.settings.task.seed for one in comparison.runs} == {7}
    assert comparison.reference == "random-admm"  # The other one is not there.
    with pytest.raises(SettingError, match=r"--arms: want some of random-magnitude, .*'tpe'"):
        plan_comparison(compared, arms=["tpe"])


def test_every_searcher_and_method_can_be_an_arm(tmp_path: Path) -> None:
    compared = read_duel(tmp_path)
    both = replace(compared.compare, searchers=SEARCHERS, methods=tuple(METHODS))

    arms = make_arms(compared.study(), both)

    assert len(arms) == len(SEARCHERS) * len(METHODS)
    for name, settings in arms.items():
        assert name == f"{settings.search.searcher}-{settings.evaluate.method.name}"
    alone = make_arms(compared.study(), replace(both, methods=()))
    assert list(alone) == list(SEARCHERS)


@pytest.mark.parametrize(("samples", "step"), [(1, 9.0), (900, 9.0), (5000, 1.3)])
def test_no_run_may_spend_more_samples_or_leave_an_evaluation_of_each_round(
    tmp_path: Path, samples: int, step: float
) -> None:
    changes = (("samples = 900", f"samples = {samples}"), ("step = 9.0", f"step = {step}"))
    rounds = {"macs0.5": 1 if step > 2 else 3, "macs0.3": 1 if step > 2 else 5}

    comparison = plan_duel(tmp_path, *changes)

    for run in comparison.runs:
        each = count_fast_samples(run.settings.evaluate, 96, 72) * rounds[run.budget]
        evaluations = run.settings.search.evaluations
        assert evaluations == 1 or evaluations * each <= samples
        assert samples < (evaluations + 1) * each


def test_an_arm_that_sets_its_evaluations_keeps_them(tmp_path: Path) -> None:
    arm = ARM + '"search.searcher" = "uniform"\n"search.evaluations" = 3\n[compare]'

    runs = plan_duel(tmp_path, ("[compare]", arm), ("samples = 900", "samples = 9000")).runs

    own = {run.settings.search.evaluations for run in runs if run.arm == "own"}
    others = {run.settings.search.evaluations for run in runs if run.arm != "own"}
    assert own == {3}
    assert min(others) > 3


def test_without_samples_the_settings_say_how_many_evaluations(tmp_path: Path) -> None:
    comparison = plan_duel(tmp_path, ("samples = 900", "samples = 0"), ("chains", "evaluations"))

    assert {one.settings.search.evaluations for one in comparison.runs} == {1}


@pytest.mark.parametrize(
    ("budget", "name", "resource"),
    [
        (Budget(macs=0.5), "macs0.5", "macs"),
        (Budget(macs=0.25, weights=0.1), "macs0.25-weights0.1", "weights"),
        (Budget(macs=2500, weights=0.3), "macs2500-weights0.3", "macs"),
        (Budget(latency=0.5), "latency0.5", "latency"),
        (Budget(bytes=1e9), "bytes1000000000", "bytes"),
        (Budget(worst_metric=0.9, minimize="macs"), "worst_metric0.9-minimizemacs", "macs"),
    ],
)
def test_a_budget_has_a_name_and_a_resource(budget: Budget, name: str, resource: str) -> None:
    assert name_budget(budget) == name
    assert Settings(name=name).name == name  # It may be part of a study's.
    assert find_resource(budget, DENSE) == resource


def test_a_result_is_read_when_its_study_is_done_and_has_these_settings(tmp_path: Path) -> None:
    settings = plan_duel(tmp_path).runs[0].settings
    assert read_result(settings) is None
    with pytest.raises(KeyboardInterrupt):
        run_search(settings, progress=make_interrupt(3))
    assert read_result(settings) is None

    done = run_search(settings)

    found = read_result(settings)
    assert found is not None
    assert (found.records, found.done, found.evaluated) == (done.records, True, 0)
    assert read_result(replace(settings, seed=9)) is None


def test_a_run_whose_time_is_over_ends_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = plan_duel(tmp_path).runs

    def stop_second(settings: Settings, **_: object) -> SearchResult:
        done = settings.name == runs[0].settings.name
        return SearchResult(settings=settings, evaluated=1, records=(), done=done)

    monkeypatch.setattr(compare, "run_search", stop_second)

    seen: list[Run] = [run for run, _ in iterate_runs(runs)]

    assert seen == [*runs[:2]]


def make_interrupt(calls: int) -> Watch:
    """Return a watch that presses Ctrl-C when it is told of so many steps."""
    left = calls

    def watch(_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    return watch
