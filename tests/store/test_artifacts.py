import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from autocompress.data.source import InputSpec
from autocompress.errors import ArtifactError
from autocompress.graph.trace import trace_graph
from autocompress.jobs import hash_json
from autocompress.masks.mask import close_masks, full_masks
from autocompress.shrink.compact import compact_model
from autocompress.store import artifacts
from autocompress.store.artifacts import load, measure_dense, save_artifact
from autocompress.store.tensors import encode_tensors
from autocompress.zoo.make import ModelSettings, make_model
from tests.nets import SHAPES, draw_input, draw_masks, make_random, randomise_

SPEC = InputSpec(shape=(1, 8, 8), mean=(0.5,), std=(0.25,))


def make_compact(name: str) -> nn.Module:
    model = make_random(name)
    graph = trace_graph(model, draw_input(name))
    return compact_model(model, graph, draw_masks(graph)).float()


def save(folder: Path, model: nn.Module, name: str = "digits_cnn") -> None:
    save_artifact(
        folder,
        model,
        model_settings=ModelSettings(name=name),
        input_shape=SHAPES.get(name, (1, 8, 8)),
        classes=10,
        input_spec=SPEC,
        metrics={"val_metric": 0.5, "test_metric": float("nan")},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "model", make_compact("digits_cnn"))
    return tmp_path / "model"


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the record and sign it again, as an attacker would."""
    path = folder / "structure.json"
    record = json.loads(path.read_text())
    del record["record_sha256"]
    change(record)
    record["record_sha256"] = hash_json(record)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("name", ["digits_cnn", "lenet5", "resnet20", "torchvision:mobilenet_v2"])
def test_a_loaded_model_computes_the_same(name: str, tmp_path: Path) -> None:
    model = make_compact(name)

    save(tmp_path / "a" / "b", model, name)
    loaded = load(tmp_path / "a" / "b")

    inputs = draw_input(name).float()
    assert torch.equal(loaded(inputs), model(inputs))
    assert not loaded.training
    assert loaded.input_spec == SPEC
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert str(loaded) == str(model)


def test_metrics_are_for_people(folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())

    assert metrics == {"val_metric": 0.5, "test_metric": None}


def test_saving_again_replaces_all_files(folder: Path) -> None:
    model = make_random("digits_cnn").float()

    save(folder, model)

    inputs = draw_input("digits_cnn").float()
    assert torch.equal(load(folder)(inputs), model(inputs))
    assert sorted(path.name for path in folder.iterdir()) == [
        "metrics.json",
        "model.safetensors",
        "structure.json",
    ]


def test_loading_draws_no_random_numbers(folder: Path) -> None:
    before = torch.random.get_rng_state()

    load(folder)

    assert torch.equal(torch.random.get_rng_state(), before)


def make_own(shape: tuple[int, ...], classes: int, width: int = 6) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(shape[0], width, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(width * (shape[1] - 2) * (shape[2] - 2), classes),
    )


def test_a_factory_outside_the_zoo_is_passed_and_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "stranger.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(package)
    model = randomise_(make_own((1, 8, 8), 10)).float()
    save(tmp_path, model, "stranger:make_own")

    with pytest.raises(ArtifactError, match="pass its factory"):
        load(tmp_path)
    loaded = load(tmp_path, factory=make_own)

    inputs = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded(inputs), model(inputs))


def test_another_factory_is_refused(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="different layers"):
        load(folder, factory=make_own)


@pytest.mark.parametrize("name", ["model.safetensors", "structure.json"])
def test_a_truncated_or_missing_file_is_refused(name: str, folder: Path) -> None:
    path = folder / name
    data = path.read_bytes()

    for length in (0, 1, 7, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ArtifactError, match=name):
            load(folder)
    path.unlink()
    with pytest.raises(ArtifactError, match=name):
        load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "structure.json"])
def test_a_flipped_bit_is_refused(name: str, folder: Path) -> None:
    path = folder / name
    data = path.read_bytes()

    for place in range(0, len(data), len(data) // 40):
        flipped = bytearray(data)
        flipped[place] ^= 4
        path.write_bytes(flipped)
        if name == "structure.json" and not data[place : place + 1].strip():
            continue  # White space between values may change to other white space.
        with pytest.raises(ArtifactError):
            load(folder)


def set_to(*keys: str, value: object) -> Callable[[dict[str, Any]], object]:
    def change(record: dict[str, Any]) -> None:
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = value

    return change


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "another version": set_to("version", value=3),
    "the version of encodings": set_to("version", value=2),
    "another format": set_to("format", value="onnx"),
    "a path as a layer": set_to("modules", "../../etc/passwd", value={"kind": "conv"}),
    "an attribute as a layer": set_to("modules", "conv1.__class__", value={"kind": "norm"}),
    "a huge layer": set_to("modules", "conv2", "filters", value=2**60),
    "a negative layer": set_to("modules", "conv2", "filters", value=-1),
    "a layer of no integer size": set_to("modules", "conv2", "filters", value=1.5),
    "a layer of another kind": set_to("modules", "conv2", "kind", value="linear"),
    "a layer without a size": lambda record: record["modules"]["conv1"].pop("filters"),
    "a missing layer": lambda record: record["modules"].pop("conv1"),
    "modules that are no dict": set_to("modules", value=[1]),
    "another model": set_to("model", "name", value="lenet5"),
    "a module to import": set_to("model", "name", value="os:system"),
    "a path to import": set_to("model", "name", value="../evil:main"),
    "unknown options": set_to("model", "options", value={"evil": 1}),
    "huge options": set_to("model", "options", value={"width": 10**9}),
    "huge classes": set_to("classes", value=10**12),
    "classes that overflow": set_to("classes", value=10**30),
    "negative classes": set_to("classes", value=-1),
    "a huge input": set_to("input_shape", value=[10**9, 8, 8]),
    "an empty input": set_to("input_shape", value=[]),
    "no input": lambda record: record.pop("input_shape"),
    "a spec of text": set_to("input_spec", value="evil"),
    "a spec with more keys": set_to("input_spec", "shape", value={"a": 1}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_record_is_refused(case: str, folder: Path) -> None:
    rewrite(folder, HOSTILE[case])

    with pytest.raises(ArtifactError):
        load(folder)


def test_a_column_out_of_range_is_refused(tmp_path: Path) -> None:
    model = make_compact("digits_cnn")
    columns = dict(model.named_buffers())["conv2.columns"]
    columns[-1] = 2**30

    save(tmp_path, model)

    with pytest.raises(ArtifactError, match="conv2: columns"):
        load(tmp_path)


def test_a_key_that_appears_twice_is_refused(folder: Path) -> None:
    path = folder / "structure.json"
    path.write_text(path.read_text().replace("{", '{"version": 1, ', 1))

    with pytest.raises(ArtifactError, match="twice"):
        load(folder)


def test_a_pickle_is_not_read(folder: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1)}, folder / "model.safetensors")

    with pytest.raises(ArtifactError, match="does not match"):
        load(folder)


def make_lenet(units: tuple[int, int, int], kept: int) -> nn.Module:
    """Return Caffe's LeNet-5 of fewer units with so many random non-zero weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make_model(ModelSettings(name="lenet5"), (1, 28, 28), 10)
    graph = trace_graph(model, torch.zeros(1, 1, 28, 28))
    masks = full_masks(graph)
    for group, count in zip(graph.groups, (*units, 10), strict=True):
        masks.units[group.start + count : group.start + group.size] = False
    model = compact_model(model, graph, close_masks(graph, masks))
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    generator = torch.Generator().manual_seed(0)
    places = torch.randperm(sum(weight.numel() for weight in weights), generator=generator)[:kept]
    flat = torch.zeros(sum(weight.numel() for weight in weights))
    flat[places] = torch.randn(kept, generator=generator)
    with torch.no_grad():
        for weight, part in zip(weights, flat.split([w.numel() for w in weights]), strict=True):
            weight.copy_(part.reshape(weight.shape))
    return model.eval()


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    save(tmp_path / "sparse", make_lenet((12, 25, 150), 1_750), "lenet5")
    return tmp_path / "sparse"


