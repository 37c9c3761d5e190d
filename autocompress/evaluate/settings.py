"""How candidates are evaluated: fast, at the end of a round, and in full."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from autocompress.errors import SettingError
from autocompress.jobs import Stage, hash_json
from autocompress.masks.purify import PurifySettings
from autocompress.methods.choose import MethodSettings
from autocompress.settings import WHEN_SET, settings_to_json
from autocompress.train.admm import AdmmSettings
from autocompress.train.loop import TrainSettings


@dataclass(frozen=True, kw_only=True)
class QuantizeSettings:
    """How weights come to the levels of a candidate's bit widths; for candidates with any.

    Attributes:
        train: ADMM towards the levels, removed weights held at zero.
        settle: Retraining of what is not quantised, weights held at their levels.
        admm: Penalty and updates.
    """

    train: TrainSettings = field(default_factory=lambda: TrainSettings(epochs=3))
    settle: TrainSettings = field(default_factory=lambda: TrainSettings(epochs=1))
    admm: AdmmSettings = field(default_factory=AdmmSettings)


@dataclass(frozen=True, kw_only=True)
class FastSettings:
    """The ladder of cheap evaluations.

    Attributes:
        fidelity: ``one_shot`` keeps the largest weights, takes the nearest levels and
            re-estimates batch norms; ``admm`` runs ``prune`` with the method, ``retrain``, and
            for candidates with bit widths ``quantize``.
        prune: Epochs of the method; may be a fraction.
        retrain: Masked retraining before the score.
        quantize: The way to the levels of bit widths.
        norm_batches: Training batches for the re-estimation of batch norms.
        capacity: By how much the energy falls per e-fold of kept weights, in units of the loss;
            None for the loss alone. So short a training asks what survives of the dense model;
            of two candidates that lose alike, the one with more weights ends better. For
            budgets that leave weights free, such as MACs or latency.
    """

    fidelity: Literal["one_shot", "admm"] = "admm"
    prune: TrainSettings = field(default_factory=lambda: TrainSettings(epochs=0.25))
    retrain: TrainSettings = field(default_factory=lambda: TrainSettings(epochs=0.25))
    quantize: QuantizeSettings = field(
        default_factory=lambda: QuantizeSettings(
            train=TrainSettings(epochs=0.25), settle=TrainSettings(epochs=0.1)
        )
    )
    norm_batches: int = 10
    capacity: float | None = field(default=None, metadata=WHEN_SET)

    def __post_init__(self) -> None:
        if self.capacity is not None and not 0 <= self.capacity < math.inf:
            raise SettingError(f"fast.capacity: want 0 or more, got {self.capacity}")


@dataclass(frozen=True, kw_only=True)
class DistillSettings:
    """Distillation from the dense model while pruned models are retrained.

    Attributes:
        share: Weight of the teacher in the loss, 0..1; 0 switches it off.
        temperature: Of both softmaxes, above 0, with cross entropy; with another loss the
            teacher's outputs are followed by their mean squared error.
    """

    share: float = 0.5
    temperature: float = 4.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise SettingError(f"distill.share: want 0..1, got {self.share}")
        if not self.temperature > 0:
            raise SettingError(
                f"distill.temperature: want a value above 0, got {self.temperature}"
            )


@dataclass(frozen=True, kw_only=True)
class PruneSettings:
    """One actual pruning: the method, then masked retraining.

    Nothing is quantised between rounds: the next round chooses bit widths anew.

    Attributes:
        prune: Epochs of the method.
        retrain: Masked retraining.
    """

    prune: TrainSettings = field(default_factory=lambda: TrainSettings(epochs=3))
    retrain: TrainSettings = field(default_factory=lambda: TrainSettings(epochs=5))


@dataclass(frozen=True, kw_only=True)
class FullSettings:
    """A full evaluation: pruning, purification, compaction, final retraining, one test.

    Attributes:
        prune: Epochs of the method.
        retrain: Masked retraining.
        purify: Purification; ``evaluations = 0`` removes dead paths only.
        final: Retraining after purification.
        quantize: The way to the levels of bit widths, after all that.
    """

    prune: TrainSettings = field(default_factory=lambda: TrainSettings(epochs=3))
    retrain: TrainSettings = field(default_factory=lambda: TrainSettings(epochs=5))
    purify: PurifySettings = field(default_factory=PurifySettings)
    final: TrainSettings = field(default_factory=lambda: TrainSettings(epochs=5))
    quantize: QuantizeSettings = field(default_factory=QuantizeSettings)


@dataclass(frozen=True, kw_only=True)
class LatencySettings:
    """How latency is measured, by workers on their own device.

    Attributes:
        batch: Samples of one pass.
        threads: PyTorch threads inside an operation; 0 leaves them as they are.
        turns: Passes of each layer and model, in turns with others; the median counts.
        align: Widths are measured in multiples of this. Where widths between take as long as the
            next multiple, which is measured too, they are executed so, filled up with zeros.
        measure: ``finished`` measures models at the end of rounds and finished ones, and predicts
            the latency of candidates from a table; ``all`` also builds and measures every
            candidate, which makes its evaluation longer. Limits follow the prediction.
    """

    batch: int = 1
    threads: int = 1
    turns: int = 11
    align: int = 8
    measure: Literal["finished", "all"] = "finished"

    def __post_init__(self) -> None:
        for key, least in {"batch": 1, "threads": 0, "turns": 1, "align": 1}.items():
            if getattr(self, key) < least:
                raise SettingError(
                    f"latency.{key}: want {least} or more, got {getattr(self, key)}"
                )

    def measures(self, stage: Stage) -> bool:
        """Return whether evaluations of a stage measure."""
        return stage != "fast" or self.measure == "all"


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Everything about evaluating candidates.

    Attributes:
        method: How masks are chosen.
        fast: The cheap estimate that the search asks for.
        round: The pruning at the end of each progressive round.
        full: What makes a finished model.
        distill: The teacher's part in retraining at the end of rounds and in full.
        shrunk: Retrain with filters physically removed (true) or masked in the larger model
            (false): set it to what is faster on the machine, see ``experiments/speed``.
        latency: How latency is measured; of no effect, and taken for None, unless it is among
            the limits of the budget, what that minimises, or the objectives.
    """

    method: MethodSettings = field(default_factory=MethodSettings)
    fast: FastSettings = field(default_factory=FastSettings)
    round: PruneSettings = field(default_factory=PruneSettings)
    full: FullSettings = field(default_factory=FullSettings)
    distill: DistillSettings = field(default_factory=DistillSettings)
    shrunk: bool = True
    latency: LatencySettings | None = field(default=None, metadata=WHEN_SET)

    def for_stage(self, stage: Stage) -> "EvaluateSettings":
        """Return what the result of a stage follows from: no latency where none is measured."""
        latency = self.latency
        if latency is None or not latency.measures(stage):
            return replace(self, latency=None)
        # Models are measured either way.
        measure = latency.measure if stage == "fast" else "finished"
        return replace(self, latency=replace(latency, measure=measure))

    def hash_for(self, stage: Stage, dense_key: str) -> str:
        """Return the hash that keys of results follow from: of task and evaluation.

        Args:
            stage: Of the evaluation.
            dense_key: Key of the dense model, which the task stands in.
        """
        return hash_json({"dense": dense_key, "evaluate": settings_to_json(self.for_stage(stage))})
