"""The command that hands a finished model to another runtime."""

from pathlib import Path
from typing import Annotated

import typer

from autocompress.cli.screen import print_pairs


def export(
    artifact: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Folder of a finished model, or .acz file.")
    ],
    file: Annotated[
        Path, typer.Argument(metavar="OUT", help="File to write: .onnx, or .pt2 for PyTorch.")
    ],
    batch: Annotated[str, typer.Option(help="Images of one call: a number, or any.")] = "any",
    factory: Annotated[
        str, typer.Option(help="package.module:function making the dense model, if not ours.")
    ] = "",
) -> None:
    """Write a finished model as ONNX or .pt2, once it was run there and gave the same scores."""
    from autocompress.cli.exporting import export_artifact

    print_pairs(export_artifact(artifact, file, batch=batch, factory=factory))
