"""Run one phase of a progressive pipeline on a model."""

from autocompress.methods.held import Held
from autocompress.methods.lower import prune_phase_
from autocompress.methods.settle import freeze_phase_, quantize_phase_
from autocompress.methods.steps import FreezePhase, Phase, PruneStep, QuantizeStep
from autocompress.methods.swap import swap_phase_
from autocompress.methods.work import Work


def run_phase_(phase: Phase, work: Work) -> tuple[Held, dict[str, float]]:
    """Run ``phase`` on the model of ``work``, in place.

    Returns:
        What is held from here on, already applied to the model; and figures of the phase.

    Raises:
        EvaluationError: Training diverged.
        SettingError: The phase does not fit the model.
    """
    if isinstance(phase, PruneStep):
        return prune_phase_(phase, work)
    if isinstance(phase, QuantizeStep):
        return quantize_phase_(phase, work)
    if isinstance(phase, FreezePhase):
        return freeze_phase_(phase, work)
    if phase.swap:
        return swap_phase_(phase, work)
    work.train_(phase.train)
    return work.held, {}
