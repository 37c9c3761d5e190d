import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import pytest

from autocompress.data.settings import DataSettings
from autocompress.errors import ArtifactError, EvaluationError, SpecMismatchError
from autocompress.evaluate.settings import (
    EvaluateSettings,
    FastSettings,
    FullSettings,
    PruneSettings,
)
from autocompress.evaluate.task import TaskSettings
from autocompress.execute.in_process import InProcess
from autocompress.jobs import Candidate, Job, Outcome, Stage
from autocompress.masks.purify import PurifySettings
from autocompress.search.budget import Budget
from autocompress.search.controller import (
    SearchResult,
    Wiring,
    finalize_trials,
    hold_controller,
    run_search,
)
from autocompress.search.needed import clean_folder
from autocompress.search.progress import SearchProgress
from autocompress.search.records import Record
from autocompress.search.restore import restore_model
from autocompress.search.rounds import RoundSettings
from autocompress.search.settings import SearchSettings
from autocompress.search.spec import Settings
from autocompress.search.storage import make_storage
from autocompress.search.study import open_study
from autocompress.store.cleaning import list_items
from autocompress.store.run_folder import RunFolder
from autocompress.train.loop import TrainSettings
from autocompress.zoo.make import ModelSettings
from tests.fakes import FakeEvaluator, make_search

FIRST = Candidate(filters={"a": 6}, columns={})
SECOND = Candidate(filters={"a": 3}, columns={})


@dataclass
class FakeMaker:
    """Stores a model under the key of its job; ``dense`` stands for all that it follows from."""

    dense: str = "dense"
    stored: set[str] = field(default_factory=set)
    jobs: list[Job] = field(default_factory=list)

    def has(self, key: str) -> bool:
        return not key or key in self.stored

    def run(self, job: Job) -> Outcome:
        assert self.has(job.base)
        self.jobs.append(job)
        self.stored.add(job.key(self.dense))
        return Outcome(energy=0.0, artifact=job.key(self.dense))


def make_job(stage: Stage, candidate: Candidate, base: str = "") -> Job:
    return Job(stage=stage, candidate=candidate, round=0, base=base, seed=7)


def decide(job: Job, maker: FakeMaker, seq: int) -> Record:
    return Record(
        seq=seq,
        number=seq,
        stage=job.stage,
        round=job.round,
        index=-1,
        candidate=job.candidate,
        base=job.base,
        energy=0.0,
        artifact=maker.run(job).artifact,
        metrics={},
    )


def search(maker: FakeMaker) -> list[Record]:
    """Return a round, a round from there and the finished model."""
    records: list[Record] = []
    for stage, candidate in (("round", FIRST), ("round", SECOND), ("full", SECOND)):
        base = records[-1].artifact if records else ""
        job = make_job(stage, candidate, base)  # type: ignore[arg-type]
        records.append(decide(job, maker, len(records)))
    return records


def test_what_is_stored_is_not_made_again() -> None:
    maker = FakeMaker()
    records = search(maker)

    for key in ["", *(one.artifact for one in records)]:
        restore_model(key, records, maker, seed=7)

    assert len(maker.jobs) == 3


@pytest.mark.parametrize("lost", [{0}, {1}, {2}, {0, 1}, {1, 2}, {0, 1, 2}])
def test_a_lost_model_is_made_again_and_what_it_needs(lost: set[int]) -> None:
    maker = FakeMaker()
    records = search(maker)
    made = list(maker.jobs)
    maker.stored -= {records[place].artifact for place in lost}

    restore_model(records[2].artifact, records, maker, seed=7)

    again = maker.jobs[3:]
    assert records[2].artifact in maker.stored
    # Those before are made only when the next one is needed too.
    wanted = [place for place in range(3) if set(range(place, 3)) <= lost]
    assert again == [made[place] for place in wanted]


def test_a_model_of_another_dense_model_is_not_taken_for_it() -> None:
    maker = FakeMaker()
    records = search(maker)

    with pytest.raises(ArtifactError, match="of trial 0 is gone and cannot be made again"):
        restore_model(records[0].artifact, records, FakeMaker(dense="other"), seed=7)


def test_a_model_that_nobody_made_is_named() -> None:
    with pytest.raises(ArtifactError, match="model unknown is stored nowhere"):
        restore_model("unknown", search(FakeMaker()), FakeMaker(), seed=7)


@dataclass
class ForgetfulEvaluator(FakeEvaluator):
    """Has only the models that it made itself."""

    made: set[str] = field(default_factory=set)

    def has(self, key: str) -> bool:
        return not key or key in self.made

    def run(self, job: Job) -> Outcome:
        outcome = super().run(job)
        self.made.add(outcome.artifact)
        return outcome


class CarefulExecutor(InProcess):
    """Takes only jobs whose base is there: a worker may begin at once."""

    def __init__(self, runner: ForgetfulEvaluator, folder: RunFolder) -> None:
        super().__init__(runner, folder)
        self._has = runner.has

    def submit(self, key: str, job: Job) -> None:
        assert self._has(job.base)
        super().submit(key, job)


@pytest.fixture
def waiting(tmp_path: Path) -> Settings:
    """Return the settings of a search that was stopped with a candidate of its last round."""

    def stop(now: SearchProgress) -> None:
        if now.round == 1 and now.running:
            raise KeyboardInterrupt

    settings = make_search(str(tmp_path))
    wiring = Wiring(make_evaluator=FakeEvaluator, watch=stop)
    with pytest.raises(KeyboardInterrupt), hold_controller(settings, wiring) as controller:
        controller.run()
    return settings


