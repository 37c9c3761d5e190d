"""Jobs and outcomes are the same after a journey as JSON text."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.jobs import VERSION, Candidate, Job, Outcome, hash_json

COUNTS = st.dictionaries(st.text(max_size=8), st.integers(1, 4096), max_size=5)
CANDIDATES = st.builds(Candidate, filters=COUNTS, columns=COUNTS, weights=COUNTS, bits=COUNTS)
JOBS = st.builds(
    Job,
    stage=st.sampled_from(["fast", "round", "full"]),
    candidate=CANDIDATES,
    round=st.integers(0, 20),
    base=st.text("0123456789abcdef", max_size=64),
    seed=st.integers(0, 2**63),
)
OUTCOMES = st.builds(
    Outcome,
    energy=st.floats(allow_nan=False),
    metrics=st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False), max_size=5),
    artifact=st.text("0123456789abcdef", max_size=64),
    error=st.text(max_size=20),
)
JOB = Job(
    stage="fast",
    candidate=Candidate(filters={"conv1": 3}, columns={"conv2": 17}),
    round=1,
    base="abc",
    seed=5,
)


@given(CANDIDATES)
def test_a_candidate_returns_from_json(candidate: Candidate) -> None:
    text = json.dumps(candidate.to_json())

    assert Candidate.from_json(json.loads(text)) == candidate


def test_a_candidate_without_weights_and_bits_has_the_key_it_always_had() -> None:
    plain = JOB.candidate
    fine = replace(plain, weights={"conv2": 40}, bits={"conv2": 4})

    # Made by the version before there were any.
    assert plain.key() == "e54c3e1653108cbf920a55c0c233122427f18d74b23d7e4a5cd6f6f1da4811da"
    assert Candidate.from_json({"filters": {}, "columns": {}}) == Candidate(filters={}, columns={})
    assert len({plain.key(), fine.key(), replace(fine, bits={}).key()}) == 3


@given(JOBS)
def test_a_job_returns_from_json(job: Job) -> None:
    text = json.dumps(job.to_json())

    assert Job.from_json(json.loads(text)) == job
    assert Job.from_json(json.loads(text)).key("spec") == job.key("spec")


@given(OUTCOMES)
def test_an_outcome_returns_from_json(outcome: Outcome) -> None:
    text = json.dumps(outcome.to_json())

    assert Outcome.from_json(json.loads(text)) == outcome


def test_a_failed_outcome_returns_from_json_with_its_nan() -> None:
    failed = Outcome(energy=math.nan, error="out of memory")

    copy = Outcome.from_json(json.loads(json.dumps(failed.to_json())))

    assert math.isnan(copy.energy)
    assert copy.error == "out of memory"
    assert copy.failed


@pytest.mark.parametrize("energy", [math.nan, math.inf, -math.inf])
def test_an_outcome_without_a_finite_energy_has_failed(energy: float) -> None:
    assert Outcome(energy=energy).failed


def test_an_outcome_with_an_error_has_failed() -> None:
    assert Outcome(energy=0.5, error="killed").failed
    assert not Outcome(energy=0.5).failed


def test_an_outcome_of_a_newer_version_is_refused() -> None:
    record = Outcome(energy=0.5).to_json() | {"version": VERSION + 1}

    with pytest.raises(ValueError, match=f"want version {VERSION}, got {VERSION + 1}"):
        Outcome.from_json(record)


def test_equal_candidates_have_equal_keys_whatever_their_order() -> None:
    one = Candidate(filters={"a": 1, "b": 2}, columns={"c": 3, "d": 4})
    other = Candidate(filters={"b": 2, "a": 1}, columns={"d": 4, "c": 3})

    assert one.key() == other.key()


def test_filters_and_columns_do_not_share_a_key() -> None:
    one = Candidate(filters={"a": 1}, columns={})
    other = Candidate(filters={}, columns={"a": 1})

    assert one.key() != other.key()


@pytest.mark.parametrize(
    "other",
    [
        replace(JOB, stage="full"),
        replace(JOB, candidate=Candidate(filters={"conv1": 2}, columns={"conv2": 17})),
        replace(JOB, base="abd"),
        replace(JOB, seed=6),
    ],
)
def test_every_field_that_a_result_follows_from_changes_the_key(other: Job) -> None:
    assert other.key("spec") != JOB.key("spec")


def test_the_number_of_a_round_does_not_change_the_key() -> None:
    assert replace(JOB, round=7).key("spec") == JOB.key("spec")


def test_other_settings_give_a_job_another_key() -> None:
    assert JOB.key("spec") != JOB.key("other")


def test_the_hash_of_a_record_stays_what_it_was() -> None:
    # Studies and run folders on people's disks are found by it.
    assert hash_json({"b": [1, 2.5], "a": "ä"}) == (
        "5365cd93aa9a9f3e8a4c51dae9ceef2fe2b7508848e669368aad315562103680"
    )
