"""The command `bench`: its tables, its JSON, and what it refuses."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autocompress.cli.timing import print_bench
from autocompress.deploy.measure import Timing, compare_times
from autocompress.store import bench as bench_module
from autocompress.store.bench import BatchBench, Bench, BenchSettings, Line, Runtime, Size
from tests.cli.conftest import Commands
from tests.store.saving import save_digits_model

MODELS = ("dense", "compact", "optimised")


def make_line(model: str, runtime: Runtime, seconds: float, dense_s: float) -> Line:
    timing = Timing(seconds=(seconds, 1.1 * seconds, 1.2 * seconds, 1.3 * seconds, 2 * seconds))
    factor = dense_s / seconds
    dense = Timing(seconds=tuple(factor * one for one in timing.seconds))
    return Line(
        model=model,
        runtime=runtime,
        layout="channels_last",
        way="padded to 16, channels_last, one form" if model == "optimised" else "",
        timing=timing,
        speedup=compare_times(dense, timing),
        share=factor / 4,
    )


def make_bench(settings: BenchSettings) -> Bench:
    """Return large figures, those of VGG-16 on a slow machine."""
    batches = []
    for batch in settings.batches:
        seconds = 0.4 * batch
        lines = [
            make_line(name, "PyTorch", seconds / (place + 1), seconds)
            for place, name in enumerate(MODELS)
        ]
        if settings.with_onnx:
            lines += [make_line(name, "onnxruntime", seconds, seconds) for name in MODELS[:2]]
        batches.append(BatchBench(batch=batch, lines=tuple(lines)))
    return Bench(
        dense=Size(params=138_357_544, macs=15_470_264_320, bytes=553_430_176),
        compact=Size(params=34_589_386, macs=3_867_566_080, bytes=138_357_544),
        threads=settings.threads,
        batches=tuple(batches),
    )


def test_tables_are_read_at_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_bench(make_bench(BenchSettings(batches=(1, 128), threads=16, with_onnx=True)))

    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    rows = [" ".join(line.split()) for line in lines]
    assert "params 138,357,544 34,589,386 4.0x" in rows
    assert "1 image at a time, 16 threads" in lines
    assert "128 images at a time, 16 threads" in lines
    # 400 ms of the dense model, 1.2 times as much in the median.
    assert "dense channels_last 480 440 to 520 1.00x" in rows
    assert "compact channels_last 240 220 to 260 2.00x 50%" in rows
    assert "optimised channels_last 160 147 to 173 3.00x 75%" in rows
    assert sum(row.startswith("onnx compact ") for row in rows) == 2
    assert sum("padded to 16" in line for line in lines) == 2
    assert any("share of the 4.0x fewer MACs" in line for line in lines)


@pytest.mark.parametrize(
    ("dense_s", "shown"),
    [
        (0.000_041_26, "0.041 0.041 to 0.041"),
        (0.001_234_5, "1.23 1.23 to 1.23"),
        (0.033_333, "33.3 33.3 to 33.3"),
        (0.999_96, "1,000 1,000 to 1,000"),
        (61.4, "61,400 61,400 to 61,400"),
    ],
)
def test_times_have_three_digits(
    dense_s: float, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    timing = Timing(seconds=(dense_s,))
    line = replace(
        make_line("dense", "PyTorch", 1.0, 1.0),
        timing=timing,
        speedup=compare_times(timing, timing),
    )
    found = make_bench(BenchSettings(batches=(1,)))

    print_bench(replace(found, batches=(BatchBench(batch=1, lines=(line,)),)))

    rows = [" ".join(row.split()) for row in capsys.readouterr().out.splitlines()]
    assert f"dense channels_last {shown} 1.00x" in rows


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ([], BenchSettings()),
        (
            ["--batch", "8", "--batch", "2", "--batch", "8", "--threads", "3", "--turns", "4"],
            BenchSettings(batches=(8, 2), threads=3, turns=4),
        ),
        (["--onnx"], BenchSettings(with_onnx=True)),
    ],
)
def test_options_say_what_is_measured(
    options: list[str],
    wanted: BenchSettings,
    tmp_path: Path,
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[Path, BenchSettings, Mapping[str, Any]]] = []

    def stand_in(path: Path, settings: BenchSettings, **more: Any) -> Bench:
        asked.append((path, settings, more))
        return make_bench(settings)

    monkeypatch.setattr(bench_module, "bench_artifact", stand_in)

    shown = commands.run("bench", str(tmp_path), *options, "--json")

    assert (shown.code, shown.err) == (0, "")
    assert asked == [(tmp_path, wanted, {"factory": None})]
    assert json.loads(shown.out) == json.loads(json.dumps(make_bench(wanted).to_json()))


def test_a_stored_model_is_measured(tmp_path: Path, commands: Commands) -> None:
    folder = save_digits_model(tmp_path / "model")

    options = ("--batch", "2", "--turns", "1", "--threads", "1", "--json")
    shown = commands.run("bench", str(folder), *options)

    assert (shown.code, shown.err) == (0, "")
    found = json.loads(shown.out)
    assert found["dense"]["params"] == found["compact"]["params"]  # Nothing was removed.
    assert found["dense"]["macs"] == found["compact"]["macs"]
    (one,) = found["batches"]
    assert {line["model"] for line in one["lines"]} == set(MODELS)
    assert all(min(line["timing"]["seconds"]) > 0 for line in one["lines"])


def test_wrong_arguments_are_one_sentence(tmp_path: Path, commands: Commands) -> None:
    shown = commands.run("bench", str(tmp_path), "--batch", "0")
    assert (shown.code, shown.err) == (1, "error: batch: want 1 or more images, got [0]\n")

    shown = commands.run("bench", str(tmp_path / "none"))
    assert shown.code == 1
    assert "no finished model lies here" in shown.err
