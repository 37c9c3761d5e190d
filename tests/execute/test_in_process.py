import itertools
from pathlib import Path

import pytest
import torch

from autocompress.errors import EvaluationError
from autocompress.execute.base import Executor, read_outcome
from autocompress.execute.in_process import InProcess
from autocompress.jobs import Candidate, Job
from autocompress.store.run_folder import RunFolder
from tests.fakes import FakeEvaluator
from tests.workers import take_outcome

JOB = Job(
    stage="fast",
    candidate=Candidate(filters={"a": 6, "b": 8}, columns={"a": 27, "b": 54, "fc": 8}),
    round=0,
    base="",
    seed=0,
)


def fail(_: Job) -> None:
    raise EvaluationError("training\ndiverged")


def interrupt(_: Job) -> None:
    raise KeyboardInterrupt


def run(evaluator: FakeEvaluator, folder: Path) -> float:
    executor: Executor = InProcess(evaluator, RunFolder(folder), itertools.count().__next__)
    executor.submit("key", JOB)
    key, outcome = take_outcome(executor)
    executor.close()
    assert key == "key"
    assert outcome.failed == bool(outcome.error)
    return outcome.energy


def test_an_outcome_is_stored_and_not_computed_again(tmp_path: Path) -> None:
    evaluator = FakeEvaluator()

    first, again = run(evaluator, tmp_path), run(evaluator, tmp_path)

    assert first == again
    assert len(evaluator.jobs) == 1
    assert read_outcome(RunFolder(tmp_path), "key") is not None


def test_an_error_becomes_a_failed_outcome_which_is_not_stored(tmp_path: Path) -> None:
    executor = InProcess(FakeEvaluator(fail=fail), RunFolder(tmp_path), itertools.count().__next__)
    executor.submit("key", JOB)

    _, outcome = executor.wait()

    assert outcome.error == "EvaluationError: training diverged"
    assert outcome.metrics == {"seconds": 1}
    assert read_outcome(RunFolder(tmp_path), "key") is None


def test_ctrl_c_passes_through(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(FakeEvaluator(fail=interrupt), tmp_path)


def test_threads_are_set_where_they_are_wanted(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    executor = InProcess(FakeEvaluator(), RunFolder(tmp_path), threads=before + 1)
    executor.submit("key", JOB)

    executor.wait()

    assert torch.get_num_threads() == before + 1
    torch.set_num_threads(before)
