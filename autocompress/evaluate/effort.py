"""What an evaluation will cost in samples, before it is run."""

from autocompress.evaluate.settings import EvaluateSettings
from autocompress.methods.choose import make_method
from autocompress.train.effort import FORWARD, TRAINING
from autocompress.train.loop import TrainSettings, count_epoch_steps


def count_fast_samples(
    evaluate: EvaluateSettings,
    train_samples: int,
    validation_samples: int,
    *,
    has_norms: bool = True,
    quantizes: bool = False,
) -> int:
    """Return the samples that one fast evaluation sends through the network.

    Exactly what :func:`~autocompress.train.effort.count_effort` counts while it runs.

    Args:
        evaluate: How candidates are evaluated.
        train_samples: Size of the training set.
        validation_samples: Size of the validation split.
        has_norms: Whether the model has batch norms, which are re-estimated.
        quantizes: Whether candidates have bit widths; then some parameters have none.
    """
    fast = evaluate.fast

    def count_training(train: TrainSettings) -> int:
        size = min(train.batch_size, train_samples)
        return TRAINING * size * count_epoch_steps(train_samples, train)

    samples = FORWARD * validation_samples
    if has_norms:
        size = min(fast.retrain.batch_size, train_samples)
        samples += FORWARD * size * min(fast.norm_batches, train_samples // size)
    if fast.fidelity == "one_shot":
        return samples
    steps = count_epoch_steps(train_samples, fast.prune)
    size = min(fast.prune.batch_size, train_samples)
    samples += make_method(evaluate.method).count_samples(steps, size)
    samples += count_training(fast.retrain)
    if quantizes:
        levels = fast.quantize
        samples += count_training(levels.train) + count_training(levels.settle)
    return samples
