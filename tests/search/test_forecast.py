import math
from pathlib import Path

import pytest

from autocompress.errors import BudgetError
from autocompress.search.book import Book
from autocompress.search.budget import Budget
from autocompress.search.forecast import estimate_graph, estimate_seconds
from autocompress.search.ledger import Ledger
from autocompress.search.spec import Settings, make_spec, read_study_settings
from autocompress.search.study import hold_study, open_study
from autocompress.settings import parse_settings, settings_to_json
from tests.fakes import make_search, make_small_graph


def test_a_new_search_is_counted_but_not_timed(tmp_path: Path) -> None:
    estimate = estimate_graph(make_search(str(tmp_path)), make_small_graph())

    assert estimate.rounds == 2
    assert estimate.left == {"fast": 12, "round": 1, "full": 1}
    assert estimate.seconds is None
    assert estimate.disk_bytes > 3 * estimate.table["full"].bytes
    assert estimate.limits["weights"] == pytest.approx(0.3 * estimate.table["full"].weights)
    assert not any(tmp_path.iterdir())


def test_the_way_from_a_stored_model_is_shorter(tmp_path: Path) -> None:
    attrs = {"start": {"base": "model", "progress": 0.5}}

    estimate = estimate_graph(make_search(str(tmp_path)), make_small_graph(), attrs)

    assert estimate.rounds == 1
    assert estimate.left == {"fast": 6, "round": 0, "full": 1}


def test_a_metric_to_hold_takes_rounds_down_to_the_smallest_model_at_most(tmp_path: Path) -> None:
    settings = make_search(str(tmp_path), budget=Budget(worst_metric=0.9, minimize="macs"))

    estimate = estimate_graph(settings, make_small_graph())

    table = estimate.table
    rounds = math.ceil(math.log2(table["full"].macs / table["smallest"].macs))
    assert estimate.rounds == rounds
    assert estimate.left == {"fast": 6 * rounds, "round": rounds, "full": 1}
    assert estimate.limits == {}


def test_an_extension_is_foreseen(tmp_path: Path) -> None:
    settings = make_search(str(tmp_path))
    with hold_study(settings.name, settings.storage, make_spec(settings)) as held:
        for evaluations, models in ((5, 2), (2, 0)):
            ledger = Ledger(held, 3)
            ledger.describe_study(ledger.plan_extension(evaluations, models))

    estimate = estimate_graph(settings, make_small_graph())

    assert estimate.left == {"fast": 19, "round": 1, "full": 2}


def test_an_unreachable_budget_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"budget\.weights"):
        estimate_graph(make_search(str(tmp_path), budget=Budget(weights=2.0)), make_small_graph())


def test_stages_that_were_not_timed_leave_the_time_unknown() -> None:
    assert estimate_seconds({"fast": 2, "round": 0, "full": 0}, Book()) is None
    assert estimate_seconds({"fast": 0, "round": 0, "full": 0}, Book()) == 0


def test_a_study_gives_its_settings_back(tmp_path: Path) -> None:
    settings = make_search(str(tmp_path))
    with hold_study(settings.name, settings.storage, make_spec(settings)) as held:
        Ledger(held, 3).describe_study({"dense_energy": -0.9, "run_dir": settings.run_dir})

    stored = open_study(settings.name, settings.storage)

    assert read_study_settings(stored, settings.storage) == settings
    assert parse_settings(Settings, settings_to_json(settings)) == settings
