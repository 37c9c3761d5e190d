import json
from pathlib import Path

import numpy as np
import pytest

from autocompress.errors import FormatError
from autocompress.store.pack.container import read_container
from autocompress.store.pack.model import pack
from autocompress.store.pack.survey import Survey, measure_entropy_bytes, survey_file
from tests.store.pack import coding
from tests.store.pack.forging import make_state


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "state.acz"
    pack(make_state(), path, metrics={"val_metric": 0.5})
    return path


@pytest.fixture(scope="module")
def survey(path: Path) -> Survey:
    return survey_file(path)


def test_lines_are_those_of_the_tensors(survey: Survey) -> None:
    state = make_state()

    assert [line.name for line in survey.tensors] == list(state)
    for line, tensor in zip(survey.tensors, state.values(), strict=True):
        assert line.shape == tuple(tensor.shape)
        assert f"torch.{line.dtype}" == str(tensor.dtype)
        assert line.entries == tensor.numel()
        if line.name != "same":  # -0.0 counts: its bits are not all 0.
            assert line.nonzeros == int(tensor.count_nonzero())
        if line.levels is not None:
            assert line.levels == len(tensor.unique())
        assert line.codec in line.by_codec or line.shared_with
    assert next(one for one in survey.tensors if one.name == "same").nonzeros == 6


def test_bytes_add_up(survey: Survey, path: Path) -> None:
    data = path.read_bytes()
    sections = read_container(data)[1]
    blobs = {frozenset((one.name, *one.shared_with)): one.blob_bytes for one in survey.tensors}

    assert survey.file_bytes == len(data)
    assert survey.header_bytes + len(sections[1]) + sum(blobs.values()) == len(data)
    assert survey.dense_bytes == 4 * sum(one.entries for one in survey.tensors)
    assert survey.zstd_bytes < survey.safetensors_bytes
    assert survey.meta["metrics"] == {"val_metric": 0.5}


def test_tensors_of_one_blob_name_each_other(survey: Survey) -> None:
    lines = {line.name: line for line in survey.tensors}
    for line in survey.tensors:
        assert line.name not in line.shared_with
        assert all(line.name in lines[other].shared_with for other in line.shared_with)
    assert any(line.shared_with for line in survey.tensors)


def test_the_chosen_codec_is_the_smallest_of_a_tensor_alone(tmp_path: Path) -> None:
    tensor = make_state()["fc.weight"]
    pack({"w": tensor}, tmp_path / "one.acz")

    (line,) = survey_file(tmp_path / "one.acz").tensors

    own = {name: size for name, size in line.by_codec.items() if name != "bytes"}
    assert line.blob_bytes == min(own.values()) == own[line.codec]
    assert line.entropy_bytes is not None
    assert line.entropy_bytes < own["bits"]


def test_figures_are_plain_values(survey: Survey) -> None:
    again = json.loads(json.dumps(survey.to_json()))

    assert again["file_bytes"] == survey.file_bytes
    assert len(again["tensors"]) == len(survey.tensors)


def test_entropy_is_that_of_the_shares() -> None:
    given = coding.draw((40, 50), 16, 0.8)

    assert measure_entropy_bytes(given) == pytest.approx(coding.measure_entropy(given))
    even = coding.number(np.arange(256).repeat(2), (512,))
    assert measure_entropy_bytes(even) == 512
    assert measure_entropy_bytes(coding.number(np.zeros(9, np.int64), (9,))) == 0
    assert measure_entropy_bytes(coding.number(np.zeros(0, np.int64), (0,))) == 0


def test_a_damaged_file_is_named(path: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.acz"
    damaged.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(FormatError, match=r"damaged\.acz: damaged or cut off"):
        survey_file(damaged)
    with pytest.raises(FormatError, match="more than the 10 allowed"):
        survey_file(path, most_bytes=10)
