"""Structured ADMM pruning: training that drives the weights into the chosen counts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from autocompress.masks.mask import Masks, apply_masks_, parameter_masks, weight_mask
from autocompress.masks.project import project_masks
from autocompress.methods.base import Found, Request
from autocompress.train.admm import AdmmSettings, make_hooks, start_admm, without_dropout
from autocompress.train.effort import TRAINING
from autocompress.train.loop import count_steps, train_model_


@dataclass(frozen=True, kw_only=True)
class Admm:
    """Keep what ADMM converges to (AutoCompress, arXiv:1907.03141, section 3).

    Attributes:
        settings: Penalty and updates.
    """

    settings: AdmmSettings = field(default_factory=AdmmSettings)

    def find_masks(self, request: Request) -> Found:
        """Return the projection of the weights after training by ADMM under joint counts."""
        graph, candidate, within = request.graph, request.candidate, request.within
        names = [f"{layer.name}.weight" for layer in graph.layers]

        def choose(tensors: Mapping[str, Tensor]) -> Masks:
            energies = {
                layer.name: tensors[f"{layer.name}.weight"].flatten(1).square().cpu()
                for layer in graph.layers
            }
            return project_masks(graph, energies, candidate, within=within)

        def project(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            masks = choose(tensors)
            return {
                f"{layer.name}.weight": tensors[f"{layer.name}.weight"]
                * weight_mask(masks, layer)
                .reshape(tensors[f"{layer.name}.weight"].shape)
                .to(tensors[f"{layer.name}.weight"])
                for layer in graph.layers
            }

        held = parameter_masks(graph, within, request.model)
        state = start_admm(request.model, names, project, self.settings)

        steps = count_steps(request.source, request.train)
        hooks = make_hooks(state, project, self.settings, train=request.train, steps=steps)

        def on_step(step: int) -> None:
            hooks.on_step(step)
            apply_masks_(request.model, held)

        with without_dropout(request.model):
            train_model_(
                request.model,
                request.source,
                request.train,
                loss=request.loss,
                seed=request.seed,
                hooks=replace(hooks, on_step=on_step),
                keeper=request.keeper,
            )
        masks = choose({name: value.detach() for name, value in state.W.items()})
        return Found(masks=masks, figures=state.describe())

    def count_samples(self, steps: int, batch_size: int) -> int:
        """Return three passes for each sample of each step."""
        return TRAINING * steps * batch_size
