"""Commands that read a study."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from autocompress.cli.screen import open_console, print_pairs
from autocompress.errors import SettingError

Study = Annotated[
    str,
    typer.Argument(metavar="STUDY", help="Name of a study, or the settings file it began with."),
]
Studies = Annotated[
    list[str],
    typer.Argument(
        metavar="STUDY", help="Names of studies, such as of other seeds, or settings files."
    ),
]
Storage = Annotated[
    str,
    typer.Option(
        "--storage",
        metavar="URL",
        help="Database: postgresql://USER@HOST/DATABASE or a SQLite file. If empty, that of "
        "AUTOCOMPRESS_STORAGE, or of the file that AUTOCOMPRESS_STORAGE_FILE names, or "
        "runs/NAME/study.db.",
    ),
]
Stage = Annotated[
    str, typer.Option("--stage", help="Only these trials: fast, round or full; empty for all.")
]
FrontStage = Annotated[
    str,
    typer.Option(
        "--stage",
        help="Only these trials: models (round and full), fast, round, full; all for every one.",
    ),
]
STAGES = ("models", "fast", "round", "full", "all")


def status(study: Study, storage: Storage = "") -> None:
    """Say how far a search is and who works on it, from any machine."""
    from autocompress.cli.find import find_study
    from autocompress.cli.tables import list_status

    print_pairs(list_status(find_study(study, storage), datetime.now(UTC)))


def pareto(
    studies: Studies,
    storage: Storage = "",
    objectives: Annotated[
        str, typer.Option(help="Columns to trade against each other, with commas between.")
    ] = "val_metric,weights",
    stage: FrontStage = "models",
    csv: Annotated[Path | None, typer.Option(help="Write the rows as CSV.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write the rows as Parquet.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the rows as JSON.")] = None,
    png: Annotated[
        Path | None, typer.Option(help="Draw the front; of several studies their mean and range.")
    ] = None,
) -> None:
    """Show the trials on the Pareto front, or write them to files."""
    from autocompress.cli.tables import (
        find_studies,
        list_fronts,
        print_trials,
        write_plot,
        write_rows,
    )

    names = [name.strip() for name in objectives.split(",") if name.strip()]
    chosen = check_stage(stage)
    found = find_studies(studies, storage)
    rows = list_fronts(found, names, chosen)
    print_trials(f"Pareto front of {', '.join(found)}: {' and '.join(names)}", rows)
    for path, kind in ((csv, "csv"), (parquet, "parquet"), (json, "json")):
        if path is not None:
            write_rows(rows, path, kind)
    if png is not None:
        write_plot(png, found, names, chosen)


def sensitivity(
    study: Study,
    storage: Storage = "",
    round_number: Annotated[
        int | None, typer.Option("--round", help="The round, from 0; the last one if empty.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the rows as CSV.")] = None,
) -> None:
    """Show what the evaluations say about each layer: how the energy went with its densities."""
    from autocompress.cli.find import find_study
    from autocompress.cli.tables import print_sensitivity, write_rows
    from autocompress.report.sensitivity import sensitivity_frame

    rows = sensitivity_frame(find_study(study, storage).study, round_number)
    print_sensitivity(study, rows)
    if csv is not None:
        write_rows(rows, csv, "csv")


def select(
    study: Study,
    storage: Storage = "",
    max_macs: Annotated[float | None, typer.Option(help="Most MACs per sample.")] = None,
    max_weights: Annotated[float | None, typer.Option(help="Most weights.")] = None,
    max_params: Annotated[float | None, typer.Option(help="Most parameters.")] = None,
    max_bytes: Annotated[float | None, typer.Option(help="Most bytes.")] = None,
    max_coded_bytes: Annotated[
        float | None, typer.Option(help="Most bytes once entropy coded.")
    ] = None,
    max_latency: Annotated[
        float | None, typer.Option(help="Most microseconds for one batch.")
    ] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(help="Worst validation accuracy, 0 to 1.")
    ] = None,
    stage: Stage = "",
) -> None:
    """Show the best trial within limits: a finished model if there is one."""
    from autocompress.cli.find import find_study
    from autocompress.cli.tables import print_selected

    wanted = {"macs": max_macs, "weights": max_weights, "params": max_params, "bytes": max_bytes}
    wanted |= {"coded_bytes": max_coded_bytes, "latency": max_latency}
    limits = {name: limit for name, limit in wanted.items() if limit is not None}
    found = find_study(study, storage)
    print_selected(found, limits=limits, worst_metric=min_accuracy, stage=check_stage(stage))


def report(
    studies: Studies,
    storage: Storage = "",
    output: Annotated[
        Path | None, typer.Option(help="File to write; report.html in the run folder if empty.")
    ] = None,
) -> None:
    """Write one HTML page: front, annealing trace, layers, finished models.

    Of several studies, the page is about the first one and compares it with the others.
    """
    from autocompress.cli.results import write_report
    from autocompress.cli.tables import find_studies

    found = find_studies(studies, storage)
    first, *others = found
    path = write_report(found[first], output, {name: found[name] for name in others})
    open_console().print(str(path), markup=False)


def check_stage(text: str) -> str | None:
    """Return the stage called ``text``, None for all or when it is empty.

    Raises:
        SettingError: There is no such stage.
    """
    if text and text not in STAGES:
        raise SettingError(f"--stage: want one of {', '.join(STAGES)}, got {text!r}")
    return None if text in {"", "all"} else text
