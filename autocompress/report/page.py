"""One self-contained HTML report of a study: figures inline, nothing loaded from elsewhere."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from autocompress.report.frames import Direction, find_best, find_finished, list_figures
from autocompress.report.plots import (
    draw_annealing,
    draw_densities,
    draw_front,
    draw_slopes,
    short_count,
)
from autocompress.report.seeds import draw_band, draw_fronts
from autocompress.report.sensitivity import measure_sensitivity

Figures = Mapping[str, float]

PNG_DPI = 200
MOST_MODELS = 4  # Whose layers are drawn.
MOST_LINES = 8  # Densities in the table beside their figure.
SENSITIVITY_HEAD = ("density", "by halving", "correlation", "seen")
METRICS = ("test_metric", "val_metric")
COMPARED = ("study", "test metric", "validation metric", "weights", "MACs")
STYLE = """
:root{--ink:#28323f;--soft:#667080;--line:#e2e6eb;--back:#f5f6f8;--mark:#2f8f5b}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);
 font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:24px 16px 48px}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:0 0 10px}
p{margin:.4em 0}.soft{color:var(--soft);font-size:.92rem}
section{background:#fff;border:1px solid var(--line);border-radius:10px;padding:18px;
 margin-top:18px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:12px;
 margin-top:18px}
.tile{background:#fff;border:1px solid var(--line);border-radius:10px;padding:12px 14px}
.tile b{display:block;font-size:1.35rem}
.pair{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,420px),1fr));gap:18px}
figure{margin:0}img{width:100%;height:auto;display:block}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{padding:7px 10px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:600}th:first-child,td:first-child{text-align:left}
tr.dense td{background:#fafbfc}td small{color:var(--soft)}
pre{background:#f5f6f8;border:1px solid var(--line);border-radius:8px;padding:12px;overflow-x:auto;
 font-size:.86rem;margin:8px 0}
"""


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a report shows.

    Attributes:
        name: Name of the study.
        frame: Its trials, from ``trials_frame``.
        direction: In which direction the task's metric is better.
        metric: Name of the metric.
        dense: Figures of the dense model by column name; empty when unknown.
        folders: Where the finished model of a trial lies, by trial number.
        data_options: How ``autocompress evaluate`` finds the data, with a space before.
        others: Trials of other studies to compare it with, such as of other seeds, by name.
    """

    name: str
    frame: pd.DataFrame
    direction: Direction
    metric: str
    dense: Figures
    folders: Mapping[int, str]
    data_options: str = ""
    others: Mapping[str, pd.DataFrame] = field(default_factory=dict)


def write_page(path: Path, content: Content) -> None:
    """Write the report of ``content`` to the file ``path``, replacing it at once."""
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(make_page(content), encoding="utf-8")
    draft.replace(path)


def make_page(content: Content) -> str:
    """Return the report of ``content`` as HTML."""
    frame = content.frame
    finished = list_figures(find_finished(frame, content.direction))
    title = escape(content.name)
    parts = [
        f"<header><h1>{title}</h1>{_summarise(content, finished)}</header>",
        _make_section("Finished models", _tabulate(content, finished) + _explain_loading(content)),
        _make_section("Search", _draw_pair(content)),
        _make_section("What the layers keep", _draw_layers(finished, frame, content.direction)),
        _make_section("Which layers matter", _draw_sensitivity(frame)),
    ]
    if content.others:
        parts.insert(2, _make_section(f"{len(content.others) + 1} studies", _compare(content)))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title} · autocompress</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _summarise(content: Content, finished: Sequence[Figures]) -> str:
    frame = content.frame
    fast = frame[(frame["stage"] == "fast") & (frame["state"] == "complete")]
    moves = fast[fast["temperature"].notna()]["accepted"].fillna(value=False)
    tiles = [
        (f"{len(fast):,}", "candidates evaluated"),
        (f"{int(fast['round'].max()) + 1}" if len(fast) else "0", "rounds"),
        (f"{moves.mean():.0%}" if len(moves) else "-", "annealing moves accepted"),
        (f"{len(finished):,}", "finished models"),
    ]
    if finished:
        row = finished[0]
        tiles.append(
            (format_metric(row["test_metric"]), f"test {content.metric}, best on validation")
        )
        if "weights" in content.dense and row["weights"] > 0:
            fewer = content.dense["weights"] / row["weights"]
            tiles.append((f"{fewer:.3g}x", "fewer weights, physically"))
    boxes = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span class="soft">{escape(label)}</span></div>'
        for value, label in tiles
    )
    return f'<div class="tiles">{boxes}</div>'


