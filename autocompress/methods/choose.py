"""The list of methods."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from autocompress.methods.admm import Admm
from autocompress.methods.base import Method
from autocompress.methods.magnitude import Magnitude
from autocompress.train.admm import AdmmSettings


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """Which method chooses what to keep.

    Attributes:
        name: A key of ``METHODS``.
        admm: Settings of the method of that name.
    """

    name: Literal["admm", "magnitude"] = "admm"
    admm: AdmmSettings = field(default_factory=AdmmSettings)


METHODS: dict[str, Callable[[MethodSettings], Method]] = {
    "admm": lambda settings: Admm(settings=settings.admm),
    "magnitude": lambda settings: Magnitude(),
}


def make_method(settings: MethodSettings) -> Method:
    """Return the method that ``settings`` name."""
    return METHODS[settings.name](settings)
