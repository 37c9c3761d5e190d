from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from autocompress.cli.packing import pack_source, unpack_file
from autocompress.data.source import InputSpec
from autocompress.errors import ArtifactError, SettingError
from autocompress.store.artifacts import save_artifact
from autocompress.store.load import load
from autocompress.store.pack.model import unpack
from autocompress.store.pack.state import pack_state, unpack_state
from autocompress.zoo.make import ModelSettings


def make_tiny(shape: tuple[int, ...], classes: int) -> torch.nn.Module:
    """Return a model of one's own."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(shape[1] * shape[2], classes))


FACTORY = f"{__name__}:{make_tiny.__name__}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_artifact(
        tmp_path / "model",
        make_tiny((1, 2, 3), 4),
        model_settings=ModelSettings(name="mine:make"),
        input_shape=(1, 2, 3),
        classes=4,
        input_spec=InputSpec(shape=(1, 2, 3), mean=(0.0,), std=(1.0,)),
        metrics={"val_metric": 0.123456789, "test_metric": float("nan"), "seconds": 3.0},
    )
    return tmp_path / "model"


@pytest.fixture
def file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("autocompress.cli.packing.import_callable", lambda *_: make_tiny)
    size, dense = pack_source(folder, tmp_path / "model.acz", factory=FACTORY)
    assert (size, dense) == ((tmp_path / "model.acz").stat().st_size, 4 * (6 * 4 + 4))
    return tmp_path / "model.acz"


def test_a_model_of_ones_own_goes_both_ways(folder: Path, file: Path, tmp_path: Path) -> None:
    assert unpack_file(file, tmp_path / "again", factory=FACTORY) == 2

    before, after = (load(place, factory=make_tiny) for place in (folder, tmp_path / "again"))
    inputs = torch.rand(3, 1, 2, 3)
    assert torch.equal(before(inputs), after(inputs))
    assert after.stored_record == before.stored_record


def test_without_its_factory_it_is_refused(folder: Path, file: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="--factory"):
        pack_source(folder, tmp_path / "b.acz", factory="")
    with pytest.raises(ArtifactError, match="--factory"):
        unpack_file(file, tmp_path / "again", factory="")
    assert unpack_file(file, tmp_path / "w.safetensors", factory="") == 2


def test_accuracies_go_with_the_model(file: Path) -> None:
    meta = unpack_state(file.read_bytes())[0]

    assert meta["metrics"] == {"val_metric": 0.123457}


def test_tensors_without_a_model_make_no_folder(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(3, 2)}, tmp_path / "in.safetensors")
    assert pack_source(tmp_path / "in.safetensors", tmp_path / "s.acz", factory="")[1] == 24
    assert torch.equal(unpack(tmp_path / "s.acz")["w"], torch.zeros(3, 2))

    with pytest.raises(SettingError, match=r"holds tensors and no model; want OUT\.safetensors"):
        unpack_file(tmp_path / "s.acz", tmp_path / "out", factory="")
    assert not (tmp_path / "out").exists()


def test_a_damaged_source_is_named(tmp_path: Path) -> None:
    (tmp_path / "in.safetensors").write_bytes(b"\xff" * 20)

    for name in ("in.safetensors", "none.safetensors"):
        with pytest.raises(ArtifactError, match=f"{name}: cannot be read"):
            pack_source(tmp_path / name, tmp_path / "s.acz", factory="")


@pytest.mark.parametrize("metrics", [[1], "good", {"val_metric": [1]}, {"a": {"b": "c"}}, None])
def test_figures_from_anyone_are_shown_or_left_out(
    metrics: Any, file: Path, tmp_path: Path
) -> None:
    meta, state = unpack_state(file.read_bytes())
    file.write_bytes(pack_state(state, {**meta, "metrics": metrics}))

    assert unpack_file(file, tmp_path / "again", factory=FACTORY) == 2
