"""The list of methods."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from autocompress.methods.admm import Admm
from autocompress.methods.base import Method
from autocompress.methods.group_lasso import GroupLasso, GroupLassoSettings
from autocompress.methods.magnitude import Magnitude, MagnitudeSettings
from autocompress.methods.spp import Spp, SppSettings
from autocompress.methods.taylor import Taylor, TaylorSettings
from autocompress.settings import WHEN_SET
from autocompress.train.admm import AdmmSettings

MethodName = Literal["admm", "magnitude", "taylor", "group_lasso", "spp"]


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """Which method chooses what to keep.

    A table that is not given is None and stands for its defaults: settings of studies that were
    begun before a method was there stay equal.

    Attributes:
        name: A key of ``METHODS``.
        admm: Settings of the method of that name.
        magnitude: Likewise.
        taylor: Likewise.
        group_lasso: Likewise.
        spp: Likewise.
    """

    name: MethodName = "admm"
    admm: AdmmSettings = field(default_factory=AdmmSettings)
    magnitude: MagnitudeSettings | None = field(default=None, metadata=WHEN_SET)
    taylor: TaylorSettings | None = field(default=None, metadata=WHEN_SET)
    group_lasso: GroupLassoSettings | None = field(default=None, metadata=WHEN_SET)
    spp: SppSettings | None = field(default=None, metadata=WHEN_SET)


METHODS: dict[str, Callable[[MethodSettings], Method]] = {
    "admm": lambda settings: Admm(settings=settings.admm),
    "magnitude": lambda settings: Magnitude(settings=settings.magnitude or MagnitudeSettings()),
    "taylor": lambda settings: Taylor(settings=settings.taylor or TaylorSettings()),
    "group_lasso": lambda settings: GroupLasso(
        settings=settings.group_lasso or GroupLassoSettings()
    ),
    "spp": lambda settings: Spp(settings=settings.spp or SppSettings()),
}


def make_method(settings: MethodSettings) -> Method:
    """Return the method that ``settings`` name."""
    return METHODS[settings.name](settings)