def count_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_few_nonzero_weights_make_a_small_artifact(sparse: Path) -> None:
    model = make_lenet((12, 25, 150), 1_750)

    state = load(sparse).state_dict()

    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    # 7,000 bytes of values, some 1,900 of places, 700 of biases, 800 of names and shapes.
    assert (sparse / "model.safetensors").stat().st_size < 10_700
    assert count_bytes(sparse) < 13_500


@pytest.mark.parametrize(("levels", "most"), [([-1.0, 1.0], 60_000), ([-1.0, 0.0, 1.0], 92_000)])
def test_few_values_make_a_small_artifact(levels: list[float], most: int, tmp_path: Path) -> None:
    model = make_model(ModelSettings(name="lenet5"), (1, 28, 28), 10).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in (one for one in model.parameters() if one.ndim > 1):
            chosen = torch.randint(len(levels), weight.shape, generator=generator)
            weight.copy_(torch.tensor(levels)[chosen] * weight.abs().mean())

    save(tmp_path, model, "lenet5")

    inputs = torch.randn(2, 1, 28, 28, generator=generator)
    assert torch.equal(load(tmp_path)(inputs), model(inputs))
    assert count_bytes(tmp_path) < most


def test_a_model_without_gain_is_stored_as_before(folder: Path) -> None:
    model = make_compact("digits_cnn")
    record = json.loads((folder / "structure.json").read_text())

    assert (folder / "model.safetensors").read_bytes() == safetensors.torch.save(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    )
    assert record["version"] == 1
    assert "encodings" not in record


ENCODED_HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "no encodings": lambda record: record.pop("encodings"),
    "an older version": set_to("version", value=1),
    "fewer encodings": lambda record: record["encodings"].pop("fc1.weight"),
    "an encoding of a dense tensor": lambda record: record["encodings"].update(
        {"fc2.bias": record["encodings"]["fc1.weight"]}
    ),
    "another shape": set_to("encodings", "fc1.weight", "shape", value=[400, 150]),
    "another dtype": set_to("encodings", "fc1.weight", "dtype", value="int32"),
    "more values than the dense model has": set_to(
        "encodings", "fc1.weight", "shape", value=[431_081 - 59_999]
    ),
    "encodings of text": set_to("encodings", value="evil"),
}


@pytest.mark.parametrize("case", ENCODED_HOSTILE)
def test_a_hostile_encoding_is_refused(case: str, sparse: Path) -> None:
    rewrite(sparse, ENCODED_HOSTILE[case])

    with pytest.raises(ArtifactError, match=str(sparse)):
        load(sparse)


def test_what_cannot_be_read_again_is_not_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def encode_wrongly(state: dict[str, Tensor]) -> Any:
        return encode_tensors({name: tensor * 2 for name, tensor in state.items()})

    monkeypatch.setattr(artifacts, "encode_tensors", encode_wrongly)
    with pytest.raises(ArtifactError, match="nothing was written"):
        save(folder, make_lenet((12, 25, 150), 1_750), "lenet5")

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_sizes_of_the_dense_model_need_no_weights(sparse: Path) -> None:
    (sparse / "model.safetensors").unlink()

    sizes = measure_dense(sparse)

    assert sum(sizes.values()) == 431_080
    assert sizes["fc1.weight"] == 400_000
