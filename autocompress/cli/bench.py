"""The command that measures how much faster a finished model is."""

import json
from pathlib import Path
from typing import Annotated

import typer


def bench(
    artifact: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Folder of a finished model, or .acz file.")
    ],
    batch: Annotated[
        list[int] | None, typer.Option(help="Images of one call; may be given again. [1, 32]")
    ] = None,
    threads: Annotated[int, typer.Option(help="Inside one call; 0 leaves it to PyTorch.")] = 0,
    turns: Annotated[int, typer.Option(help="Measured calls of each model.")] = 15,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "cpu",
    factory: Annotated[
        str, typer.Option(help="package.module:function making the dense model, if not ours.")
    ] = "",
    *,
    onnx: Annotated[bool, typer.Option("--onnx", help="Measure in onnxruntime as well.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a finished model beside its dense one: size, MACs, bytes, time, speed-up."""
    from autocompress.cli.timing import print_bench
    from autocompress.evaluate.task import find_device
    from autocompress.store.bench import BenchSettings, bench_artifact
    from autocompress.zoo.make import import_callable

    settings = BenchSettings(
        batches=tuple(dict.fromkeys(batch or BenchSettings.batches)),
        threads=threads,
        turns=turns,
        with_onnx=onnx,
        device=find_device(device).type,
    )
    make = import_callable(factory, "--factory") if factory else None
    found = bench_artifact(artifact, settings, factory=make)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=1))
        return
    print_bench(found)
