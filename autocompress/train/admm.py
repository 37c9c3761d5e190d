"""The alternating direction method of multipliers for training under constraints.

min f(W) + g(Z) subject to W = Z, with scaled dual U. Source: Boyd et al., Distributed
Optimization and Statistical Learning via ADMM, sections 3.1-3.4; for pruning arXiv:1804.03294.
This module knows no pruning: a constraint is a projection of tensors.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from autocompress.errors import ArtifactError, SettingError
from autocompress.train.loop import Hooks, TrainSettings, scale_rate

# With fewer optimiser steps between updates W cannot follow Z, and the dual runs away.
FEWEST_STEPS = 10
_IN_A_ROW = 2

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
        stop_change: Two updates in a row with less support change per kept weight than this
            (1e-3 is usual) and less ||W - Z|| / ||W|| than ``stop_residual`` count as
            convergence, a figure of the state; 0 never does.
        stop_residual: See ``stop_change``; 1e-2 is usual.
    """

    form: Literal["proximal", "gradient"] = "proximal"
    rho_first: float = 100.0
    rho_last: float = 100.0
    updates: int = 20
    dual: bool = True
    stop_change: float = 0.0
    stop_residual: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.rho_first <= self.rho_last:
            raise SettingError(
                "method.rho_first: want a value above 0 and at most rho_last, got "
                f"{self.rho_first} and {self.rho_last}"
            )
        if self.updates < 1:
            raise SettingError(f"method.updates: want 1 or more, got {self.updates}")
        for key in ("stop_change", "stop_residual"):
            if not getattr(self, key) >= 0:
                raise SettingError(f"method.{key}: want 0 or more, got {getattr(self, key)}")


@dataclass(frozen=True)
class Gap:
    """How one parameter stood at one update.

    Attributes:
        primal: ||W - Z||.
        dual: rho ||Z - Zprev||.
        change: Places of Z that turned from zero to non-zero or back, per non-zero place.
    """

    primal: float
    dual: float
    change: float


