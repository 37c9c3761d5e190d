"""The command that compresses one model without a search."""

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from autocompress.cli.screen import open_console
from autocompress.cli.search import Override, SettingsFile

BELOW = 3  # Exit code: done, but a step lost the wanted metric.


def compress(
    settings: SettingsFile,
    override: Override = None,
    packed: Annotated[
        Path | None, typer.Option("--pack", metavar="FILE.acz", help="Also write a compact file.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compress one model by the steps of its settings; the same again resumes or is done."""
    from autocompress.cli.figures import list_totals, print_layers
    from autocompress.cli.packing import check_name, pack_source
    from autocompress.cli.screen import print_pairs
    from autocompress.evaluate.compress import CompressSettings, PhaseReport
    from autocompress.evaluate.compress import compress as run
    from autocompress.settings import read_settings
    from autocompress.zoo.make import is_known

    chosen = read_settings(CompressSettings, settings, override or ())
    if packed is not None:
        check_name(packed, "--pack")  # Before anything is trained.
    console = open_console(stderr=as_json)

    status = console.status("")

    def show(report: PhaseReport) -> None:
        figures = report.metrics
        if not figures:  # It begins: a line that goes away, and only on a terminal.
            status.update(f"{report.number}/{report.phases}  {report.title} ...")
            return
        kept = f"{int(figures['weights']):>9,} weights  " if "weights" in figures else " " * 19
        console.print(
            f"{report.number:>2}/{report.phases}  {report.title:<51} {kept}"
            f"validation {figures['val_metric']:.4f}",
            markup=False,
        )

    with status:
        status.update("data and dense model ...")
        done = run(chosen, watch=show)
        made_by = "" if is_known(chosen.task.model.name) else chosen.task.model.name
        size = pack_source(done.folder, packed, factory=made_by)[0] if packed is not None else None
    if as_json:
        record: dict[str, Any] = {"folder": str(done.folder), "reached": done.reached}
        record |= {"metrics": done.metrics, "packed_bytes": size}
        typer.echo(json.dumps(record, indent=1))
    else:
        print_layers(done.weights)
        console.print()
        print_pairs(list_totals(done.weights))
        accuracy = f"{done.metrics['test_metric']:.4f}"
        lines = [f"test {chosen.task.metric} {accuracy}, read once", f"model: {done.folder}"]
        lines += [] if size is None else [f"packed: {packed}, {size:,} bytes"]
        check = name_check(done.folder, data=chosen.task.data.root, factory=made_by)
        for line in (*lines, f"check it: {check}"):
            console.print(line, markup=False)
    if not done.reached:
        console.print(
            f"a step fell below method.worst_metric = {chosen.method.worst_metric}; this is the "
            "last model that holds it",
            markup=False,
        )
        raise typer.Exit(BELOW)


def name_check(folder: Path, *, data: str, factory: str) -> str:
    """Return the command that tests the model in ``folder``.

    Args:
        folder: A finished model.
        data: Where the data are; empty for the digits.
        factory: Who makes the dense model; empty for one of ours.
    """
    words = ["autocompress", "evaluate", str(folder)]
    words += ["--data", data] if data else []
    words += ["--factory", factory] if factory else []
    return shlex.join(words)
