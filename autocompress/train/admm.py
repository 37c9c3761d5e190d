"""The alternating direction method of multipliers for training under constraints.

min f(W) + g(Z) subject to W = Z, with scaled dual U. Source: Boyd et al., Distributed
Optimization and Statistical Learning via ADMM, sections 3.1-3.4; for pruning arXiv:1804.03294.
This module knows no pruning: a constraint is a projection of tensors.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from autocompress.errors import SettingError
from autocompress.train.loop import Hooks, TrainSettings, scale_rate

# With fewer optimiser steps between updates W cannot follow Z, and the dual runs away.
FEWEST_STEPS = 10

Projection = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class AdmmSettings:
    """The penalty and how often Z and U are updated.

    Attributes:
        form: ``proximal`` takes the penalty's step apart from the optimiser's,
            ``W <- (W + eta rho (Z - U)) / (1 + eta rho)`` with the learning rate eta, so that
            Adam does not divide it by the gradients' size; ``gradient`` adds
            ``rho (W - Z + U)`` to the gradient.
        rho_first: Penalty factor before the first update, above 0.
        rho_last: Penalty factor after the last update, ``rho_first`` or more; it grows
            geometrically, so that the number of updates does not change where it ends.
        updates: Updates of Z and U over the whole training, 1 or more; fewer when that leaves
            less than 10 optimiser steps between two.
        dual: Whether U accumulates; without it this is a quadratic penalty method. A dual that
            grows faster than a short training can follow makes the kept filters swap: start
            with a strong penalty (experiments/LOG.md).
    """

    form: Literal["proximal", "gradient"] = "proximal"
    rho_first: float = 100.0
    rho_last: float = 100.0
    updates: int = 20
    dual: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.rho_first <= self.rho_last:
            raise SettingError(
                "method.rho_first: want a value above 0 and at most rho_last, got "
                f"{self.rho_first} and {self.rho_last}"
            )
        if self.updates < 1:
            raise SettingError(f"method.updates: want 1 or more, got {self.updates}")


@dataclass
class AdmmState:
    """W, Z and U of one run; W are the model's own parameters.

    Attributes:
        W: Parameters by name, trained in place.
        Z: Their projection.
        U: The scaled dual.
        rho: Penalty factor now.
        residuals: ||W - Z|| / ||W|| after each update, over all parameters.
        changes: Share of the places of Z that turned from zero to non-zero or back.
    """

    W: dict[str, nn.Parameter]
    Z: dict[str, Tensor]
    U: dict[str, Tensor]
    rho: float
    residuals: list[float] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)


def start_admm(
    model: nn.Module, names: list[str], project: Projection, settings: AdmmSettings
) -> AdmmState:
    """Return Z = projection(W) and U = 0 for the parameters called ``names``."""
    parameters = dict(model.named_parameters())
    W = {name: parameters[name] for name in names}
    Z = project({name: value.detach() for name, value in W.items()})
    U = {name: torch.zeros_like(value) for name, value in W.items()}
    return AdmmState(W, Z, U, settings.rho_first)


@torch.no_grad()
def add_penalty_(state: AdmmState) -> None:
    """Add rho (W - Z + U), the gradient of rho/2 ||W - Z + U||^2, to the gradients of W."""
    for name, value in state.W.items():
        if value.grad is not None:
            value.grad.add_(value - state.Z[name] + state.U[name], alpha=state.rho)


@torch.no_grad()
def pull_(state: AdmmState, rate: float) -> None:
    """Set W <- (W + eta rho (Z - U)) / (1 + eta rho), the proximal step of the penalty."""
    pull = rate * state.rho
    for name, value in state.W.items():
        value.lerp_(state.Z[name] - state.U[name], pull / (1 + pull))


@torch.no_grad()
def update_dual_(
    state: AdmmState, project: Projection, growth: float, *, dual: bool = True
) -> None:
    """Set V = W + U, Z = projection(V), U = V - Z (0 without ``dual``); rho <- rho * growth."""
    V = {name: value.detach() + state.U[name] for name, value in state.W.items()}
    Z = project(V)
    changed = sum(int(((Z[name] != 0) != (state.Z[name] != 0)).sum()) for name in Z)
    gap = sum(float((state.W[name] - Z[name]).square().sum()) for name in Z) ** 0.5
    norm = sum(float(value.square().sum()) for value in state.W.values()) ** 0.5
    state.residuals.append(gap / max(norm, 1e-12))
    state.changes.append(changed / max(1, sum(value.numel() for value in Z.values())))
    state.Z = Z
    if dual:
        state.U = {name: V[name] - Z[name] for name in V}
    state.rho *= growth


def make_hooks(
    state: AdmmState,
    project: Projection,
    settings: AdmmSettings,
    *,
    train: TrainSettings,
    steps: int,
) -> Hooks:
    """Return hooks that drive W towards its projection while ``steps`` steps are trained.

    W itself is not projected at the end.

    Args:
        state: From :func:`start_admm`; its residuals grow by one at each update.
        project: Exact Euclidean projection of the tensors by name.
        settings: Penalty and number of updates.
        train: Learning rate and schedule of the training.
        steps: Optimiser steps of the training.
    """
    updates = max(1, min(settings.updates, steps // FEWEST_STEPS))
    growth = (settings.rho_last / settings.rho_first) ** (1 / max(1, updates - 1))
    due = {round((k + 1) * steps / updates) - 1 for k in range(updates)}

    def on_gradient(_step: int) -> None:
        if settings.form == "gradient":
            add_penalty_(state)

    def on_step(step: int) -> None:
        if settings.form == "proximal":
            rate = train.learning_rate * scale_rate(train.schedule, step, steps)
            pull_(state, rate)
        if step in due:
            update_dual_(state, project, growth, dual=settings.dual)

    return Hooks(on_gradient=on_gradient, on_step=on_step)


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Switch dropout off inside a block."""
    shares = {m: m.p for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)}
    for module in shares:
        module.p = 0.0
    try:
        yield
    finally:
        for module, share in shares.items():
            module.p = share
