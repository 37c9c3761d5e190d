"""The commands about compact files."""

import json
from pathlib import Path
from typing import Annotated

import typer

from autocompress.cli.screen import print_pairs, print_table

_File = Annotated[Path, typer.Argument(metavar="FILE", help="Compact file, ending in .acz.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def pack(
    source: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="Folder of a finished model, or .safetensors file."),
    ],
    file: _File,
    factory: Annotated[
        str, typer.Option(help="package.module:function making the dense model, if not ours.")
    ] = "",
) -> None:
    """Write a finished model, or named tensors, as one compact lossless file."""
    from autocompress.cli.packing import pack_source

    size, dense = pack_source(source, file, factory=factory)
    typer.echo(f"{file}: {size:,} bytes, {dense / max(1, size):.1f} times fewer than float32")


def unpack(
    file: _File,
    target: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="New folder of the model, or a .safetensors file."),
    ],
    factory: Annotated[
        str, typer.Option(help="package.module:function making the dense model, if not ours.")
    ] = "",
) -> None:
    """Turn a compact file back into the folder of a finished model, or into safetensors."""
    from autocompress.cli.packing import unpack_file

    count = unpack_file(file, target, factory=factory)
    typer.echo(f"{target}: {count} tensors, bit for bit")


def inspect(file: _File, *, as_json: _Json = False) -> None:
    """Show what lies in a compact file: per tensor the bytes of each codec, and totals."""
    from autocompress.store.pack.survey import survey_file

    survey = survey_file(file)
    if as_json:
        typer.echo(json.dumps(survey.to_json(), indent=1))
        return
    codecs = list(dict.fromkeys(name for line in survey.tensors for name in line.by_codec))
    head = ["tensor", "shape", "non-zeros", "levels", "entropy", "book", *codecs, "stored"]
    rows = []
    for line in survey.tensors:
        sizes = [f"{line.by_codec[name]:,}" if name in line.by_codec else "" for name in codecs]
        mark = f" with {len(line.shared_with)} more" if line.shared_with else ""
        entropy = "" if line.entropy_bytes is None else f"{line.entropy_bytes:,.0f}"
        rows.append(
            [
                line.name,
                "x".join(map(str, line.shape)) or "1 value",
                f"{line.nonzeros:,}",
                "many" if line.levels is None else f"{line.levels:,}",
                entropy,
                f"{line.book_bytes:,}",
                *sizes,
                f"{line.codec}, {line.blob_bytes:,}{mark}",
            ]
        )
    print_table("bytes", head, rows)
    typer.echo()
    print_pairs(
        {
            "file": f"{survey.file_bytes:,} bytes, {survey.header_bytes:,} of them header",
            "float32": _compare(survey.dense_bytes, survey.file_bytes),
            "safetensors": _compare(survey.safetensors_bytes, survey.file_bytes),
            "safetensors + zstd": _compare(survey.zstd_bytes, survey.file_bytes),
        }
    )


def verify(file: _File) -> None:
    """Decode a compact file and compare every tensor with its digest."""
    from autocompress.store.pack.model import unpack as unpack_tensors

    tensors = unpack_tensors(file)
    values = sum(tensor.numel() for tensor in tensors.values())
    typer.echo(f"{file}: sound, {len(tensors)} tensors of {values:,} values")


def _compare(other: int, size: int) -> str:
    return f"{other:,} bytes, {other / max(1, size):.1f} times as many"