def _tabulate(content: Content, finished: Sequence[Figures]) -> str:
    if not finished:
        return '<p class="soft">None yet: run <code>autocompress finalize</code>.</p>'
    head = (
        "model", f"test {content.metric}", f"validation {content.metric}",
        "weights", "of dense", "not zero", "MACs", "of dense", "bytes", "coded", "speed",
    )  # fmt: skip
    rows = [_make_row("tr", [f"<th>{escape(text)}</th>" for text in head])]
    if content.dense:
        rows.append(_make_row('tr class="dense"', _list_dense(content.dense)))
    rows += [_make_row("tr", _list_model(row, content.dense)) for row in finished]
    return (
        f'<div class="scroll"><table>{"".join(rows)}</table></div>'
        '<p class="soft">Weights, MACs and bytes are those of the smaller model that was saved, '
        "MACs as measured on it. ± is one standard error of the test figure. Speed is the dense "
        "model's time over this one's for 64 samples, measured in turns where it was made. Coded "
        "are the bytes that an entropy coder needs, positions of kept weights included.</p>"
    )


def _list_dense(dense: Figures) -> list[str]:
    test = format_metric(dense.get("test_metric", math.nan), dense.get("test_se", math.nan))
    value = [format_count(dense.get(name, math.nan)) for name in ("weights", "macs", "bytes")]
    coded = format_count(dense.get("coded_bytes", dense.get("bytes", math.nan)))
    cells = ["dense", test, format_metric(dense.get("val_metric", math.nan))]
    cells += [value[0], "1", "", value[1], "1", value[2], coded, "1"]
    return [f"<td>{cell}</td>" for cell in cells]


def _list_model(row: Figures, dense: Figures) -> list[str]:
    cells = [
        f"trial {row['number']:.0f}",
        format_metric(row["test_metric"], row["test_se"]),
        format_metric(row["val_metric"]),
    ]
    for name in ("weights", "macs"):
        cells += [format_count(row[name]), format_share(row[name], dense.get(name, math.nan))]
    cells.insert(5, format_count(row["masked_weights"]))
    speedup = row["speedup"]
    cells += [format_count(row["bytes"]), format_count(row["coded_bytes"])]
    cells += [f"{speedup:.2f}x" if math.isfinite(speedup) else ""]
    return [f"<td>{cell}</td>" for cell in cells]


def _explain_loading(content: Content) -> str:
    if not content.folders:
        return ""
    number, folder = next(iter(content.folders.items()))
    code = (
        "import autocompress\n\n"
        f"model = autocompress.load({folder!r})  # trial {number}: a plain torch module\n"
        "model.input_spec  # shape, mean and std of the input"
    )
    check = f"python -m autocompress evaluate {folder}{content.data_options}"
    others = [f"trial {number}: {folder}" for number, folder in content.folders.items()][1:]
    more = f"<pre>{escape(chr(10).join(others))}</pre>" if others else ""
    return (
        "<p>Load one, or test it again:</p>"
        f"<pre>{escape(code)}</pre><pre>{escape(check)}</pre>{more}"
    )


def _draw_pair(content: Content) -> str:
    front = draw_front(content.frame, direction=content.direction, dense=content.dense or None)
    images = [
        _embed(front, "Pareto front of validation metric against weights"),
        _embed(draw_annealing(content.frame), "Energy and temperature by decision"),
    ]
    captions = (
        "Each point is a candidate within its budgets; points far below the front are cut off.",
        "Energy is what the search minimises; dotted lines begin a round.",
    )
    return _pair(images, captions)


def _pair(images: Sequence[str], captions: Sequence[str]) -> str:
    figures = "".join(
        f'<figure>{image}<figcaption class="soft">{caption}</figcaption></figure>'
        for image, caption in zip(images, captions, strict=True)
    )
    return f'<div class="pair">{figures}</div>'


