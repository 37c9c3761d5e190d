"""The commands `pack`, `unpack`, `inspect`, `verify`, and `evaluate` of a compact file."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from autocompress.cli.packing import pack_source
from autocompress.data.source import InputSpec
from autocompress.store.artifacts import save_artifact
from autocompress.store.pack.model import pack
from autocompress.store.tensors import have_equal_bits
from autocompress.zoo.make import ModelSettings, make_model
from tests.cli.conftest import Commands
from tests.store.pack.forging import make_state


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    settings = ModelSettings(name="digits_cnn")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make_model(settings, (1, 8, 8), 10)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_((parameter * 16).round() / 16)
    save_artifact(
        folder,
        model,
        model_settings=settings,
        input_shape=(1, 8, 8),
        classes=10,
        input_spec=InputSpec(shape=(1, 8, 8), mean=(0.3,), std=(0.4,)),
        metrics={"val_metric": 0.9, "test_metric": 0.875},
    )
    return folder


@pytest.fixture(scope="module")
def packed(folder: Path) -> bytes:
    pack_source(folder, folder.with_name("packed.acz"), factory="")
    return folder.with_name("packed.acz").read_bytes()


@pytest.fixture
def file(packed: bytes, tmp_path: Path) -> Path:
    (tmp_path / "model.acz").write_bytes(packed)
    return tmp_path / "model.acz"


def test_a_folder_becomes_a_file_and_a_folder_again(
    folder: Path, file: Path, tmp_path: Path, commands: Commands
) -> None:
    shown = commands.run("unpack", str(file), str(tmp_path / "again"))

    assert shown.code == 0
    assert shown.out.endswith("tensors, bit for bit\n")
    for name in ("model.safetensors", "structure.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    metrics = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert metrics == {"val_metric": 0.9, "test_metric": 0.875}


def test_packing_twice_gives_the_same_bytes(
    folder: Path, file: Path, tmp_path: Path, commands: Commands
) -> None:
    shown = commands.run("pack", str(folder), str(tmp_path / "twice.acz"))

    assert shown.code == 0
    assert f"{file.stat().st_size:,} bytes" in shown.out
    assert "times fewer than float32" in shown.out
    assert (tmp_path / "twice.acz").read_bytes() == file.read_bytes()


def test_named_tensors_go_both_ways(tmp_path: Path, commands: Commands) -> None:
    state = make_state()
    save_file(state, tmp_path / "in.safetensors")

    packed = commands.run("pack", str(tmp_path / "in.safetensors"), str(tmp_path / "s.acz"))
    back = commands.run("unpack", str(tmp_path / "s.acz"), str(tmp_path / "new/out.safetensors"))

    assert (packed.code, back.code) == (0, 0)
    found = load_file(tmp_path / "new" / "out.safetensors")
    assert found.keys() == state.keys()
    assert all(have_equal_bits(found[name], state[name]) for name in state)


def test_a_file_is_evaluated_as_its_folder(folder: Path, file: Path, commands: Commands) -> None:
    figures = []
    for place in (folder, file):
        shown = commands.run("evaluate", str(place), "--json")
        assert shown.code == 0
        figures.append(json.loads(shown.out))

    assert figures[1].pop("bytes") == file.stat().st_size < figures[0].pop("bytes")
    assert figures[1].pop("artifact") == str(file)
    figures[0].pop("artifact")
    assert figures[1] == figures[0]


def test_inspect_shows_tensors_and_totals(file: Path, commands: Commands) -> None:
    shown = commands.run("inspect", str(file))
    plain = commands.run("inspect", str(file), "--json")

    survey = json.loads(plain.out)
    assert (shown.code, plain.code) == (0, 0)
    assert survey["file_bytes"] == file.stat().st_size
    assert all(line["name"] in shown.out for line in survey["tensors"])
    assert f"{survey['file_bytes']:,} bytes" in shown.out
    assert f"{survey['zstd_bytes']:,} bytes" in shown.out


def test_verify_tells_sound_from_damaged(file: Path, commands: Commands) -> None:
    sound = commands.run("verify", str(file))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    damaged = commands.run("verify", str(file))

    assert sound.code == 0
    assert "sound" in sound.out
    assert damaged.code == 1
    assert damaged.out == ""
    assert damaged.err == (
        f"error: {file}: damaged or cut off: its content does not match its digest\n"
    )


@pytest.mark.parametrize("command", ["verify", "inspect", "evaluate", "unpack"])
def test_what_is_no_file_of_ours_is_one_sentence(
    command: str, tmp_path: Path, commands: Commands
) -> None:
    (tmp_path / "text.acz").write_text("no tensors")
    more = [str(tmp_path / "out.safetensors")] if command == "unpack" else []

    for name in ("text.acz", "missing.acz"):
        shown = commands.run(command, str(tmp_path / name), *more)
        assert shown.code == 1
        assert shown.err.startswith("error: ")
        assert shown.err.count("\n") == 1
        assert name in shown.err


def test_a_wrong_name_is_told_before_anything_is_done(
    folder: Path, file: Path, tmp_path: Path, commands: Commands
) -> None:
    shown = commands.run("pack", str(folder), str(tmp_path / "model.zip"))
    assert (shown.code, "want a name ending in .acz" in shown.err) == (1, True)

    shown = commands.run("unpack", str(file), str(folder))
    assert (shown.code, "holds a model already" in shown.err) == (1, True)

    shown = commands.run("pack", str(tmp_path / "none"), str(tmp_path / "a.acz"))
    assert (shown.code, shown.err.startswith("error: ")) == (1, True)
    assert not (tmp_path / "a.acz").exists()


def test_a_name_of_anyone_is_shown_and_not_obeyed(tmp_path: Path, commands: Commands) -> None:
    file = tmp_path / "odd.acz"
    pack({"a\x1b[31mred[/red]": torch.zeros(3)}, file)

    shown = commands.run("inspect", str(file))

    assert shown.code == 0
    assert "a?[31mred[/red]" in shown.out
