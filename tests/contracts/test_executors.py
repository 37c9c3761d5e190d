"""What the controller may rely on, whatever executor it has."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autocompress.errors import ArtifactError, DataError, SettingError
from autocompress.execute.base import Executor, read_outcome
from autocompress.execute.choose import open_executor
from autocompress.execute.settings import ExecuteSettings
from autocompress.jobs import Outcome
from autocompress.store.run_folder import RunFolder
from tests.workers import PerformerFactory, make_job, read_runs, take_outcome

SETTINGS = {
    "in_process": ExecuteSettings(),
    "subprocess": ExecuteSettings(executor="subprocess"),
    "two subprocesses": ExecuteSettings(workers=2),
}
RAY = {
    "ray": ExecuteSettings(executor="ray", address="local"),
    "two on ray": ExecuteSettings(executor="ray", address="local", workers=2),
}
ALL = {**SETTINGS, **RAY}
Make = Callable[[], Executor]


SLOW = [pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])]
SHORT = [pytest.param("two on ray", marks=pytest.mark.ray)]


@pytest.fixture(params=[*SETTINGS, *SHORT, *SLOW])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    opened: list[Executor] = []
    if request.param in RAY:
        request.getfixturevalue("local_ray")

    def make_one() -> Executor:
        factory = PerformerFactory(str(tmp_path))
        settings = ALL[request.param]
        opened.append(open_executor(settings, factory(), factory, RunFolder(tmp_path)))
        return opened[-1]

    yield make_one
    for executor in opened:
        executor.close()


@pytest.fixture
def executor(make: Make) -> Executor:
    return make()


def run(executor: Executor, base: str = "calm", *, key: str = "key", seed: int = 0) -> Outcome:
    executor.submit(key, make_job(base, seed))
    found, outcome = take_outcome(executor)
    assert found == key
    return outcome


def test_an_outcome_is_the_runners_and_is_stored(executor: Executor, tmp_path: Path) -> None:
    outcome = run(executor, seed=7)

    assert (outcome.energy, outcome.metrics["val_loss"], outcome.error) == (7.1, 7.1, "")
    assert outcome.metrics["seconds"] == 0.5
    assert executor.find("key") == read_outcome(RunFolder(tmp_path), "key") == outcome
    assert executor.find("other") is None


def test_a_stored_outcome_is_answered_without_a_run(make: Make, tmp_path: Path) -> None:
    first, again = run(make()), run(make())

    assert first == again
    assert read_runs(tmp_path) == ["calm"]


@pytest.mark.parametrize(
    ("base", "error"),
    [
        ("fail", "EvaluationError: training diverged"),
        ("diverge", "the energy is nan, no finite number"),
        ("use_up_memory", "out of memory (MemoryError); want fewer workers or smaller batches"),
        ("break_cuda", "RuntimeError: CUDA error: device-side assert triggered"),
    ],
)
def test_a_failure_is_told_and_the_next_attempt_is_a_real_one(
    executor: Executor, tmp_path: Path, base: str, error: str
) -> None:
    outcomes = [run(executor, base), run(executor, base)]

    assert [outcome.error for outcome in outcomes] == [error] * 2
    assert all(outcome.failed and math.isnan(outcome.energy) for outcome in outcomes)
    assert all(outcome.metrics["seconds"] >= 0 for outcome in outcomes)
    assert executor.find("key") is None
    assert read_runs(tmp_path) == [base] * 2
    assert run(executor, key="next").error == ""


@pytest.mark.parametrize(
    ("base", "kind"), [("refuse_settings", SettingError), ("refuse_data", DataError)]
)
def test_what_no_attempt_can_mend_is_raised(
    executor: Executor, base: str, kind: type[Exception]
) -> None:
    with pytest.raises(
        kind, match=r"^(loss: no such loss|(the worker \d+ on .*: )?a label is wrong)$"
    ):
        run(executor, base)

    assert executor.find("key") is None
    assert run(executor, key="next").error == ""


def test_a_damaged_record_is_worked_out_again(make: Make, tmp_path: Path) -> None:
    first = run(make())
    (tmp_path / "results" / "key.json").write_text("{")

    again = run(make())

    assert again.energy == first.energy
    assert read_runs(tmp_path) == ["calm"] * 2


@pytest.mark.parametrize("text", ['{"version": 9}', '{"version": 1, "score": 2}'])
def test_a_record_of_another_version_ends_the_search_in_a_sentence(
    executor: Executor, tmp_path: Path, text: str
) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "key.json").write_text(text)

    with pytest.raises(ArtifactError, match="the result key cannot be read"):
        executor.find("key")
    with pytest.raises(ArtifactError, match="the result key cannot be read"):
        run(executor)


def test_a_record_that_cannot_be_read_ends_the_search(executor: Executor, tmp_path: Path) -> None:
    (tmp_path / "results" / "key.json").mkdir(parents=True)

    with pytest.raises(ArtifactError, match=r"key\.json: cannot be read"):
        run(executor)
    with pytest.raises(ArtifactError, match=r"key\.json: cannot be read"):
        executor.find("key")


def test_every_job_comes_back_once_however_many_wait(executor: Executor) -> None:
    for seed in range(9):
        executor.submit(f"key{seed}", make_job(seed=seed))

    outcomes = dict(take_outcome(executor) for _ in range(9))

    assert {key: outcome.energy for key, outcome in outcomes.items()} == {
        f"key{seed}": seed + 0.1 for seed in range(9)
    }
    with pytest.raises(IndexError, match="no job is in flight"):
        executor.wait()


def test_a_key_is_in_flight_once(executor: Executor) -> None:
    for key in ("one", "two", "three"):
        executor.submit(key, make_job())

    for key in ("one", "two", "three"):
        with pytest.raises(ValueError, match=f"key '{key}' is in flight"):
            executor.submit(key, make_job())


def test_what_is_closed_forgets_its_jobs_and_may_be_closed_again(executor: Executor) -> None:
    run(executor)
    executor.submit("other", make_job())

    executor.close()
    executor.close()

    with pytest.raises(IndexError):
        executor.wait()


def test_there_is_a_slot_for_each_worker(make: Make, request: pytest.FixtureRequest) -> None:
    settings = ALL[request.node.callspec.params["make"]]
    executor = make()
    if settings.executor == "ray":  # Its workers have a place once the cluster gives them one.
        for seed in range(settings.workers):
            executor.submit(
                f"key{seed}", make_job("meet" if settings.workers == 2 else "calm", seed)
            )
        for _ in range(settings.workers):
            take_outcome(executor)

    assert executor.slots == settings.workers
