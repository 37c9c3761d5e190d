"""The command `export`: what it writes, says and refuses."""

from pathlib import Path

import pytest
import torch

from autocompress.store.load import load
from autocompress.store.pack.model import pack
from tests.cli.conftest import Commands
from tests.store.saving import save_digits_model

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_digits_model(tmp_path_factory.mktemp("model"))


def test_a_folder_becomes_onnx_for_any_batch(
    folder: Path, tmp_path: Path, commands: Commands
) -> None:
    file = tmp_path / "new" / "model.onnx"

    shown = commands.run("export", str(folder), str(file))

    assert (shown.code, shown.err) == (0, "")
    said = dict(line.split("  ", 1) for line in shown.out.splitlines())
    assert said.keys() == {"file", "input", "output", "opset", "runs in", "difference"}
    assert f"{file}, {file.stat().st_size:,} bytes" in said["file"]
    assert "(any, 1, 8, 8)" in said["input"]
    assert "onnxruntime" in said["runs in"]
    session = onnxruntime.InferenceSession(str(file))
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    with torch.no_grad():
        wanted = load(folder)(images)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_compact_file_becomes_pt2_for_one_batch(
    folder: Path, tmp_path: Path, commands: Commands
) -> None:
    pack(load(folder), tmp_path / "model.acz")
    file = tmp_path / "model.pt2"

    shown = commands.run("export", str(tmp_path / "model.acz"), str(file), "--batch", "3")

    assert (shown.code, shown.err) == (0, "")
    assert "(3, 1, 8, 8)" in shown.out
    assert f"PyTorch {torch.__version__}" in shown.out
    images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = load(folder)(images)
        torch.testing.assert_close(torch.export.load(file).module()(images), wanted)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["model.zip"], "OUT: want a name ending in .onnx or .pt2, got 'model.zip'"),
        (["model.onnx", "--batch", "0"], "--batch: want a number above 0, or any, got '0'"),
        (["model.onnx", "--batch", "all"], "--batch: want a number above 0, or any, got 'all'"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_done(
    arguments: list[str], text: str, tmp_path: Path, commands: Commands
) -> None:
    shown = commands.run("export", str(tmp_path / "none"), *arguments)

    assert (shown.code, shown.out, shown.err) == (1, "", f"error: {text}\n")


def test_a_missing_model_is_one_sentence(tmp_path: Path, commands: Commands) -> None:
    shown = commands.run("export", str(tmp_path / "none"), str(tmp_path / "model.onnx"))

    assert shown.code == 1
    assert shown.err.startswith(f"error: {tmp_path / 'none'}: no finished model lies here")
    assert not list(tmp_path.iterdir())
