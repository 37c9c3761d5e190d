from dataclasses import dataclass, field

import pytest

from autocompress.errors import ArtifactError
from autocompress.jobs import Candidate, Job, Outcome, Stage
from autocompress.search.records import Record
from autocompress.search.restore import restore_model

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
