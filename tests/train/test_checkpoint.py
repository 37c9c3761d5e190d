import copy
import hashlib
import io
import logging
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autocompress.errors import ArtifactError
from autocompress.train.checkpoint import (
    MAGIC,
    GlobalDraws,
    Keeper,
    Tensors,
    describe_start,
    name_tensors,
)

START = {"settings": {"epochs": 2.0}, "seed": 1}


@dataclass
class Box:
    """A part that holds a state."""

    state: dict[str, Any] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.state = state


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class Net(nn.Module):
    """A layer, its norm and a buffer that state dicts leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("scale", torch.ones(2), persistent=False)


def write_file(path: Path, state: dict[str, Any] | None = None) -> None:
    keeper = Keeper(path, seconds=0, clock=Clock())
    keeper.open(START, {"box": Box(state or {"count": 1})})
    keeper.write_when_due()


def save_plain(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_what_was_written_comes_back_with_its_bits(tmp_path: Path) -> None:
    values = torch.tensor([0.1, -0.0, float("nan"), float("inf")])
    state = {"a": values, "b": [1, 2.5, None, {"deep": (True, "text")}]}
    write_file(tmp_path / "x.ckpt", state)
    box = Box()

    assert Keeper(tmp_path / "x.ckpt").open(START, {"box": box})

    assert torch.equal(box.state["a"].view(torch.int32), values.view(torch.int32))
    assert box.state["b"] == state["b"]


def test_the_file_is_written_every_so_many_seconds_and_at_no_other_time(tmp_path: Path) -> None:
    path, clock, box = tmp_path / "deep" / "x.ckpt", Clock(now=100.0), Box({"count": 0})
    keeper = Keeper(path, seconds=10, clock=clock)
    keeper.open(START, {"box": box})
    stored: list[int] = []

    for count in range(35):
        box.state["count"], clock.now = count, 100.0 + count
        keeper.write_when_due()
        found = Box({"count": -1})
        Keeper(path).open(START, {"box": found})
        stored.append(found.state["count"])

    assert stored == [-1] * 10 + [10] * 10 + [20] * 10 + [30] * 5


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_a_time_that_never_comes_is_refused(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(ValueError, match="want 0 or more"):
        Keeper(tmp_path / "x.ckpt", seconds=seconds)


def test_no_damage_goes_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    write_file(path)
    whole = path.read_bytes()
    cuts = [whole[:size] for size in range(0, len(whole), 11)]
    flips = [
        whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
        for place in range(0, len(whole), 11)
    ]

    for data in [*cuts, *flips, whole + b"x"]:
        path.write_bytes(data)
        box = Box({"count": 7})
        with pytest.raises(ArtifactError, match=r"x\.ckpt: .*; delete it to begin"):
            Keeper(path).open(START, {"box": box})
        assert box.state == {"count": 7}


@pytest.mark.parametrize(
    "payload", [b"", b"text", pickle.dumps([1], protocol=2), save_plain([1]), save_plain({})]
)
def test_a_file_made_up_by_someone_is_refused(tmp_path: Path, payload: bytes) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(MAGIC + hashlib.sha256(payload).hexdigest().encode() + payload)

    with pytest.raises(ArtifactError, match="delete it to begin"):
        Keeper(path).open(START, {"box": Box()})


def make_foreign() -> list[bytes]:
    return [
        b"",
        b"hello",
        MAGIC.replace(b"1", b"2") + bytes(64),
        pickle.dumps({"start": START, "parts": {}}),
    ]


@pytest.mark.parametrize("data", make_foreign(), ids=range(4))
def test_a_foreign_file_is_refused_and_stays(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(data)

    with pytest.raises(ArtifactError, match="want a checkpoint of this version"):
        Keeper(path).open(START, {"box": Box()})

    assert path.read_bytes() == data


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot go on from this checkpoint"):
        Keeper(tmp_path).open(START, {"box": Box()})


class Harm:
    """Unpickled by a trusting reader, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, harmed = tmp_path / "x.ckpt", tmp_path / "harmed"
    monkeypatch.setattr("autocompress.train.checkpoint._check_plain", lambda value, place: None)
    write_file(path, {"count": Harm(harmed)})

    with pytest.raises(ArtifactError, match="delete it to begin"):
        Keeper(path).open(START, {"box": Box()})

    assert not harmed.exists()


