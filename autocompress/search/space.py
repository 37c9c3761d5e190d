"""The densities that a search may choose, by name of group and layer; also as a TOML file."""

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from autocompress.errors import CouplingError, SettingError
from autocompress.graph.layers import Group, LayerGraph
from autocompress.masks.coded import FLOAT_BITS
from autocompress.settings import read_settings

Range = tuple[float, float]
WHOLE: Range = (1.0, 1.0)
ALLOWED_BITS = (*range(2, 9), FLOAT_BITS)


@dataclass(frozen=True, kw_only=True)
class SpaceSettings:
    """Which densities are allowed; a search-space file holds the same keys.

    A filter density is relative to the dense model's units of the group. A column density is
    the kept share of the columns which remain once the producers' filters are gone. A weight
    density is the kept share of the weights which remain in a layer's kept filters and columns.
    At least one filter, one column and one weight are always kept.

    Attributes:
        file: A search-space file that gives the values which are not set here.
        filter_density: Lowest and highest filter density of groups not in ``filters``.
        column_density: Lowest and highest column density of layers not in ``columns``.
        filters: Lowest and highest filter density by name of the group, or of any layer whose
            filters belong to it; two layers of one group cannot ask for different ones.
        columns: Lowest and highest column density by name of the layer.
        weight_density: Lowest and highest weight density of layers not in ``weights``; [1, 1]
            keeps all weights of kept filters and columns.
        weights: Lowest and highest weight density by name of the layer.
        bits: Bit widths that layers not in ``layer_bits`` may have, 2 to 8 or 32. Weights of a
            layer lie on the equal distances of its width, 2 bits are ternary; 32 is float32.
            Empty quantises nothing.
        layer_bits: The same by name of the layer; an empty list leaves the layer float32.
        filters_multiple_of: Kept filters are a multiple of this, or all.
        columns_multiple_of: Kept columns are a multiple of this, or all that remain.
        leave_alone: Layers whose filters, columns, weights and bits are not chosen; they lose
            only the inputs which their producers no longer give.
    """

    file: str = ""
    filter_density: Range = (0.0, 1.0)
    column_density: Range = (0.0, 1.0)
    filters: dict[str, Range] = field(default_factory=dict)
    columns: dict[str, Range] = field(default_factory=dict)
    weight_density: Range = WHOLE
    weights: dict[str, Range] = field(default_factory=dict)
    bits: tuple[int, ...] = ()
    layer_bits: dict[str, tuple[int, ...]] = field(default_factory=dict)
    filters_multiple_of: int = 1
    columns_multiple_of: int = 1
    leave_alone: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ranges = {"filter_density": self.filter_density, "column_density": self.column_density}
        ranges |= {"weight_density": self.weight_density}
        for kind in ("filters", "columns", "weights"):
            ranges |= {f"{kind}.{name}": one for name, one in getattr(self, kind).items()}
        for name, (low, high) in ranges.items():
            if not 0 <= low <= high <= 1 or high == 0:
                raise SettingError(
                    f"space.{name}: want [low, high] with 0 <= low <= high <= 1 and high above 0, "
                    f"got [{low}, {high}]"
                )
        for key in ("filters_multiple_of", "columns_multiple_of"):
            if getattr(self, key) < 1:
                raise SettingError(f"space.{key}: want 1 or more, got {getattr(self, key)}")
        widths = {"bits": self.bits}
        widths |= {f"layer_bits.{name}": one for name, one in self.layer_bits.items()}
        for name, some in widths.items():
            if not {*some} <= {*ALLOWED_BITS} or list(some) != sorted({*some}):
                raise SettingError(
                    f"space.{name}: want rising widths of 2 to 8, or 32 for float32, "
                    f"got {list(some)}"
                )


def resolve_space(settings: SpaceSettings) -> SpaceSettings:
    """Return ``settings`` with what its file says; values set here win.

    Raises:
        SettingError: The file is missing or wrong.
    """
    if not settings.file:
        return settings
    stored = read_space(Path(settings.file))
    default = SpaceSettings()
    chosen = {
        item.name: getattr(settings, item.name)
        for item in fields(settings)
        if getattr(settings, item.name) != getattr(default, item.name)
    }
    merged = replace(stored, **chosen)
    return replace(
        merged,
        file="",
        filters={**stored.filters, **settings.filters},
        columns={**stored.columns, **settings.columns},
        weights={**stored.weights, **settings.weights},
        layer_bits={**stored.layer_bits, **settings.layer_bits},
    )


def read_space(path: Path) -> SpaceSettings:
    """Return the settings of a search-space file.

    Raises:
        SettingError: The file is missing or wrong.
    """
    settings = read_settings(SpaceSettings, path)
    if settings.file:
        raise SettingError(f"{path}: a search-space file cannot name another one")
    return settings