def test_a_lost_base_is_there_before_a_worker_needs_it(waiting: Settings) -> None:
    evaluator = ForgetfulEvaluator()
    wiring = Wiring(
        make_evaluator=lambda: evaluator,
        make_executor=lambda _, folder: CarefulExecutor(evaluator, folder),
    )

    with hold_controller(waiting, wiring) as controller:
        assert controller.run().todo == "done"

    assert evaluator.jobs[0].stage == "round"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), EvaluationError("it diverged")])
def test_whoever_stops_the_making_of_a_lost_base_is_obeyed(
    waiting: Settings, error: BaseException
) -> None:
    begun: list[Job] = []

    def fail(job: Job) -> None:
        begun.append(job)
        raise error

    wiring = Wiring(make_evaluator=lambda: ForgetfulEvaluator(fail=fail))
    with pytest.raises(type(error)), hold_controller(waiting, wiring) as controller:
        controller.run()

    states = {one.state.name for one in open_study("fake", waiting.storage).get_trials()}
    assert [job.stage for job in begun] == ["round"]
    assert "RUNNING" not in states


SHORT = TrainSettings(epochs=1, batch_size=64)
DECIDED = 5  # Three candidates, the round made of the best, one candidate of the last round.


def make_settings(folder: Path) -> Settings:
    """Return a search of two rounds of three candidates on digits, a second in all."""
    return Settings(
        name="tiny",
        run_dir=str(folder),
        task=TaskSettings(
            data=DataSettings(train_limit=128),
            model=ModelSettings(options={"width": 4}),
            train=SHORT,
            device="cpu",
        ),
        budget=Budget(weights=0.3),
        search=SearchSettings(evaluations=3),
        rounds=RoundSettings(tolerance=1.0),
        evaluate=EvaluateSettings(
            fast=FastSettings(fidelity="one_shot", norm_batches=1),
            round=PruneSettings(prune=SHORT, retrain=SHORT),
            full=FullSettings(
                prune=SHORT, retrain=SHORT, final=SHORT, purify=PurifySettings(evaluations=2)
            ),
        ),
    )


def read_course(result: SearchResult) -> list[tuple[object, ...]]:
    """Return what a search did, but for times."""
    return [
        (one.seq, one.key, one.stage, one.energy, one.artifact, one.metrics["val_metric"])
        for one in result.records
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SearchResult]:
    """Return the run folder of a search that ended, and what came of it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, run_search(make_settings(folder))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of a search that was stopped in its last round."""
    folder = tmp_path_factory.mktemp("stopped") / "run"

    def stop(now: SearchProgress) -> None:
        if now.record is not None and now.done == DECIDED:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_search(make_settings(folder), progress=stop)
    return folder


def list_results(folder: Path) -> set[object]:
    return {path.stem for path in (folder / "results").glob("*.json")}


def lose(kind: str) -> Callable[[Path], None]:
    def delete(folder: Path) -> None:
        found = [one.path for one in list_items(folder) if one.kind == kind]
        assert found
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return delete


def lose_models(folder: Path) -> None:
    shutil.rmtree(folder / "objects")


def lose_all_but_the_study(folder: Path) -> None:
    lose_models(folder)
    shutil.rmtree(folder / "results")


def damage_results(folder: Path) -> None:
    for path in (folder / "results").iterdir():
        path.write_bytes(path.read_bytes()[:20])


def clean(folder: Path) -> None:
    clean_folder(RunFolder(folder), [], results=True)


LOSSES = [
    lose("dense"),
    lose("base"),
    lose("result"),
    lose_models,
    lose_all_but_the_study,
    damage_results,
    clean,
]
LOSS_NAMES = ["dense", "base", "results", "models", "all", "damaged", "cleaned"]


@pytest.mark.parametrize("harm", LOSSES, ids=LOSS_NAMES)
def test_a_search_that_lost_files_ends_like_one_that_did_not(
    harm: Callable[[Path], None],
    stopped: Path,
    finished: tuple[Path, SearchResult],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    harm(folder)
    before = list_results(folder)

    result = run_search(make_settings(folder))

    course = read_course(result)
    assert result.evaluated == len(course) - DECIDED
    assert course == read_course(finished[1])
    # The study answers for what it decided: only the others were evaluated.
    assert list_results(folder) - before == {key for _, key, *_ in course[DECIDED:]}


def test_a_lost_finished_model_is_made_again(
    finished: tuple[Path, SearchResult], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    full = finished[1].finished[0]

    again: list[Callable[[], object]] = [
        lambda: run_search(make_settings(folder)),
        lambda: finalize_trials(make_settings(folder), [full.number]),
    ]
    for make in again:
        lose_models(folder)
        make()
        models = {one.key for one in list_items(folder) if one.kind == "finished"}
        assert models == {full.artifact}


def test_a_search_does_not_go_on_with_another_dense_model(stopped: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    storage = f"sqlite:///{folder}/study.db"
    study = optuna.load_study(study_name="tiny", storage=make_storage(storage))
    study.set_user_attr("dense_key", "ab" * 32)

    with pytest.raises(SpecMismatchError, match=r"task \(its data.*\) is abababababab in"):
        run_search(make_settings(folder))
