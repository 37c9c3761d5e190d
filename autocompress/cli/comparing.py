"""What the comparing command does; loads torch and Optuna."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import optuna
import pandas as pd
import typer

from autocompress.cli.progress import show_progress
from autocompress.cli.screen import open_console, print_pairs, print_table
from autocompress.cli.work import INTERRUPTED
from autocompress.report.comparison import (
    Row,
    describe_run,
    make_runs_frame,
    read_peers,
)
from autocompress.report.comparison_page import (
    SHORT_HEAD,
    draw_comparison,
    list_hypervolumes,
    list_sentences,
    list_tables,
    write_markdown,
)
from autocompress.report.page import format_metric
from autocompress.search.compare import (
    Compared,
    Comparison,
    iterate_runs,
    plan_comparison,
    read_result,
)
from autocompress.search.spec import find_outputs

NAMES = {"csv": "compare.csv", "md": "compare.md", "png": "compare.png"}


def compare_arms(
    compared: Compared,
    *,
    seeds: Sequence[int],
    arms: Sequence[str],
    peers: Sequence[Path],
    again: str,
) -> None:
    """Run what is missing of a comparison, then write and show its tables.

    They also hold what earlier calls ran of other arms and seeds.

    Args:
        compared: The settings.
        seeds: To be run instead of theirs; empty takes theirs.
        arms: Only these are run; empty takes all.
        peers: Files with rows of other tools.
        again: The command that goes on after Ctrl-C.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    comparison = plan_comparison(compared, seeds=seeds, arms=arms)
    whole = plan_whole(compared, comparison) if seeds or arms else comparison
    others = read_peers(peers, whole)  # Before hours of work: a row may be wrong.
    rows: list[Row] = []
    is_done = True
    try:
        with show_progress() as update:
            for run, result in iterate_runs(comparison.runs, update):
                is_done = result.done
                if result.done:
                    rows.append(describe_run(run, result, comparison.dense))
                    _tell_run(
                        rows[-1], len(rows), len(comparison.runs), stored=not result.evaluated
                    )
    except KeyboardInterrupt:
        text = f"stopped; every finished evaluation is stored; go on with: {again}"
        open_console(stderr=True).print(text, markup=False)
        raise typer.Exit(INTERRUPTED) from None
    rows = gather_rows(whole, rows)
    if rows or others:
        if whole.reference not in {row["arm"] for row in rows}:
            whole = replace(whole, reference=comparison.reference)
        show_comparison(make_runs_frame([*rows, *others]), whole)
    if not is_done:
        open_console().print(f"The time is over; go on with: {again}", markup=False)


def plan_whole(compared: Compared, comparison: Comparison) -> Comparison:
    """Return all of ``compared`` of which ``comparison`` is a choice of arms and seeds."""
    seeds = dict.fromkeys((*compared.compare.seeds, *comparison.seeds))
    return plan_comparison(compared, seeds=tuple(seeds))


def gather_rows(whole: Comparison, rows: Sequence[Row]) -> list[Row]:
    """Return ``rows`` and those of other runs that are done, in the order of ``whole``."""
    known = {row["study"]: row for row in rows}
    for run in whole.runs:
        if run.settings.name not in known and (result := read_result(run.settings)):
            known[run.settings.name] = describe_run(run, result, whole.dense)
    return [known[one] for one in (run.settings.name for run in whole.runs) if one in known]


def show_comparison(frame: pd.DataFrame, comparison: Comparison) -> None:
    """Write table, page and picture into the run folder, and print the tables."""
    folder = find_outputs(comparison.settings)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: folder / name for kind, name in NAMES.items()}
    frame.to_csv(paths["csv"], index=False)
    draw_comparison(frame, comparison).savefig(paths["png"], dpi=160)
    page = write_markdown(frame, comparison, paths["png"].name)
    paths["md"].write_text(page, encoding="utf-8")
    console = open_console()
    sentences = list_sentences(frame, comparison)
    words = f"{comparison.settings.task.metric}, reference {comparison.reference}"
    for budget, (_, rows) in list_tables(frame, comparison).items():
        print_table(f"Budget {budget}: {words}", SHORT_HEAD, rows)
        console.print(f"{sentences[budget]}\n", markup=False)
    head, rows = list_hypervolumes(frame, comparison)
    if rows:
        print_table("All budgets", head, rows)
        console.print()
    print_pairs(
        {"runs": str(paths["csv"]), "tables": str(paths["md"]), "figure": str(paths["png"])}
    )


def _tell_run(row: Row, place: int, total: int, *, stored: bool) -> None:
    metric = format_metric(row.get("test_metric", float("nan")))
    found = "stored" if stored else "done"
    text = f"{place}/{total}  {row['study']}: {found}, test metric {metric}"
    open_console(stderr=True).print(text, markup=False)
