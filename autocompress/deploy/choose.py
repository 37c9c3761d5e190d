"""The fastest form of each layer, by measurement on the machine that is to run it."""

import copy
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from autocompress.deploy.forms import (
    LAYER_TYPES,
    PLAIN,
    Layer,
    find_support,
    list_forms,
    list_makers,
)
from autocompress.deploy.measure import Timing, measure_models, name_processor
from autocompress.shrink.columns import ColumnConv2d, ColumnLinear
from autocompress.shrink.structure import replace_module_

logger = logging.getLogger(__name__)

GAIN = 1.03  # A form replaces the plain layer from this speed-up on; less is noise.
CLOSE = 3  # Forms that are measured again, so many times as often: the best are often close.
AGAIN = 2
AGAIN_SHORT = 9  # For calls below SHORT_S, whose medians are noisier.
SHORT_S = 1e-3
CACHE_FORMAT = "autocompress forms 1"


class Measure(Protocol):
    """What :func:`measure_models` does."""

    def __call__(
        self, models: Mapping[str, nn.Module], inputs: Tensor, *, turns: int
    ) -> dict[str, Timing]:
        """Return the times of one forward pass of each model."""


@dataclass(frozen=True, kw_only=True)
class FormChoice:
    """The form that was chosen for a layer.

    Attributes:
        name: One of :func:`list_forms`.
        module: Computes what the layer does.
        timings: Of all forms, the best few as measured together last; empty where the choice was
            remembered.
    """

    name: str
    module: nn.Module
    timings: dict[str, Timing]


@dataclass(frozen=True, kw_only=True)
class FormKey:
    """All that the fastest form of a layer depends on.

    Attributes:
        device: Type and name.
        torch: Version of PyTorch.
        threads: Inside an operation.
        inputs: Data type, shape and strides of what the layer is called with.
        layer: Class, sizes and settings of the layer.
        support: For column layers, how many columns are kept, and which channels and places
            of the kernel are read at all; not which columns exactly.
    """

    device: str
    torch: str
    threads: int
    inputs: str
    layer: str
    support: str

    @classmethod
    def of(cls, layer: Layer, inputs: Tensor) -> "FormKey":
        """Return the key of ``layer`` when it is called with ``inputs``."""
        shape, strides = tuple(inputs.shape), inputs.stride()
        return cls(
            device=_name_device(inputs.device),
            torch=torch.__version__,
            threads=torch.get_num_threads(),
            inputs=f"{inputs.dtype} {shape} {strides}",
            layer=_describe_layer(layer),
            support=_describe_support(layer),
        )

    @property
    def digest(self) -> str:
        """Return a short name of the key, the same in every process."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(kw_only=True)
class FormCache:
    """Choices that were measured before, in memory and in a file.

    A file that cannot be read or is not ours is left out with a warning, and written anew.

    Attributes:
        path: JSON file; None keeps the choices in memory only.
        names: Name of the chosen form by :attr:`FormKey.digest`.
    """

    path: Path | None = None
    names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read the file, when there is one."""
        if self.path is not None and self.path.exists():
            self.names = _read_names(self.path) | self.names

    def find(self, key: FormKey) -> str | None:
        """Return the form that was chosen for ``key``, if any was."""
        return self.names.get(key.digest)

    def add(self, key: FormKey, name: str) -> None:
        """Remember a choice; the file is replaced as a whole, so no reader sees half of it."""
        self.names[key.digest] = name
        if self.path is None:
            return
        names = _read_names(self.path) if self.path.exists() else {}
        self.names = names | self.names  # Other processes may have added theirs.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        text = json.dumps({"format": CACHE_FORMAT, "names": self.names}, sort_keys=True)
        part.write_text(text, encoding="utf-8")
        part.replace(self.path)


def choose_form(
    layer: Layer,
    inputs: Tensor,
    *,
    cache: FormCache | None = None,
    turns: int = 7,
    measure: Measure = measure_models,
) -> FormChoice:
    """Return the form of ``layer`` that runs ``inputs`` fastest.

    Args:
        layer: On the device of ``inputs``.
        inputs: One batch of what the layer is called with.
        cache: Asked first, and told what was measured.
        turns: Measured passes of each form; the best few take several times as many after that.
        measure: Measures the forms together.
    """
    key = FormKey.of(layer, inputs)
    known = cache.find(key) if cache is not None else None
    if known is not None:
        makers = list_makers(layer, inputs)
        if known in makers:
            return FormChoice(name=known, module=makers[known](), timings={})
    forms = list_forms(layer, inputs)
    if len(forms) == 1:
        return FormChoice(name=PLAIN, module=layer, timings={})
    timings = measure(forms, inputs, turns=turns)
    ranked = sorted(forms, key=lambda name: timings[name].median_s)
    close = {name: forms[name] for name in {PLAIN: 0, **dict.fromkeys(ranked[:CLOSE])}}
    more = AGAIN_SHORT if timings[PLAIN].median_s < SHORT_S else AGAIN
    timings |= (last := measure(close, inputs, turns=more * turns))
    name = pick_fastest(last)
    if cache is not None:
        cache.add(key, name)
    return FormChoice(name=name, module=forms[name], timings=timings)