@dataclass
class AdmmState:
    """W, Z and U of one run; W are the model's own parameters.

    Attributes:
        W: Parameters by name, trained in place.
        Z: Their projection, float32 on the parameters' device whatever their dtype.
        U: The scaled dual, float32 as well.
        rho: Penalty factor now.
        residuals: ||W - Z|| / ||W|| after each update, over all parameters.
        changes: Share of the places of Z that turned from zero to non-zero or back.
        turnovers: The same places per non-zero place of Z.
        gaps: The same figures by parameter, a list with one entry for each update.
        converged: Whether the settings' limits held twice in a row; training goes on all the
            same, since a step of a schedule is not cut short.
    """

    W: dict[str, nn.Parameter]
    Z: dict[str, Tensor]
    U: dict[str, Tensor]
    rho: float
    residuals: list[float] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    turnovers: list[float] = field(default_factory=list)
    gaps: dict[str, list[Gap]] = field(default_factory=dict)
    converged: bool = False
    _targets: list[Tensor] = field(default_factory=list, repr=False)

    def describe(self) -> dict[str, float]:
        """Return figures of the last update; none before the first."""
        if not self.residuals:
            return {}
        return {"admm_residual": self.residuals[-1], "admm_change": self.changes[-1]}

    def state_dict(self) -> dict[str, Any]:
        """Return all but W, which the model keeps: tensors and plain values."""
        return {
            "Z": dict(self.Z),
            "U": dict(self.U),
            "rho": self.rho,
            "residuals": list(self.residuals),
            "changes": list(self.changes),
            "turnovers": list(self.turnovers),
            "gaps": {name: [astuple(gap) for gap in gaps] for name, gaps in self.gaps.items()},
            "converged": self.converged,
        }

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Set all but W to what :meth:`state_dict` returned, on the devices of W.

        Raises:
            ArtifactError: The state is of other parameters.
        """
        shapes = {name: value.shape for name, value in self.W.items()}
        for key in ("Z", "U"):
            found = {name: value.shape for name, value in state[key].items()}
            if found != shapes:
                raise ArtifactError(f"checkpoint: want {key} of {shapes}, got {found}")
        self.Z = {name: _place(state["Z"][name], value) for name, value in self.W.items()}
        self.U = {name: _place(state["U"][name], value) for name, value in self.W.items()}
        self.rho, self.converged = state["rho"], state["converged"]
        self.residuals, self.changes = list(state["residuals"]), list(state["changes"])
        self.turnovers = list(state["turnovers"])
        self.gaps = {name: [Gap(*one) for one in gaps] for name, gaps in state["gaps"].items()}
        self._targets = []

    def find_targets(self) -> list[Tensor]:
        """Return Z - U in the order and memory layout of W; made once for each update."""
        held = self._targets
        if not held or any(
            one.stride() != value.stride()
            for one, value in zip(held, self.W.values(), strict=True)
        ):
            self._targets = [
                torch.empty_like(value, dtype=torch.float32).copy_(self.Z[name] - self.U[name])
                for name, value in self.W.items()
            ]
        return self._targets

    def set_projection(self, Z: dict[str, Tensor], U: dict[str, Tensor]) -> None:
        """Set Z and U."""
        self.Z, self.U, self._targets = Z, U, []


def start_admm(
    model: nn.Module, names: list[str], project: Projection, settings: AdmmSettings
) -> AdmmState:
    """Return Z = projection(W) and U = 0 for the parameters called ``names``."""
    parameters = dict(model.named_parameters())
    W = {name: parameters[name] for name in names}
    found = project({name: value.detach().float() for name, value in W.items()})
    Z = {name: _place(found[name], value) for name, value in W.items()}
    U = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in Z.items()}
    return AdmmState(W, Z, U, settings.rho_first)


@torch.no_grad()
def add_penalty_(state: AdmmState) -> None:
    """Add rho (W - Z + U), the gradient of rho/2 ||W - Z + U||^2, to the gradients of W."""
    gradients, values, targets = [], [], []
    for value, target in zip(state.W.values(), state.find_targets(), strict=True):
        if value.grad is not None:
            gradients.append(value.grad)
            values.append(value)
            targets.append(target)
    if gradients:
        wide = torch._foreach_sub(_widen(values), targets)
        pulls = [pull.to(one.dtype) for pull, one in zip(wide, gradients, strict=True)]
        torch._foreach_add_(gradients, pulls, alpha=state.rho)


@torch.no_grad()
def pull_(state: AdmmState, rate: float) -> None:
    """Set W <- (W + eta rho (Z - U)) / (1 + eta rho), the proximal step of the penalty."""
    values, targets = list(state.W.values()), state.find_targets()
    share = rate * state.rho / (1 + rate * state.rho)
    wide = _widen(values)
    torch._foreach_lerp_(wide, targets, share)
    for value, moved in zip(values, wide, strict=True):
        if moved is not value:
            value.copy_(moved)


@torch.no_grad()
def update_dual_(
    state: AdmmState, project: Projection, growth: float, *, dual: bool = True
) -> None:
    """Set V = W + U, Z = projection(V), U = V - Z (0 without ``dual``); rho <- rho * growth."""
    V = {name: value.detach().float() + state.U[name] for name, value in state.W.items()}
    found = project(V)
    Z = {name: _place(found[name], value) for name, value in state.W.items()}
    _measure_(state, Z)
    state.set_projection(Z, {name: V[name] - Z[name] for name in V} if dual else state.U)
    state.rho *= growth


def _measure_(state: AdmmState, Z: Mapping[str, Tensor]) -> None:
    """Append the figures of an update from ``state.Z`` to ``Z``."""
    W, before, after = list(state.W.values()), list(state.Z.values()), list(Z.values())
    rows = torch.stack(
        [
            *torch._foreach_norm(torch._foreach_sub(_widen(W), after)),
            *torch._foreach_norm(torch._foreach_sub(after, before)),
            *torch._foreach_norm(_widen(W)),
        ]
    ).double()
    counts = torch.stack(
        [((old != 0) != (new != 0)).sum() for old, new in zip(before, after, strict=True)]
        + [(new != 0).sum() for new in after]
    )
    primal, dual, norms = rows.reshape(3, -1).tolist()  # One wait for the device, not one each.
    changed, kept = counts.reshape(2, -1).tolist()
    for name, one, other, turned, left in zip(state.W, primal, dual, changed, kept, strict=True):
        gap = Gap(one, state.rho * other, turned / max(1, left))
        state.gaps.setdefault(name, []).append(gap)
    state.residuals.append(math.hypot(*primal) / max(math.hypot(*norms), 1e-12))
    state.changes.append(sum(changed) / max(1, sum(value.numel() for value in after)))
    state.turnovers.append(sum(changed) / max(1, sum(kept)))


def has_converged(state: AdmmState, settings: AdmmSettings) -> bool:
    """Return whether both limits of ``settings`` held at the last two updates."""
    return len(state.residuals) >= _IN_A_ROW and all(
        change < settings.stop_change and residual < settings.stop_residual
        for change, residual in zip(
            state.turnovers[-_IN_A_ROW:], state.residuals[-_IN_A_ROW:], strict=True
        )
    )


def _widen(values: Sequence[Tensor]) -> list[Tensor]:
    """Return ``values`` in float32; those that are stay the same objects."""
    return [value if value.dtype == torch.float32 else value.float() for value in values]


def _place(value: Tensor, parameter: Tensor) -> Tensor:
    return value.detach().to(device=parameter.device, dtype=torch.float32)


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
            state.converged = has_converged(state, settings)

    return Hooks(
        on_gradient=on_gradient,
        on_step=on_step,
        state_dict=state.state_dict,
        load_state_dict=state.load_state_dict,
    )


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