def _compare(content: Content) -> str:
    """Return the best finished model of each study, and their fronts and searches together."""
    direction = content.direction
    frames = {content.name: content.frame, **content.others}
    best = {
        name: next(iter(list_figures(find_finished(frame, direction))), {})
        for name, frame in frames.items()
    }
    rows = [_make_row("tr", [f"<th>{text}</th>" for text in COMPARED])]
    for name, row in best.items():
        metrics = [format_metric(row.get(key, math.nan)) for key in METRICS]
        counts = [format_count(row.get(key, math.nan)) for key in ("weights", "macs")]
        cells = [escape(name), *metrics, *counts]
        rows.append(_make_row("tr", [f"<td>{cell}</td>" for cell in cells]))
    found = pd.DataFrame([row for row in best.values() if row])
    if len(found) > 1:
        cells = [
            format_metric(float(found[key].mean()), float(found[key].std())) for key in METRICS
        ]
        cells += [format_count(float(found[key].mean())) for key in ("weights", "macs")]
        cells = ["mean ± standard deviation", *cells]
        rows.append(_make_row('tr class="dense"', [f"<td>{cell}</td>" for cell in cells]))
    images = [
        _embed(draw_fronts(frames, direction=direction, stage="fast"), "Fronts of all studies"),
        _embed(draw_band(frames), "Best energy by evaluations"),
    ]
    captions = (
        "Fronts of the estimates; the band spans lowest to highest at each size.",
        "A new round begins a new base model, whose energies are higher.",
    )
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>{_pair(images, captions)}'


def _draw_sensitivity(frame: pd.DataFrame) -> str:
    found = measure_sensitivity(frame)
    trials = int(found["trials"].max()) if len(found) else 0
    if not found["per_halving"].notna().any():
        return '<p class="soft">Too few different evaluations yet.</p>'
    explained = float(found["explained"].iloc[0])
    text = (
        f"Slopes of a ridge regression over {trials:,} evaluations of round "
        f"{int(found['round'].iloc[0]) + 1}, "
    )
    text += (
        f"which predicts {explained:.0%} of the variance of stretches left out."
        if explained > 0
        else "which predicts nothing of stretches left out: do not read anything into them."
    )
    rows = [_make_row("tr", [f"<th>{name}</th>" for name in SENSITIVITY_HEAD])]
    for row in found.head(MOST_LINES).itertuples():
        figures = (f"{row.per_halving:+.3g}", f"{row.correlation:+.2f}")
        seen = f"{row.lowest:.2g} to {row.highest:.2g}"
        cells = [escape(str(row.density)), *figures, seen]
        rows.append(_make_row("tr", [f"<td>{cell}</td>" for cell in cells]))
    return (
        f'<div class="pair">'
        f"<figure>{_embed(draw_slopes(found), 'Energy by halving of each density')}</figure>"
        f'<div class="scroll"><table>{"".join(rows)}</table></div></div>'
        f'<p class="soft">{text} Seen where the search went, not measured layer by layer; '
        "all of them: <code>autocompress sensitivity</code>.</p>"
    )


def _draw_layers(finished: Sequence[Figures], frame: pd.DataFrame, direction: Direction) -> str:
    # The front is ordered by size: its best metric is last.
    rows = finished or list_figures(find_best(frame, direction=direction).iloc[::-1])
    figures = []
    for row in rows[:MOST_MODELS]:
        densities = {
            name: value for name, value in row.items() if "/" in name and not math.isnan(value)
        }
        title = f"trial {row['number']:.0f}: {short_count(row['weights'])} weights"
        if densities:
            figures.append(f"<figure>{_embed(draw_densities(densities, title), title)}</figure>")
    if not figures:
        return '<p class="soft">No candidate yet.</p>'
    return (
        f'<div class="pair">{"".join(figures)}</div>'
        '<p class="soft">As the search chose them; purification may have removed more.</p>'
    )


def _embed(figure: Figure, text: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PNG_DPI)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{data}">'


def _make_section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _make_row(tag: str, cells: Sequence[str]) -> str:
    return f"<{tag}>{''.join(cells)}</tr>"


def format_metric(value: float, error: float = math.nan) -> str:
    """Return a metric with four decimals and, when there is one, its standard error."""
    if math.isnan(value):
        return "-"
    return f"{value:.4f}" if math.isnan(error) else f"{value:.4f} ± {error:.4f}"


def format_count(value: float) -> str:
    """Return a count with thousands separated, ``-`` when it is missing."""
    return "-" if math.isnan(value) else f"{value:,.0f}"


def format_share(value: float, dense: float) -> str:
    """Return ``value`` as a fraction of ``dense``, such as ``1/5``; ``-`` when unknown."""
    return f"1/{dense / value:.3g}" if value > 0 and dense > 0 else "-"
