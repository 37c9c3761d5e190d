"""Export what a command line names."""

from pathlib import Path

import torch

from autocompress.data.source import InputSpec
from autocompress.errors import ArtifactError, SettingError
from autocompress.store.export import INPUT, LIMIT, OPSET, OUTPUT, export_onnx, export_torch
from autocompress.store.load import load
from autocompress.zoo.make import import_callable

ONNX, TORCH = ".onnx", ".pt2"


def export_artifact(artifact: Path, file: Path, *, batch: str, factory: str) -> dict[str, str]:
    """Export a finished model.

    Args:
        artifact: Its folder, or a compact file.
        file: What to write; its suffix says the format.
        batch: Images of one call, or ``any``.
        factory: ``package.module:function`` that makes the dense model; else empty.

    Returns:
        What was written, by what it says.

    Raises:
        ArtifactError: The model is missing or damaged, or the file cannot be written.
        ExportError: The model cannot be exported, or computes something else there.
        SettingError: The suffix or the batch is none of ours.
    """
    if file.suffix not in {ONNX, TORCH}:
        raise SettingError(f"OUT: want a name ending in {ONNX} or {TORCH}, got {file.name!r}")
    count = _read_batch(batch)
    make = import_callable(factory, "--factory") if factory else None
    model = load(artifact, factory=make)
    spec = getattr(model, "input_spec", None)
    if not isinstance(spec, InputSpec):
        raise ArtifactError(f"{artifact}: the model says nothing about its input")
    example = torch.zeros(count or 1, *spec.shape)
    write = export_onnx if file.suffix == ONNX else export_torch
    gap = write(model, example, file, any_batch=not count)
    shape = ", ".join(map(str, (count or "any", *spec.shape)))
    wide = {"file": f"{file}, {file.stat().st_size:,} bytes"}
    if file.suffix == ONNX:
        wide |= {
            "input": f"{INPUT}: float32 ({shape}), normalised; how is in the metadata",
            "output": OUTPUT,
            "opset": str(OPSET),
            "runs in": "onnxruntime 1.18 or newer, and whatever else reads this opset",
        }
        return {**wide, **_tell_gap(gap, "onnxruntime")}
    return {
        **wide,
        "input": f"float32 ({shape}), normalised; how is in the file input_spec.json",
        "runs in": f"PyTorch {torch.__version__}, without autocompress: "
        "torch.export.load(FILE).module()",
        **_tell_gap(gap, "PyTorch"),
    }


def _tell_gap(gap: float, runtime: str) -> dict[str, str]:
    limit = f"{LIMIT:.0e} is allowed"
    return {"difference": f"{gap:.1e} of the largest score in {runtime}; {limit}"}


def _read_batch(text: str) -> int:
    """Return the number of images; 0 for any."""
    if text == "any":
        return 0
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise SettingError(f"--batch: want a number above 0, or any, got {text!r}")
    return int(text)
