"""How commands show the weights of a finished model."""

import math
from collections.abc import Sequence
from itertools import pairwise

from autocompress.cli.screen import open_console, print_pairs, print_table
from autocompress.evaluate.weights import LayerFigures, WeightFigures

_ROUNDING = 1e-5  # Of levels in float32 that are products of a step.


def list_totals(figures: WeightFigures) -> dict[str, str]:
    """Return what there is to say of all weights together, by name."""
    values = figures.value_bytes
    pairs = {
        "weights kept": _compare(figures.kept, figures.dense),
        "  with biases": _compare(figures.kept_with_others, figures.dense + figures.dense_others),
    }
    if figures.dead is None:
        pairs["  on dead paths"] = "unknown, the layers of this model cannot be traced"
    elif figures.dead:
        pairs["  on dead paths"] = f"{figures.dead:,}, on no path from input to output"
    tables = f", {values + figures.table_bytes:,.0f} with tables of levels"
    pairs["entropy-coded"] = f"{values:,.0f} bytes of values{tables * (figures.table_bytes > 0)}"
    whole = figures.coded_bytes + figures.other_bytes
    pairs["  with positions"] = f"{figures.coded_bytes:,.0f} bytes, {whole:,.0f} with biases"
    return pairs


def print_layers(figures: WeightFigures) -> None:
    """Print a table of the layers; the densities are shares of the dense layers."""
    levels = [describe_levels(layer.levels) for layer in figures.layers]
    head = ("layer", "weights", "kept", "density", "values", "bits", "levels")
    rows = [
        (
            layer.name,
            f"{layer.dense:,}",
            f"{layer.kept:,}",
            _show_share(layer),
            f"{layer.distinct:,}",
            f"{layer.bits_per_weight:.3g}",
            text,
        )
        for layer, text in zip(figures.layers, levels, strict=True)
    ]
    width = len(head) if any(levels) else len(head) - 1
    open_console().print()
    print_table("", head[:width], [row[:width] for row in rows])


def print_weights(figures: WeightFigures) -> None:
    """Print the totals and a table of the layers."""
    print_pairs(list_totals(figures))
    print_layers(figures)


def describe_levels(levels: Sequence[float]) -> str:
    """Return the rule of a layer's levels, such as ``±0.01 x 1..7``; empty without one.

    Args:
        levels: Distinct values other than 0, rising.
    """
    if not levels:
        return ""
    sizes = sorted({abs(level) for level in levels})
    sign = "±" if levels[0] < 0 < levels[-1] else "-" if levels[0] < 0 else ""
    if len(sizes) == 1:
        return f"{sign}{sizes[0]:.4g}"
    last = round(math.log2(sizes[-1] / sizes[0]))
    if len(sizes) > 2 and all(_is_whole(math.log2(size / sizes[0])) for size in sizes):
        return f"{sign}{sizes[0]:.4g} x 2^0..{last}"
    for step in (sizes[0], min(high - low for low, high in pairwise(sizes))):
        if all(_is_whole(size / step) for size in sizes):
            first, last = round(sizes[0] / step), round(sizes[-1] / step)
            return f"{sign}{step:.4g} x {first}..{last}"
    return ""


def _is_whole(number: float) -> bool:
    return abs(number - round(number)) < _ROUNDING * max(1.0, number)


def _compare(kept: int, dense: int) -> str:
    rate = f" ({_round(dense / kept)}x)" if 0 < kept < dense else ""
    return f"{kept:,} of {dense:,}{rate}"


def _round(rate: float) -> str:
    """Return three digits at least: 8.05, 71.2, 246."""
    return f"{rate:.3g}" if rate < 100 else f"{rate:,.0f}"


def _show_share(layer: LayerFigures) -> str:
    return f"{layer.density:.2%}" if layer.density >= 0.0001 else f"{layer.density:.1g}"