def pick_fastest(timings: Mapping[str, Timing]) -> str:
    """Return the name of the lowest median; ``plain`` unless that is clearly lower."""
    name = min(timings, key=lambda name: timings[name].median_s)
    return name if timings[name].median_s * GAIN <= timings[PLAIN].median_s else PLAIN


def choose_forms(
    model: nn.Module,
    example: Tensor,
    *,
    cache: FormCache | None = None,
    measure: Measure = measure_models,
) -> tuple[nn.Module, dict[str, str]]:
    """Return a copy of ``model`` with each layer in its fastest form, for evaluation only.

    Each layer is measured on what it is called with when the model runs on ``example``, at its
    first call. Layers that are not called, or have hooks or a class of their own, stay.

    Args:
        model: Not changed; its copy is in evaluation mode.
        example: One batch, on the device of the model; its size and layout are measured.
        cache: Asked first, and told what was measured.
        measure: Measures the forms of a layer together.

    Returns:
        The copy, and the form of every layer that was called, by name.
    """
    made = copy.deepcopy(model).eval()
    names = {module: name for name, module in made.named_modules() if _is_layer(module)}
    choices: dict[nn.Module, FormChoice] = {}
    handles: dict[object, Any] = {}
    running: set[nn.Module] = set()

    def choose(layer: nn.Module, args: tuple[Any, ...]) -> None:
        handles[layer].remove()  # The layer is called again by its own measurement.
        if isinstance(layer, LAYER_TYPES) and args and isinstance(args[0], Tensor):
            choices[layer] = choose_form(layer, args[0], cache=cache, measure=measure)

    def follow(layer: nn.Module, args: tuple[Any, ...], _: object) -> object:
        # What comes after is called with what the chosen form gives, its layout above all.
        choice = choices.get(layer)
        if choice is None or layer in running:  # A form may call its layer.
            return None
        running.add(layer)
        output: object = choice.module(*args)
        running.remove(layer)
        return output

    for layer in names:
        handles[layer] = layer.register_forward_pre_hook(choose)
        handles[layer, follow] = layer.register_forward_hook(follow)
    try:
        with torch.no_grad():
            made(example)
    finally:
        for handle in handles.values():
            handle.remove()
    for layer, choice in choices.items():
        replace_module_(made, layer, choice.module)
        logger.debug("%s runs as %s", names[layer], choice.name)
    if type(made) in LAYER_TYPES and made in choices:
        made = choices[made].module
    return made.eval(), {names[layer]: choice.name for layer, choice in choices.items()}


def _is_layer(module: nn.Module) -> bool:
    """Return whether ``module`` does nothing but what its class says."""
    has_hooks = bool(module._forward_hooks or module._forward_pre_hooks)
    return type(module) in LAYER_TYPES and not has_hooks


def _name_device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"{device.type} {name_processor()} {torch.backends.cpu.get_cpu_capability()}"


def _describe_layer(layer: Layer) -> str:
    if isinstance(layer, ColumnConv2d):
        settings = (layer.kernel, layer.stride, layer.dilation, layer.pad, layer.padding_mode)
        sizes = f"{layer.channels} {settings}"
    elif isinstance(layer, nn.Conv2d):
        sizes = f"{layer.groups} {layer.stride} {layer.dilation} {layer.padding}"
        sizes += f" {layer.padding_mode}"
    else:
        sizes = ""
    weight = f"{layer.weight.dtype} {tuple(layer.weight.shape)} {layer.weight.stride()}"
    return f"{type(layer).__name__} {weight} bias={layer.bias is not None} {sizes}"


def _describe_support(layer: Layer) -> str:
    if isinstance(layer, ColumnLinear):
        return f"{len(layer.columns)} of {layer.features}"
    if not isinstance(layer, ColumnConv2d) or not len(layer.columns):
        return ""
    channels, box = find_support(layer)
    return f"{len(layer.columns)}, {len(channels)} channels, {box}, {layer.whole_channels}"


def _read_names(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = content["names"] if content["format"] == CACHE_FORMAT else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s: not read as measured forms: %s", path, error)
        return {}
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        logger.warning("%s: not a file of measured forms", path)
        return {}
    return names
