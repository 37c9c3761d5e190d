"""NVIDIA ModelOpt's FastNAS as its examples call it, with its constraint set in our MACs.

Wants ``nvidia-modelopt`` and ``torchprofile``, see README.md beside this file.
"""

import copy
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import modelopt.torch.nas as mtn
import modelopt.torch.prune as mtp
import torch
from modelopt.torch.nas.utils import inference_flops
from modelopt.torch.opt.utils import named_hparams
from modelopt.torch.prune.pruning import PruneModeRegistry
from torch import Tensor, nn

from autocompress.data.source import Source
from autocompress.evaluate.task import Task
from autocompress.graph.trace import measure_macs
from autocompress.train.loop import score_model
from experiments.peers.effort import Effort

# Its queue of batches that batch norms are re-estimated on. With fewer batches ModelOpt only
# warns and scores every candidate with the statistics of the whole model.
QUEUE = 50


@dataclass(frozen=True, kw_only=True)
class FastNas:
    """How FastNAS searches.

    Attributes:
        divisor: Widths are multiples of this; ModelOpt's own default is 32.
        steps: Widths are tried in so many equal steps; ModelOpt's own default is 20.
        score: ``metric``, as in its examples, or ``loss``, which has fewer ties.
        samples: Most samples that its search may send through the network; 0 for the whole
            validation split and as many calibration samples as the study's fast evaluations take.
        calibration: Training samples that batch norms are re-estimated on, in each evaluation.
    """

    divisor: int = 1
    steps: int = 20
    score: str = "metric"
    samples: int = 0
    calibration: int = 640


def search_fastnas(  # noqa: PLR0913 - the task, the limit, and what is kept
    dense: nn.Module,
    task: Task,
    share: float,
    *,
    options: FastNas,
    effort: Effort,
    checkpoint: Path,
    seed: int,
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the best model that FastNAS finds, and what it was given.

    Args:
        dense: Not changed.
        task: Its validation split scores, its training set re-estimates batch norms.
        share: Most of the dense model's MACs that may stay.
        options: How it searches.
        effort: Samples and evaluations are counted here.
        checkpoint: Where it keeps its scores, with the suffix ``.pth``: a killed search goes on.
        seed: Of the samples.

    Raises:
        ValueError: FastNAS leaves no model within ``share``, or the samples do not suffice.
    """
    example = task.example()
    most = count_evaluations(dense, options)
    calibration, scoring = split_samples(options, most, len(task.data.validation))
    size = max(2, round(calibration / QUEUE))
    batches = list(islice(task.data.train.batches(size, seed=seed, augment=True), QUEUE))
    if len(batches) < QUEUE:
        raise ValueError(f"want {QUEUE} batches of {size} training samples, got {len(batches)}")
    config = {
        "data_loader": batches,
        "max_iter_data_loader": QUEUE,
        "collect_func": lambda batch: batch[0],
        "score_func": make_score(task, task.data.validation.take(scoring, seed), options, effort),
        "checkpoint": str(checkpoint),
        "verbose": False,
    }
    macs = measure_macs(dense, example)
    extra = float(inference_flops(copy.deepcopy(dense), example, unit=1)) - 2 * macs
    figures = {
        "most_evaluations": most,
        "calibration": size * QUEUE,
        "scoring": scoring,
        "widths": options.steps,
        "divisor": options.divisor,
        "score": options.score,
    }
    # Its FLOPs are twice our MACs and what pooling adds, which may shrink with the model.
    for flops in (2 * share * macs + extra, 2 * share * macs):
        model = copy.deepcopy(dense)
        with count_samples(model, effort), redirect_stdout(sys.stderr), catch_warnings():
            simplefilter("ignore")
            model, _ = mtp.prune(
                model,
                mode=[("fastnas", make_config(options))],
                constraints={"flops": flops},
                dummy_input=example,
                config=config,
            )
        reached = measure_macs(model, example)
        if reached <= share * macs:
            return model.eval(), {**figures, "flops": flops}
    raise ValueError(f"FastNAS leaves {reached / macs:.4f} of the MACs, asked for {share}")


def make_config(options: FastNas) -> Any:
    """Return the search space.

    The linear layer counts too: with its divisor of 32 the last widths could not move.
    """
    shares = tuple((step + 1) / options.steps for step in range(options.steps))
    config = mtp.fastnas.FastNASConfig()
    config["nn.Conv2d"]["*"]["channel_divisor"] = options.divisor
    config["nn.Conv2d"]["*"]["channels_ratio"] = shares
    for kind in ("nn.BatchNorm2d", "nn.Linear"):
        config[kind]["*"]["feature_divisor"] = options.divisor
        config[kind]["*"]["features_ratio"] = shares
    return config


def count_evaluations(dense: nn.Module, options: FastNas) -> int:
    """Return the most models that a search scores: all widths of each group, and the whole."""
    space = mtn.convert(
        copy.deepcopy(dense), [("fastnas", make_config(options))], registry=PruneModeRegistry
    )
    return 1 + sum(len(one.choices) - 1 for _, one in named_hparams(space, configurable=True))


def split_samples(options: FastNas, evaluations: int, validation: int) -> tuple[int, int]:
    """Return the calibration and the validation samples of each evaluation."""
    calibration = options.calibration
    if not options.samples:
        return calibration, validation
    # One more calibration, of the whole model before the search.
    each = options.samples // (evaluations + 1)
    calibration = QUEUE * max(2, round(min(calibration, each / 2) / QUEUE))
    scoring = min(validation, each - calibration)
    if scoring < 100:
        least = (evaluations + 1) * (calibration + 100)
        raise ValueError(f"samples of FastNAS: want {least} or more, got {options.samples}")
    return calibration, scoring


def make_score(
    task: Task, source: Source, options: FastNas, effort: Effort
) -> Callable[[nn.Module], float]:
    """Return what FastNAS maximises."""
    sign = 1.0 if task.settings.metric_direction == "maximize" else -1.0

    def score(model: nn.Module) -> float:
        scores = score_model(model, source, loss=task.loss, metric=task.metric)
        effort.evaluations += 1
        effort.write()
        value = sign * scores.metric if options.score == "metric" else -scores.loss
        return value if math.isfinite(value) else -1e9

    return score


@contextmanager
def count_samples(model: nn.Module, effort: Effort) -> Iterator[None]:
    """Count what goes through the first layer, but for the tracing that counts FLOPs."""
    first = next(one for one in model.modules() if isinstance(one, nn.Conv2d | nn.Linear))

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not torch.jit.is_tracing():
            effort.search_samples += len(inputs[0])

    handle = first.register_forward_pre_hook(count)
    try:
        yield
    finally:
        handle.remove()
