"""Searches over weight densities and bit widths under a budget of coded bytes."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from autocompress.evaluate.settings import QuantizeSettings
from autocompress.evaluate.task import open_task
from autocompress.masks.cost import CostModel
from autocompress.report.frames import trials_frame
from autocompress.search.budget import Budget
from autocompress.search.controller import Wiring, hold_controller, run_search
from autocompress.search.ledger import read_records
from autocompress.search.rounds import RoundSettings
from autocompress.search.settings import SearchSettings
from autocompress.search.space import SpaceSettings
from autocompress.search.spec import Settings
from autocompress.search.study import open_study
from tests.fakes import FakeEvaluator, make_search, make_small_graph
from tests.laws import find_violations, read_trajectory
from tests.tiny import SHORT, TINY

FINE = SpaceSettings(weight_density=(0.0, 1.0), bits=(2, 4, 8))
QUICK = QuantizeSettings(train=SHORT, settle=SHORT)


class Killed(BaseException):
    """Ends a search where it stands."""


def test_a_search_of_digits_ends_with_a_model_within_its_coded_bytes(tmp_path: Path) -> None:
    settings = replace(
        TINY,
        run_dir=str(tmp_path),
        space=FINE,
        budget=Budget(coded_bytes=0.02),
        rounds=RoundSettings(step=100.0),
        evaluate=replace(
            TINY.evaluate,
            fast=replace(TINY.evaluate.fast, quantize=QUICK),
            full=replace(TINY.evaluate.full, quantize=QUICK),
        ),
    )

    result = run_search(settings)

    assert result.done
    dense = 4 * sum(p.numel() for p in make_dense(settings).parameters())
    best = result.finished[0]
    assert best.metrics["coded_bytes"] <= 0.02 * 1.01 * dense  # Statistics of norms count too.
    frame = trials_frame(open_study("tiny", result.settings.storage))
    assert frame["feasible"].all()
    assert set(frame["bits/conv2"]) <= {2, 4, 8}
    assert (frame["weights/conv3"] < 0.2).all()
    assert (frame["coded_bytes"] < frame["bytes"]).all()


def make_dense(settings: Settings) -> torch.nn.Module:
    return open_task(settings.task).make_model()


def make_fine(folder: Path, **changes: Any) -> Settings:
    search = SearchSettings(evaluations=9, chains=2)
    # Eight bits alone are a quarter of the bytes: smaller steps would leave nothing to choose.
    given = {"budget": Budget(coded_bytes=0.01), "rounds": RoundSettings(step=7.5)} | changes
    return make_search(str(folder), space=FINE, search=search, **given)


def run_fine(settings: Settings, stop: int = -1) -> None:
    """Search the small graph; it is killed at checkpoint ``stop``, counted from 0."""
    passed = 0

    def checkpoint(_: str) -> None:
        nonlocal passed
        if passed == stop:
            raise Killed
        passed += 1

    evaluator = FakeEvaluator()
    wiring = Wiring(make_evaluator=lambda: evaluator, checkpoint=checkpoint)
    with hold_controller(settings, wiring) as controller:
        controller.run()


def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    once = {"rounds": RoundSettings(step=100.0)}
    whole, killed = (make_fine(tmp_path / one, **once) for one in ("whole", "killed"))
    run_fine(whole)

    for stop in (3, 11, 18):
        with pytest.raises(Killed):
            run_fine(killed, stop)
    run_fine(killed)

    assert read_trajectory(killed) == read_trajectory(whole)
    assert find_violations(killed) == []


def test_rounds_shrink_the_weights_of_their_bases_and_choose_bits_anew(tmp_path: Path) -> None:
    settings = make_fine(tmp_path)
    run_fine(settings)

    records = read_records(open_study(settings.name, settings.storage))
    pruned = [one.candidate for one in records if one.stage == "round"]
    dense = CostModel(make_small_graph())
    assert len(pruned) >= 2
    for before, after in pairwise(pruned):
        assert all(count <= before.weights[name] for name, count in after.weights.items())
    coded = [dense.count_candidate(one).list_known()["coded_bytes"] for one in pruned]
    assert coded == sorted(coded, reverse=True)
    tried = [one.candidate.bits.values() for one in records if one.stage == "fast"]
    assert {width for widths in tried for width in widths} == {2, 4, 8}
