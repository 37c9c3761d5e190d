"""Watch the memory of one worker: `PYTHONPATH=. python experiments/service/memory.py`.

`--evaluations 200 --model digits_cnn`, or `--model lenet5 --data FOLDER` with MNIST in it.
"""

import argparse
import json
import tempfile
import time

from autocompress.data.settings import DataSettings
from autocompress.evaluate.factory import EvaluatorFactory
from autocompress.evaluate.settings import EvaluateSettings, FastSettings
from autocompress.evaluate.task import TaskSettings
from autocompress.train.loop import TrainSettings
from autocompress.zoo.make import ModelSettings
from tests.watched import watch_evaluations


def make_factory(model: str, data: str, run_dir: str) -> EvaluatorFactory:
    """Return an evaluator that trains little: it is its memory that counts."""
    train = TrainSettings(epochs=1, batch_size=64)
    chosen = DataSettings()
    if data:
        chosen = DataSettings(name="mnist", root=data, validation=0.02, train_limit=256)
    task = TaskSettings(data=chosen, model=ModelSettings(name=model), train=train, device="cpu")
    evaluate = EvaluateSettings(fast=FastSettings(prune=train, retrain=train))
    return EvaluatorFactory(task=task, evaluate=evaluate, run_dir=run_dir)


def main() -> None:
    """Print what is seen every 20 evaluations, and the growth."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--model", default="digits_cnn")
    parser.add_argument("--data", default="")
    given = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        factory = make_factory(given.model, given.data, folder)
        looks = []
        for number, look in enumerate(watch_evaluations(factory, given.evaluations), start=1):
            looks.append(look)
            if number in {1, 5, 10} or number % 20 == 0:
                print(json.dumps({"evaluation": number, **vars(look)}), flush=True)
    early, last = looks[min(19, len(looks) - 1)], looks[-1]
    print(
        f"growth since evaluation 20: {last.resident - early.resident:.1f} MB resident, "
        f"{last.peak - early.peak:.1f} MB at the peak"
    )
    print(
        f"modules made {last.made}, alive {last.alive}, at most uncollected "
        f"{max(look.uncollected for look in looks)}; {time.monotonic() - begun:.0f} s"
    )


if __name__ == "__main__":
    main()
