from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.data.source import InputSpec
from autocompress.errors import ArtifactError, FormatError
from autocompress.graph.trace import trace_graph
from autocompress.shrink.compact import compact_model
from autocompress.store.artifacts import save_artifact
from autocompress.store.load import load
from autocompress.store.pack.header import open_header
from autocompress.store.pack.model import pack, unpack
from autocompress.store.pack.state import pack_state, unpack_state
from autocompress.store.tensors import have_equal_bits
from autocompress.zoo.make import ModelSettings
from tests.nets import SHAPES, draw_input, draw_masks, make_random
from tests.store.pack.forging import make_state


def make_stored(folder: Path, name: str = "digits_cnn", *, settings: str = "") -> nn.Module:
    """Return a smaller model as it comes from its folder, its weights of few values."""
    model = make_random(name)
    graph = trace_graph(model, draw_input(name))
    small = compact_model(model, graph, draw_masks(graph)).float()
    with torch.no_grad():
        for parameter in small.parameters():
            if parameter.ndim > 1:
                parameter.copy_((parameter * 8).round() / 8)
    save_artifact(
        folder,
        small,
        model_settings=ModelSettings(name=settings or name),
        input_shape=SHAPES[name],
        classes=10,
        input_spec=InputSpec(shape=SHAPES[name], mean=(0.5,), std=(0.25,)),
        metrics={"val_metric": 0.5},
    )
    return load(folder, factory=make_digits if settings else None)


def make_digits(shape: tuple[int, ...], classes: int) -> nn.Module:
    assert (shape, classes) == ((1, 8, 8), 10)
    return make_random("digits_cnn").float()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    return make_stored(tmp_path_factory.mktemp("model"))


@pytest.fixture
def path(model: nn.Module, tmp_path: Path) -> Path:
    pack(model, tmp_path / "model.acz", metrics={"val_metric": 0.5})
    return tmp_path / "model.acz"


@pytest.mark.parametrize("name", ["digits_cnn", pytest.param("lenet5", marks=pytest.mark.slow)])
def test_a_model_computes_the_same(name: str, tmp_path: Path) -> None:
    before = make_stored(tmp_path / "folder", name)

    size = pack(before, tmp_path / "new" / "model.acz")
    after = load(tmp_path / "new" / "model.acz")

    assert size == (tmp_path / "new" / "model.acz").stat().st_size
    inputs = draw_input(name).float()
    assert have_equal_bits(after(inputs).detach(), before(inputs).detach())
    assert not after.training
    assert after.input_spec == before.input_spec
    assert all(parameter.requires_grad for parameter in after.parameters())
    assert str(after) == str(before)


def test_a_loaded_model_is_packed_again_to_the_same_bytes(path: Path, tmp_path: Path) -> None:
    again = load(path)

    pack(again, tmp_path / "again.acz", metrics={"val_metric": 0.5})

    assert (tmp_path / "again.acz").read_bytes() == path.read_bytes()
    assert again.stored_record == load(path).stored_record


def test_tensors_come_back_without_a_model(path: Path, model: nn.Module) -> None:
    found = unpack(path)

    wanted = model.state_dict()
    assert list(found) == list(wanted)
    assert all(have_equal_bits(found[name], wanted[name]) for name in wanted)
    assert open_header(path.read_bytes())[0].meta["metrics"] == {"val_metric": 0.5}


@pytest.mark.parametrize("source", [make_state(), nn.Linear(3, 2)])
def test_a_state_alone_is_no_model(source: nn.Module | dict[str, Tensor], tmp_path: Path) -> None:
    pack(source, tmp_path / "state.acz")

    with pytest.raises(ArtifactError, match=r"state.acz: holds tensors and no model .*unpack"):
        load(tmp_path / "state.acz")
    state = source.state_dict() if isinstance(source, nn.Module) else source
    assert unpack(tmp_path / "state.acz").keys() == state.keys()


def test_a_model_of_ones_own_needs_its_factory(tmp_path: Path) -> None:
    before = make_stored(tmp_path / "folder", settings="mine:make")
    pack(before, tmp_path / "model.acz")

    with pytest.raises(ArtifactError, match="pass its factory"):
        load(tmp_path / "model.acz")
    after = load(tmp_path / "model.acz", factory=make_digits)

    inputs = draw_input("digits_cnn").float()
    assert torch.equal(after(inputs), before(inputs))


@pytest.mark.parametrize("name", ["model.acz", "model.bin"])
def test_what_is_no_file_of_ours_is_one_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"PK\3\4")

    for read in (unpack, load):
        with pytest.raises(FormatError, match=f"{name}: no .acz file"):
            read(path)


def test_a_missing_file_and_a_folder_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder.acz").mkdir()
    for name, words in (("none.acz", "No such file"), ("folder.acz", "directory")):
        for read in (unpack, load):
            with pytest.raises(ArtifactError, match=rf"{name}: cannot be read: .*{words}"):
                read(tmp_path / name)
    with pytest.raises(ArtifactError, match="cannot be written"):
        pack(make_state(), tmp_path / "folder.acz")
    assert [one.name for one in tmp_path.iterdir()] == ["folder.acz"]  # No draft is left.


def test_a_file_that_cannot_be_packed_leaves_the_old_one(path: Path) -> None:
    before = path.read_bytes()

    with pytest.raises(ArtifactError, match=r"cannot pack torch\.complex64"):
        pack({"w": torch.zeros(2, dtype=torch.complex64)}, path)

    assert path.read_bytes() == before


def test_figures_that_are_no_numbers_become_null(tmp_path: Path) -> None:
    pack({"w": torch.zeros(3)}, tmp_path / "a.acz", metrics={"a": float("nan"), "b": 0.5})

    meta = open_header((tmp_path / "a.acz").read_bytes())[0].meta
    assert meta["metrics"] == {"a": None, "b": 0.5}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model", None, "model"),
        ("model", {"name": 3, "options": {}}, "name"),
        ("model", {"name": "os:system", "options": {}}, "pass its factory"),
        ("model", {"name": "digits_cnn", "options": {"width": 10**9}}, "cannot be made|at most"),
        ("classes", "ten", "int"),
        ("classes", 10**12, "cannot be made|at most"),
        ("input_shape", ["eight"], "int"),
        ("input_spec", {}, "shape"),
        ("modules", {}, "model.acz: "),
        ("modules", {"conv1": {"kind": "conv"}}, "model.acz: "),
        ("modules", [], "model.acz: "),
        ("kind", "state", "holds tensors and no model"),
    ],
)
def test_a_record_from_anyone_is_checked(key: str, value: Any, words: str, path: Path) -> None:
    meta, state = unpack_state(path.read_bytes())
    path.write_bytes(pack_state(state, {**meta, key: value}))  # Its digests are right.

    with pytest.raises(ArtifactError, match=words):
        load(path)


def test_no_file_takes_more_memory_than_the_dense_model(path: Path) -> None:
    meta, state = unpack_state(path.read_bytes())
    path.write_bytes(pack_state({**state, "more": torch.zeros(10**6)}, meta))

    with pytest.raises(FormatError, match=r"more: the tensors take .* more than the"):
        load(path)
