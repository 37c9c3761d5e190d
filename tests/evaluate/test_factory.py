import pickle
from pathlib import Path

from autocompress.data.settings import DataSettings
from autocompress.evaluate.evaluator import Evaluator
from autocompress.evaluate.factory import EvaluatorFactory
from autocompress.evaluate.settings import EvaluateSettings, FastSettings
from autocompress.evaluate.task import TaskSettings
from autocompress.jobs import Job
from autocompress.train.loop import TrainSettings
from autocompress.zoo.make import ModelSettings
from tests.watched import draw_candidate

SHORT = TrainSettings(epochs=1, batch_size=64)


def test_evaluators_of_one_factory_agree_wherever_they_are_made(tmp_path: Path) -> None:
    task = TaskSettings(
        data=DataSettings(train_limit=64),
        model=ModelSettings(name="digits_cnn"),
        train=SHORT,
        device="cpu",
    )
    evaluate = EvaluateSettings(fast=FastSettings(prune=SHORT, retrain=SHORT, norm_batches=1))
    factory = EvaluatorFactory(task=task, evaluate=evaluate, run_dir=str(tmp_path))
    here: Evaluator = factory()
    there: Evaluator = pickle.loads(pickle.dumps(factory))()
    kept = draw_candidate(here, seed=0)
    job = Job(stage="fast", candidate=kept, round=0, base="", seed=1)

    outcomes = [evaluator.run(job) for evaluator in (here, there)]

    assert here.dense_key == there.dense_key
    assert outcomes[0].energy == outcomes[1].energy
