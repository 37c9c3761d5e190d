"""The commands about compact files."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from autocompress.cli.screen import open_console, print_pairs, print_table

_BEST = 4  # Codecs shown of each tensor; JSON has all.
_WIDE = 140  # Columns of a terminal that shows them.

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
    head = ("tensor", "shape", "non-zeros", "levels", "entropy", "book", "stored", "smallest")
    console = open_console()
    wide = not console.is_terminal or console.width >= _WIDE
    rows, blobs = [], {}
    for line in survey.tensors:
        sizes = sorted((size, name) for name, size in line.by_codec.items())
        members = (line.name, *line.shared_with)
        blobs[frozenset(members)] = (f"{len(members)} by {line.codec}", line.blob_bytes)
        rows.append(
            (
                make_plain(line.name),
                "x".join(map(str, line.shape)) or "1 value",
                f"{line.nonzeros:,}",
                "many" if line.levels is None else f"{line.levels:,}",
                "" if line.entropy_bytes is None else f"{line.entropy_bytes:,.0f}",
                f"{line.book_bytes:,}",
                line.codec,
                ", ".join(f"{name} {size:,}" for size, name in sizes[:_BEST]),
            )
        )
    width = len(head) if wide else len(head) - 1
    print_table("", head[:width], [row[:width] for row in rows])
    typer.echo()
    print_table(
        "", ("tensors together", "bytes"), [(text, f"{size:,}") for text, size in blobs.values()]
    )
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


def make_plain(name: str) -> str:
    """Return a name of anyone without what a terminal, or rich, would obey."""
    return escape("".join(sign if sign.isprintable() else "?" for sign in name))


def _compare(other: int, size: int) -> str:
    return f"{other:,} bytes, {other / max(1, size):.1f} times as many"
