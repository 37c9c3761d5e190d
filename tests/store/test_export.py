"""Exported models compute what the model computes, need nothing of ours, or are not written."""

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.data.source import InputSpec
from autocompress.errors import ArtifactError, ExportError
from autocompress.shrink.columns import ColumnConv2d, make_column_layer
from autocompress.store import export
from autocompress.store.export import export_onnx, export_torch

onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")

IMAGE = (3, 12, 11)
# Runs a .pt2 where our package cannot be imported.
LOADER = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "autocompress":
            raise ImportError(name)

sys.meta_path.insert(0, Block())
import torch

program = torch.export.load(sys.argv[1]).module()
inputs = torch.load(sys.argv[2])
torch.save(program(inputs), sys.argv[3])
assert "autocompress" not in sys.modules
"""


def keep_some(layer: nn.Module, density: float, seed: int) -> nn.Module:
    """Return ``layer`` with columns drawn by ``seed``."""
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    generator = torch.Generator().manual_seed(seed)
    columns = layer.weight.flatten(1).shape[1]
    return make_column_layer(layer, torch.rand(columns, generator=generator) < density)


def keep_channels(conv: nn.Conv2d, channels: list[int]) -> nn.Module:
    """Return ``conv`` with all columns of some channels and no others."""
    kept = torch.zeros(conv.in_channels, conv.kernel_size[0] * conv.kernel_size[1])
    kept[channels] = 1
    made = make_column_layer(conv, kept.flatten() > 0)
    assert isinstance(made, ColumnConv2d)
    assert made.whole_channels
    return made


class EveryForm(nn.Module):
    """Column layers of each form, batch norms, a shortcut and a column-compact classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = keep_some(nn.Conv2d(3, 8, 3, padding=1), 0.5, 1)
        self.norm = nn.BatchNorm2d(8)
        self.strided = keep_some(nn.Conv2d(8, 6, (3, 2), stride=(2, 1), padding=(1, 0)), 0.3, 2)
        self.same = keep_some(nn.Conv2d(6, 6, 3, padding="same", dilation=(2, 1)), 0.3, 3)
        reflect = nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect", bias=False)
        self.reflect = keep_some(reflect, 0.3, 4)
        self.whole = keep_channels(nn.Conv2d(6, 5, 3, padding=1, stride=2), [1, 4])
        self.plain = nn.Conv2d(5, 5, 1)
        self.classifier = keep_some(nn.Linear(5, 10), 0.6, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.strided(self.norm(self.stem(images)).relu())
        maps = self.plain(self.whole(maps + self.same(maps) * self.reflect(maps)))
        return self.classifier(maps.mean((2, 3)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = EveryForm()
        made.norm(torch.randn(64, 8, 4, 4) * 3 + 1)  # Statistics that are not 0 and 1.
        made.input_spec = InputSpec(  # type: ignore[assignment]
            shape=IMAGE, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0)
        )
    return made.eval()


@pytest.fixture(scope="module")
def exported(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    gap = export_onnx(model, torch.zeros(1, *IMAGE), folder / "model.onnx")
    assert 0 <= gap < 1e-5
    gap = export_torch(model, torch.zeros(1, *IMAGE), folder / "model.pt2")
    assert 0 <= gap < 1e-6
    return folder


def run_onnx(path: Path, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["scores"], {"images": images.numpy()})[0])


def run_torch(path: Path, images: Tensor) -> Tensor:
    return torch.export.load(path).module()(images)


FORMATS = [
    pytest.param(export_onnx, run_onnx, "model.onnx", id="onnx"),
    pytest.param(export_torch, run_torch, "model.pt2", id="torch"),
]
Runner = Callable[[Path, Tensor], Tensor]


@pytest.mark.parametrize(("_", "run", "name"), FORMATS)
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_file_computes_what_the_model_does(
    _: object, run: Runner, name: str, batch: int, model: nn.Module, exported: Path
) -> None:
    images = torch.randn(batch, *IMAGE, generator=torch.Generator().manual_seed(batch)) * 4

    with torch.no_grad():
        torch.testing.assert_close(run(exported / name, images), model(images))


def test_an_onnx_file_is_one_valid_file_of_weights_and_plain_operators(
    model: nn.Module, exported: Path
) -> None:
    proto = onnx.load(exported / "model.onnx", load_external_data=False)

    onnx.checker.check_model(proto, full_check=True)
    assert [(one.domain, one.version) for one in proto.opset_import] == [("", export.OPSET)]
    assert {node.domain for node in proto.graph.node} == {""}
    assert [one.name for one in proto.graph.input] == ["images"]
    assert [one.name for one in proto.graph.output] == ["scores"]
    # The indices of column layers are made by the runtime, not stored.
    values = sum(int(np.prod(one.dims)) for one in proto.graph.initializer)
    assert values < 2 * sum(one.numel() for one in model.state_dict().values()) + 2000


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_a_file_names_no_file_of_this_machine(name: str, exported: Path) -> None:
    data = (exported / name).read_bytes()

    for place in (torch.__file__, export.__file__, __file__):
        assert str(Path(place).parent).encode() not in data


def test_a_file_says_how_an_image_becomes_an_input(exported: Path) -> None:
    session = onnxruntime.InferenceSession(str(exported / "model.onnx"))
    found = session.get_modelmeta().custom_metadata_map["input_spec"]
    extra = {"input_spec.json": ""}
    torch.export.load(exported / "model.pt2", extra_files=extra)

    assert json.loads(found) == {
        "shape": list(IMAGE),
        "mean": [0.1, 0.2, 0.3],
        "std": [1.0, 2.0, 3.0],
    }
    assert json.loads(extra["input_spec.json"]) == json.loads(found)


def test_a_pt2_file_runs_without_this_package(
    model: nn.Module, exported: Path, tmp_path: Path
) -> None:
    images = torch.randn(4, *IMAGE, generator=torch.Generator().manual_seed(3))
    torch.save(images, tmp_path / "images.pt")
    files = [str(exported / "model.pt2"), str(tmp_path / "images.pt"), str(tmp_path / "out.pt")]

    subprocess.run([sys.executable, "-I", "-c", LOADER, *files], check=True, timeout=60)

    with torch.no_grad():
        torch.testing.assert_close(torch.load(tmp_path / "out.pt"), model(images))


class EveryPadding(nn.Module):
    """One column layer of each way to fill the border, even kernels included."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            keep_some(nn.Conv2d(2, 3, (3, 4), padding="same", padding_mode=mode), 0.4, 7)
            for mode in ("zeros", "reflect", "replicate", "circular")
        )

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([layer(images) for layer in self.layers], 1)


@pytest.mark.parametrize(("write", "run", "name"), FORMATS)
def test_every_padding_is_exported(
    write: Callable[..., float], run: Runner, name: str, tmp_path: Path
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = EveryPadding()
    images = torch.randn(2, 2, 6, 5, generator=torch.Generator().manual_seed(1))

    write(model, images, tmp_path / name)

    with torch.no_grad():
        torch.testing.assert_close(run(tmp_path / name, images), model(images))


@pytest.mark.parametrize(("write", "run", "name"), FORMATS)
def test_a_model_of_one_batch_size_is_exported_for_it_alone(
    write: Callable[..., float], run: Runner, name: str, tmp_path: Path
) -> None:
    class Fixed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.reshape(3, -1).sum(1, keepdim=True)

    example = torch.zeros(3, 2, 4)
    with pytest.raises(ExportError, match=r"a fixed size may do: any_batch=False, or --batch 1"):
        write(Fixed(), example, tmp_path / name)
    assert not list(tmp_path.iterdir())

    write(Fixed(), example, tmp_path / name, any_batch=False)

    images = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(run(tmp_path / name, images), Fixed()(images))
    with pytest.raises(Exception, match=r"(?s)Expected|expect"):
        run(tmp_path / name, images[:2])


class Moody(nn.Module):
    """Computes something else from the second call on, as a wrong exporter would."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return images * self.factor
        return images * 1.0


@pytest.mark.parametrize(
    ("write", "name", "factor", "is_fine"),
    [
        (export_torch, "model.pt2", 1 + 5e-5, True),
        (export_torch, "model.pt2", 1 + 3e-4, False),
        (export_torch, "model.pt2", float("nan"), False),
        (export_onnx, "model.onnx", 1 + 3e-4, False),
    ],
)
def test_a_file_is_replaced_only_by_an_equal_one(
    write: Callable[..., float],
    name: str,
    factor: float,
    is_fine: bool,
    tmp_path: Path,
) -> None:
    (tmp_path / name).write_bytes(b"older")

    if is_fine:
        assert write(Moody(factor), torch.zeros(2, 3), tmp_path / name) == pytest.approx(
            factor - 1, rel=0.1
        )
        assert (tmp_path / name).read_bytes() != b"older"
    else:
        with pytest.raises(ExportError, match=r"differs from the model by .* want at most 1e-04"):
            write(Moody(factor), torch.zeros(2, 3), tmp_path / name)
        assert (tmp_path / name).read_bytes() == b"older"
    assert [one.name for one in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(("write", "_", "name"), FORMATS)
def test_what_cannot_be_exported_is_one_sentence(
    write: Callable[..., float],
    _: object,
    name: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Choosy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images if float(images.sum()) > 1 else -images

    with pytest.raises(ExportError, match=r"^the model cannot be exported: [^\n]+$"):
        write(Choosy(), torch.zeros(2, 3), tmp_path / name)
    with pytest.raises(
        ExportError, match=r"want an example of shape \(samples, ...\), got \(3,\)"
    ):
        write(Choosy(), torch.zeros(3), tmp_path / name)

    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("write", "_", "name"), FORMATS)
def test_a_model_is_left_as_it_was_and_nothing_is_said(
    write: Callable[..., float],
    _: object,
    name: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Dropout(0.5))
    before = {key: value.clone() for key, value in model.state_dict().items()}

    write(model, torch.zeros(1, 1, 4, 4), tmp_path / name)

    assert all(one.training for one in model.modules())
    assert all(one.requires_grad for one in model.parameters())
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert capfd.readouterr() == ("", "")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ArtifactError, match="cannot be written"):
        export_torch(nn.ReLU(), torch.zeros(2, 3), tmp_path / "file" / "model.pt2")


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_says_what_to_install(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, package: str | None = None) -> Any:
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return importlib.import_module(name, package)

    monkeypatch.setattr(export, "import_module", refuse)

    with pytest.raises(ExportError, match=rf"{missing} is not .*pip install 'autocompress\[exp"):
        export_onnx(nn.ReLU(), torch.zeros(2, 3), tmp_path / "model.onnx")
    export_torch(nn.ReLU(), torch.zeros(2, 3), tmp_path / "model.pt2")

    assert [one.name for one in tmp_path.iterdir()] == ["model.pt2"]


@pytest.mark.parametrize(
    "backend",
    [
        "eager",
        "aot_eager",
        pytest.param(
            "inductor",
            marks=[
                pytest.mark.slow,
                pytest.mark.timeout(600),
                pytest.mark.filterwarnings("default"),
                pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler"),
            ],
        ),
    ],
)
def test_a_compact_model_compiles_in_one_graph(backend: str, model: nn.Module) -> None:
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)

    for batch in (2, 3):
        images = torch.randn(batch, *IMAGE, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-5)
