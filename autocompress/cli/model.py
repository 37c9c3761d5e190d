"""The command about a finished model."""

import json
from pathlib import Path
from typing import Annotated

import typer

from autocompress.cli.screen import print_pairs


def evaluate(
    artifact: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Folder of a finished model, or .acz file.")
    ],
    data: Annotated[
        str, typer.Option("--data", help="Folder or .npz file of the data; digits need none.")
    ] = "",
    name: Annotated[
        str, typer.Option("--name", help="Data set, when its folder does not tell: mnist, ...")
    ] = "",
    factory: Annotated[
        str, typer.Option(help="package.module:function making the dense model, if not ours.")
    ] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Test a finished model: accuracy with its standard error, weights, levels, MACs, bytes."""
    from autocompress.cli.check import check_artifact
    from autocompress.cli.figures import list_totals, print_layers

    check = check_artifact(artifact, root=data, name=name, factory=factory, device=device)
    if as_json:
        typer.echo(json.dumps(check.to_json(), indent=1))
        return
    accuracy = f"{check.test_accuracy:.4f} ± {check.standard_error:.4f}"
    print_pairs(
        {
            "test accuracy": f"{accuracy} ({check.samples:,} samples of {check.data})",
            **list_totals(check.figures),
            "weights stored": f"{check.weights_stored:,}",
            "parameters": f"{check.params:,}",
            "MACs per sample": f"{check.macs:,}",
            "bytes on disk": f"{check.bytes:,}",
        }
    )
    print_layers(check.figures)
