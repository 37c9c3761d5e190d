"""Single weights and bit widths in fast, round and full evaluations."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autocompress.evaluate.evaluator import Evaluator
from autocompress.evaluate.settings import QuantizeSettings
from autocompress.evaluate.task import open_task
from autocompress.jobs import Candidate, Job, Outcome, Stage
from autocompress.masks.cost import CostModel
from autocompress.masks.mask import weight_mask
from autocompress.quantize.levels import Levels, project_levels
from autocompress.store.artifacts import load
from autocompress.store.run_folder import RunFolder
from tests.tiny import SHORT, TINY

QUICK = QuantizeSettings(train=SHORT, settle=SHORT)
SETTINGS = replace(
    TINY.evaluate,
    fast=replace(TINY.evaluate.fast, quantize=QUICK),
    full=replace(TINY.evaluate.full, quantize=QUICK),
)
FILTERS = {"conv1": 16, "conv2": 16, "conv3": 32}
COLUMNS = {"conv1": 7, "conv2": 100, "conv3": 110, "fc": 100}
CANDIDATE = Candidate(
    filters=FILTERS,
    columns=COLUMNS,
    weights={"conv1": 60, "conv2": 300, "conv3": 500, "fc": 200},
    bits={"conv1": 4, "conv2": 2, "conv3": 3},
)


@pytest.fixture
def evaluator(tmp_path: Path) -> Evaluator:
    return Evaluator(open_task(TINY.task), SETTINGS, RunFolder(tmp_path))


def run(
    evaluator: Evaluator, stage: Stage, candidate: Candidate = CANDIDATE, base: str = ""
) -> Outcome:
    return evaluator.run(Job(stage=stage, candidate=candidate, round=0, base=base, seed=1))


def test_a_fast_job_costs_what_its_counts_say(evaluator: Evaluator) -> None:
    graph, _ = evaluator.describe("")
    one_shot = replace(SETTINGS, fast=replace(SETTINGS.fast, fidelity="one_shot"))
    cheap = Evaluator(evaluator.task, one_shot, evaluator.folder)

    trained, glance = run(evaluator, "fast"), run(cheap, "fast")

    cost = CostModel(graph).count_candidate(CANDIDATE)
    for outcome in (trained, glance):
        assert outcome.metrics["weights"] == cost.weights == 60 + 300 + 500 + 200
        assert outcome.metrics["coded_bytes"] == cost.coded_bytes
        assert outcome.metrics["macs"] == cost.macs
    assert "quantize_residual" in trained.metrics
    assert trained.energy != glance.energy


def test_bit_widths_decide_the_score_at_the_bottom_rung(evaluator: Evaluator) -> None:
    one_shot = replace(SETTINGS, fast=replace(SETTINGS.fast, fidelity="one_shot"))
    cheap = Evaluator(evaluator.task, one_shot, evaluator.folder)
    energies = {
        width: run(cheap, "fast", replace(CANDIDATE, bits=dict.fromkeys(COLUMNS, width))).energy
        for width in (2, 8)
    }

    whole = run(cheap, "fast", replace(CANDIDATE, bits={})).energy

    assert abs(energies[8] - whole) < abs(energies[2] - whole)
    assert energies[8] != whole


def test_a_round_stores_weight_masks_and_the_next_one_stays_within(evaluator: Evaluator) -> None:
    first = run(evaluator, "round")
    reopened = Evaluator(evaluator.task, SETTINGS, evaluator.folder)
    base = reopened.open_base(first.artifact)
    kept = base.count()
    less = replace(kept, weights={name: count // 2 for name, count in kept.weights.items()})

    second = run(reopened, "round", less, first.artifact)

    assert first.metrics["weights"] == sum(kept.weights.values())
    after = reopened.open_base(second.artifact)
    assert all(count <= less.weights[name] for name, count in after.count().weights.items())
    for layer in base.graph.layers:
        weight = base.model.get_parameter(f"{layer.name}.weight").flatten(1)
        assert not bool(weight[~weight_mask(base.masks, layer)].any())
        # A round does not quantise: more values than 4 bits have.
        assert len(weight.unique()) > 15


def test_a_finished_model_lies_on_its_levels(evaluator: Evaluator) -> None:
    outcome = run(evaluator, "full")

    model = load(evaluator.folder.path(outcome.artifact))
    weights = {name: model.get_parameter(f"{name}.weight").detach() for name in COLUMNS}
    counts = {name: int((one != 0).sum()) for name, one in weights.items()}
    assert all(counts[name] <= kept for name, kept in CANDIDATE.weights.items())
    assert sum(counts.values()) == outcome.metrics["masked_weights"]
    # Weights at level 0 are no kept weights any more; those of fc are all kept in float32.
    assert outcome.metrics["weights"] == sum(counts.values())
    assert outcome.metrics["compact_gap"] < 1e-5
    for name, width in CANDIDATE.bits.items():
        again = project_levels(weights[name], Levels(bits=width)).values
        assert torch.equal(again, weights[name])
        assert len(weights[name].unique()) <= 2**width - 1
    assert len(weights["fc"].unique()) > 16
    planned = CostModel(evaluator.describe("")[0]).count_candidate(CANDIDATE)
    assert outcome.metrics["coded_bytes"] <= planned.coded_bytes


def test_a_model_of_which_all_is_quantised_is_settled_too(evaluator: Evaluator) -> None:
    every = Candidate(filters={}, columns={}, bits=dict.fromkeys(COLUMNS, 2))

    outcome = run(evaluator, "full", every)

    model = load(evaluator.folder.path(outcome.artifact))
    for name in COLUMNS:
        assert len(model.get_parameter(f"{name}.weight").unique()) <= 3
    assert outcome.metrics["val_metric"] > 0.15  # Chance is 0.1.
