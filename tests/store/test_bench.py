"""A bench says what a clock says: here one that is moved by the models themselves."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from autocompress.data.source import InputSpec
from autocompress.errors import ArtifactError, SettingError
from autocompress.store import bench as bench_module
from autocompress.store.artifacts import save_artifact
from autocompress.store.bench import Bench, BenchSettings, Line, bench_artifact
from autocompress.zoo.make import ModelSettings

SHAPE = (3, 6, 6)
WIDTH, KEPT = 8, 2
READING_S = 1e-6  # What each look at the clock takes.


class FakeClock:
    """Goes on when a model runs, and a little at each look."""

    now = 0.0
    threads: set[int] = set()  # noqa: RUF012 - of the whole test

    def __call__(self) -> float:
        FakeClock.now += READING_S
        return FakeClock.now


class Slow(nn.Module):
    """Takes as many milliseconds as it has filters, in channels_last half of it."""

    def __init__(self, width: int, factor: float = 1.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.head = nn.Linear(width, 5)
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            layout = torch.channels_last
            half = 0.5 if images.is_contiguous(memory_format=layout) else 1.0
            taken = self.conv.out_channels * half * self.factor * len(images)
            FakeClock.now += taken / 1000
            FakeClock.threads.add(torch.get_num_threads())
        return self.head(self.conv(images).mean((2, 3)))


def make_slow(shape: tuple[int, ...], classes: int) -> nn.Module:
    assert (shape, classes) == (SHAPE, 5)
    return Slow(WIDTH)


def make_fast(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Stand in for ``optimize``: ten times as fast as the model it is given."""
    assert isinstance(model, Slow)
    assert model.conv.out_channels == KEPT
    assert inputs.shape[1:] == SHAPE
    made = Slow(KEPT, factor=0.1)
    made.plan = SimpleNamespace(name="padded", layout="contiguous")  # type: ignore[assignment]
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slow")
    save_artifact(
        folder,
        Slow(KEPT),
        model_settings=ModelSettings(name="mine:make"),
        input_shape=SHAPE,
        classes=5,
        input_spec=InputSpec(shape=SHAPE, mean=(0.0,) * 3, std=(1.0,) * 3),
        metrics={},
    )
    return folder


def run_bench(folder: Path, settings: BenchSettings) -> Bench:
    return bench_artifact(
        folder, settings, factory=make_slow, optimize_model=make_fast, clock=FakeClock()
    )


@pytest.fixture(scope="module")
def found(folder: Path) -> Bench:
    return run_bench(folder, BenchSettings(batches=(1, 4), turns=3))


def test_sizes_are_those_of_the_two_models(found: Bench, folder: Path) -> None:
    for size, width in ((found.dense, WIDTH), (found.compact, KEPT)):
        weights = width * (27 + 5)
        assert size.params == weights + width + 5
        assert size.macs == width * (27 * 16 + 5)
    assert found.dense.bytes == 4 * found.dense.params
    assert found.compact.bytes == (folder / "model.safetensors").stat().st_size


@dataclass(frozen=True)
class Wanted:
    ms: float
    speedup: float


WANTED = {
    ("dense", "NCHW"): Wanted(8.0, 0.5),
    ("dense", "channels_last"): Wanted(4.0, 1.0),
    ("compact", "NCHW"): Wanted(2.0, 2.0),
    ("compact", "channels_last"): Wanted(1.0, 4.0),
    ("optimised", "NCHW"): Wanted(0.2, 20.0),
}


@pytest.mark.parametrize("place", [0, 1])
def test_speed_is_told_over_the_faster_layout_of_the_dense_model(place: int, found: Bench) -> None:
    one = found.batches[place]
    fewer = WIDTH / KEPT

    assert one.batch == (1, 4)[place]
    assert [(line.model, line.layout) for line in one.lines] == [*WANTED]
    for line in one.lines:
        wanted = WANTED[line.model, line.layout]
        assert len(line.timing.seconds) == 3
        assert 1000 * line.timing.median_s == pytest.approx(wanted.ms * one.batch, abs=0.01)
        assert line.speedup.factor == pytest.approx(wanted.speedup, rel=0.01)
        assert line.share == pytest.approx(wanted.speedup / fewer, rel=0.01)
        assert line.runtime == "PyTorch"
        assert line.way == ("padded" if line.model == "optimised" else "")


def test_a_bench_is_json_with_all_times(found: Bench) -> None:
    record = json.loads(json.dumps(found.to_json()))

    line = record["batches"][1]["lines"][2]
    assert (line["model"], line["layout"]) == ("compact", "NCHW")
    assert line["timing"]["seconds"] == [*found.batches[1].lines[2].timing.seconds]
    assert record["dense"]["macs"] == found.dense.macs


def test_calls_run_on_the_threads_asked_for(folder: Path) -> None:
    before = torch.get_num_threads()
    FakeClock.threads.clear()

    found = run_bench(folder, BenchSettings(batches=(2,), threads=before + 1, turns=1))

    # The size is measured before, on any number of threads.
    assert found.threads == before + 1
    assert FakeClock.threads == {before, before + 1}
    assert torch.get_num_threads() == before


def test_onnxruntime_is_compared_with_itself_on_the_same_threads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    asked: list[int] = []
    ran: list[tuple[int, ...]] = []

    def open_slowly(_: bytes, *, threads: int) -> Callable[[Tensor], Tensor]:
        asked.append(threads)
        factor = len(asked)  # The dense model is opened first.

        def run(images: Tensor) -> Tensor:
            ran.append(tuple(images.shape))
            FakeClock.now += 0.006 / factor
            return images

        return run

    monkeypatch.setattr(bench_module, "open_onnx", open_slowly)
    found = run_bench(folder, BenchSettings(batches=(2,), turns=2, with_onnx=True))

    lines = [line for line in found.batches[0].lines if line.runtime == "onnxruntime"]
    assert asked == [found.threads] * 2
    assert set(ran) == {(2, *SHAPE)}
    assert [(line.model, line.layout) for line in lines] == [
        ("dense", "NCHW"),
        ("compact", "NCHW"),
    ]
    assert [line.speedup.factor for line in lines] == [
        pytest.approx(1.0),
        pytest.approx(2.0, rel=0.01),
    ]
    torch_lines: list[Line] = [one for one in found.batches[0].lines if one not in lines]
    assert [line.speedup.factor for line in torch_lines] == [
        pytest.approx(one.speedup, rel=0.01) for one in WANTED.values()
    ]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"batches": ()}, "batch: want 1 or more images"),
        ({"batches": (4, 0)}, "batch: want 1 or more images"),
        ({"threads": -1}, "want 0 or more threads and 1 or more turns, got -1 and 15"),
        ({"turns": 0}, "got 0 and 0"),
        ({"with_onnx": True, "device": "cuda"}, "onnx: it is measured on the cpu only"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object], text: str) -> None:
    with pytest.raises(SettingError, match=text):
        BenchSettings(**wrong)  # type: ignore[arg-type]


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no finished model lies here"):
        bench_artifact(tmp_path, BenchSettings())