def write_space(
    path: Path, graph: LayerGraph, settings: SpaceSettings | None = None, *, title: str = ""
) -> None:
    """Write a search-space file that lists every group and layer with a choice.

    Args:
        path: The file to write; its folder is made.
        graph: The dense model.
        settings: Where the ranges come from; the defaults when None.
        title: First line of the comment at the top.
    """
    settings = SpaceSettings() if settings is None else settings
    check_names(settings, graph)
    lines = [f"# {title}"] if title else []
    lines += [
        "# Allowed [lowest, highest] densities. filters: of the group's filters in the dense",
        "# model; columns: of the layer's columns left once its producers' filters are gone.",
        f"filters_multiple_of = {settings.filters_multiple_of}",
        f"columns_multiple_of = {settings.columns_multiple_of}",
        f"leave_alone = {json.dumps(list(settings.leave_alone))}",
        "",
        "[filters]",
        *_list_filters(settings, graph),
        "",
        "[columns]",
    ]
    for layer in graph.column_layers:
        low, high = column_range(settings, layer.name)
        lines.append(
            f"{json.dumps(layer.name)} = [{low}, {high}] # {layer.columns} columns, "
            f"{layer.weights} weights, {layer.weights * layer.positions} MACs"
        )
    lines += _list_fine(settings, graph)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _list_filters(settings: SpaceSettings, graph: LayerGraph) -> list[str]:
    lines = []
    for group in graph.groups:
        if group.prunable:
            low, high = filter_range(settings, group.name, group.producers)
            shared = ", ".join(group.producers)
            note = f"{group.size} filters of {shared}" if group.producers else f"{group.size}"
            lines.append(f"{json.dumps(group.name)} = [{low}, {high}] # {note}")
    return lines


def _list_fine(settings: SpaceSettings, graph: LayerGraph) -> list[str]:
    """Return the tables of weights and bits, each only when it leaves a choice."""
    free = [layer for layer in graph.layers if layer.name not in settings.leave_alone]
    lines = []
    ranges = {layer.name: weight_range(settings, layer.name) for layer in free}
    if any(one != WHOLE for one in ranges.values()):
        lines += ["", "# Of the weights left in kept filters and columns.", "[weights]"]
        for layer in free:
            low, high = ranges[layer.name]
            lines.append(
                f"{json.dumps(layer.name)} = [{low}, {high}] # {layer.weights} weights in all"
            )
    widths = {layer.name: list_bits(settings, layer.name) for layer in free}
    if any(one != (FLOAT_BITS,) for one in widths.values()):
        lines += ["", f"# Bit widths; {FLOAT_BITS} is float32.", "[layer_bits]"]
        lines += [f"{json.dumps(name)} = {list(some)}" for name, some in widths.items()]
    return lines


def filter_range(settings: SpaceSettings, name: str, producers: Iterable[str]) -> Range:
    """Return the densities allowed for a group whose filters ``producers`` make."""
    if set(producers) & set(settings.leave_alone):
        return WHOLE
    named = (settings.filters[one] for one in (name, *producers) if one in settings.filters)
    return next(named, settings.filter_density)


def column_range(settings: SpaceSettings, name: str) -> Range:
    """Return the densities allowed for the columns of a layer."""
    if name in settings.leave_alone:
        return WHOLE
    return settings.columns.get(name, settings.column_density)


def weight_range(settings: SpaceSettings, name: str) -> Range:
    """Return the densities allowed for the weights in a layer's kept filters and columns."""
    if name in settings.leave_alone:
        return WHOLE
    return settings.weights.get(name, settings.weight_density)


def list_bits(settings: SpaceSettings, name: str) -> tuple[int, ...]:
    """Return the bit widths allowed for a layer, rising; float32 alone where none is chosen."""
    if name in settings.leave_alone:
        return (FLOAT_BITS,)
    return settings.layer_bits.get(name, settings.bits) or (FLOAT_BITS,)


def check_names(settings: SpaceSettings, graph: LayerGraph) -> None:
    """Refuse names that ``graph`` does not have.

    Raises:
        CouplingError: Layers of one group ask for different densities.
        SettingError: A group or layer is unknown, or has no choice.
    """
    own = {group.name for group in graph.groups}
    groups: list[str] = []
    for group in graph.groups:
        if group.prunable:
            others = [name for name in group.producers if name not in own]
            check_coupling(settings, group, others)
            groups += [group.name, *others]
    layers = [layer.name for layer in graph.column_layers]
    _refuse("filters", settings.filters, groups)
    _refuse("columns", settings.columns, layers)
    every = list(graph.by_name)
    _refuse("leave_alone", dict.fromkeys(settings.leave_alone), every)
    chosen = [name for name in every if name not in settings.leave_alone]
    _refuse("weights", settings.weights, chosen)
    _refuse("layer_bits", settings.layer_bits, chosen)


def check_coupling(settings: SpaceSettings, group: Group, others: Iterable[str]) -> None:
    """Refuse different densities for layers whose filters are the same.

    Args:
        settings: Densities by name.
        group: Whose filters are chosen by one count.
        others: Names of its layers that are no group's name.

    Raises:
        CouplingError: They differ; it names the layers and the counts they ask for.
    """
    given = {
        name: settings.filters[name] for name in (group.name, *others) if name in settings.filters
    }
    for bound in (1, 0):
        asked = {name: round(one[bound] * group.size) for name, one in given.items()}
        if len(set(asked.values())) > 1:
            raise CouplingError(group.name, asked)


def _refuse(key: str, names: Mapping[str, object], known: list[str]) -> None:
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            raise SettingError(f"space.{key}: no {name!r} to choose in this model; {hint}")