@pytest.mark.parametrize(
    ("key", "start"),
    [
        ("", {**START, "seed": 2}),
        ("", {**START, "settings": {"epochs": 3.0}}),
        ("", {**START, "more": 1}),
        ("other data", START),
    ],
)
def test_another_training_ignores_the_file_until_it_writes(
    tmp_path: Path, key: str, start: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    path, clock, box = tmp_path / "x.ckpt", Clock(), Box({"count": 5})
    write_file(path)
    keeper = Keeper(path, key=key, seconds=1, clock=clock)

    with caplog.at_level(logging.INFO, logger="autocompress.train.checkpoint"):
        assert not keeper.open(start, {"box": box})

    assert box.state == {"count": 5}
    assert "of another training" in caplog.text
    assert Keeper(path).open(START, {"box": Box()})
    clock.now = 1.0
    keeper.write_when_due()
    assert Keeper(path, key=key).open(start, {"box": Box()})


def test_a_draft_is_never_read_and_goes_with_the_file(tmp_path: Path) -> None:
    path, draft = tmp_path / "x.ckpt", tmp_path / "x.ckpt.draft"
    write_file(path)
    draft.write_bytes(path.read_bytes()[:100])
    box = Box()
    keeper = Keeper(path)

    assert keeper.open(START, {"box": box})
    assert box.state == {"count": 1}

    keeper.clear()
    assert not list(tmp_path.iterdir())
    keeper.clear()


def test_who_reads_sees_the_old_file_or_the_new_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    write_file(path, {"count": 1})
    old = path.read_bytes()

    keeper = Keeper(path, key="other", seconds=0, clock=Clock())
    keeper.open(START, {"box": Box({"count": 2})})

    with path.open("rb", buffering=0) as reader:
        start = reader.read(10)
        keeper.write_when_due()
        rest = reader.read()

    assert start + rest == old
    assert path.read_bytes() != old


def test_a_cleared_keeper_writes_no_more(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "x.ckpt", seconds=0, clock=Clock())
    keeper.open(START, {"box": Box()})

    keeper.clear()
    keeper.write_when_due()

    assert not list(tmp_path.iterdir())


def test_a_disk_that_refuses_does_not_end_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "x.ckpt", Clock()
    keeper = Keeper(path, seconds=1, clock=clock)
    keeper.open(START, {"box": Box({"count": 3})})
    path.mkdir()  # A file cannot take the place of a folder, whoever asks.

    clock.now = 1.0
    keeper.write_when_due()

    assert "the training goes on, but cannot be kept" in caplog.text
    path.rmdir()
    keeper.write_when_due()
    assert not path.exists()
    clock.now = 2.0
    keeper.write_when_due()
    assert Keeper(path).open(START, {"box": Box()})


@pytest.mark.parametrize(
    "value", [torch.device("cpu"), {1, 2}, Path(), torch.tensor(1.0).numpy()[()]]
)
def test_a_state_that_could_not_be_read_again_is_refused_at_the_start(
    tmp_path: Path, value: object
) -> None:
    with pytest.raises(TypeError, match=r"checkpoint\.box\.a\.1: want tensors and plain values"):
        Keeper(tmp_path / "x.ckpt").open(START, {"box": Box({"a": [0, value]})})


def test_a_file_with_other_parts_is_refused(tmp_path: Path) -> None:
    write_file(tmp_path / "x.ckpt")

    with pytest.raises(ArtifactError, match="want the parts of this training"):
        Keeper(tmp_path / "x.ckpt").open(START, {"tin": Box()})


def test_the_start_is_known_by_every_tensor_of_the_model() -> None:
    net = Net()
    start = describe_start(net, {}, seed=1)

    assert describe_start(copy.deepcopy(net), {}, seed=1) == start
    assert describe_start(net, {}, seed=2) != start
    assert describe_start(net, {"epochs": 1}, seed=1) != start
    for name in name_tensors(net):
        other = copy.deepcopy(net)
        name_tensors(other)[name].add_(1)
        assert describe_start(other, {}, seed=1) != start
    other = copy.deepcopy(net)
    other.layer.bias.requires_grad = False
    assert describe_start(other, {}, seed=1) != start


def test_the_start_is_known_whatever_the_dtype_and_the_memory_order() -> None:
    net = nn.Conv2d(3, 4, 3)
    ordered = copy.deepcopy(net).to(memory_format=torch.channels_last)

    assert describe_start(ordered, {}) == describe_start(net, {})
    assert describe_start(net.to(torch.bfloat16), {}) != describe_start(ordered, {})


def test_tensors_are_set_in_place_with_the_buffers_that_state_dicts_leave_out() -> None:
    net, other = Net(), Net()
    other.get_buffer("scale").fill_(3)
    places = {name: tensor.data_ptr() for name, tensor in name_tensors(net).items()}

    Tensors(net).load_state_dict(Tensors(other).state_dict())

    for name, tensor in name_tensors(net).items():
        assert torch.equal(tensor, name_tensors(other)[name])
        assert tensor.data_ptr() == places[name]
    assert "scale" in places


def test_tensors_of_another_model_are_refused() -> None:
    with pytest.raises(ArtifactError, match="want the tensors of this model"):
        Tensors(nn.Linear(1, 3)).load_state_dict(Tensors(nn.Linear(2, 3)).state_dict())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_draws_go_on_where_they_were(device: str) -> None:
    torch.rand(3, device=device)
    state = copy.deepcopy(GlobalDraws().state_dict())
    expected = torch.rand(5, device=device)

    torch.rand(7, device=device)
    GlobalDraws().load_state_dict(state)

    assert torch.equal(torch.rand(5, device=device), expected)
